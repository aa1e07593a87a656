"""Reports to triplets: the report filter, its vocabulary, the knowledge base, and a language-model back end."""

from medvlp_lite.reports.filter import ReportFilter, adjacency, entity_labels, entity_of, extract, mentions

__all__ = ["ReportFilter", "adjacency", "entity_labels", "entity_of", "extract", "mentions"]
