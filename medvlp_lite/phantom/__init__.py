"""A synthetic frontal chest radiograph with exact truth, and the report that goes with it. Not for clinical use.

    patient = sample_patient(7)
    image = render(patient.add(FindingSpec("effusion", "mild", "left")), size=256).image
    studies = make_studies(1000, seed=0, size=112)

Built in chapter 01_image_report_pairs.
"""

from medvlp_lite.phantom.corpus import make_studies, study_from_patient
from medvlp_lite.phantom.patients import (
    ATTRIBUTES,
    DEVICES,
    ENTITIES,
    POSITIONS,
    SIGNS,
    UNSEEN,
    ZONES,
    FindingSpec,
    Patient,
    allowed_sides,
)
from medvlp_lite.phantom.render import Rendered, render
from medvlp_lite.phantom.reports import SYNONYMS, Report, write_report
from medvlp_lite.phantom.sampling import follow_up, sample_patient

__all__ = [
    "ATTRIBUTES", "DEVICES", "ENTITIES", "POSITIONS", "SIGNS", "SYNONYMS", "UNSEEN", "ZONES", "FindingSpec", "Patient", "Rendered", "Report",
    "allowed_sides", "follow_up", "make_studies", "render", "sample_patient", "study_from_patient", "write_report",
]  # fmt: skip
