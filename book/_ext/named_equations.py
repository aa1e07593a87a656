r"""Equations keep their names: ``\tag{K-7}`` becomes text of the page beside the formula, and ``{eq}`K-7` `` links to it.

MathJax would draw the name into the formula's own box, which on a narrow page hides one behind the other.
"""

import re

from docutils import nodes
from sphinx.transforms import SphinxTransform

TAG = re.compile(r"\\tag\{([^{}]+)\}")


class NameEquations(SphinxTransform):
    r"""Turns the one ``\tag`` of a display formula into its number, its anchors and its entries for ``{eq}``."""

    default_priority = 500

    def apply(self) -> None:
        domain = self.env.get_domain("math")
        for node in self.document.findall(nodes.math_block):
            tags = TAG.findall(node.astext())
            if len(tags) != 1 or node["nowrap"]:
                continue
            text = TAG.sub("", node.astext()).strip()
            node.children = [nodes.Text(text)]
            node["number"] = tags[0]
            for name in re.split(r",\s*", tags[0]):
                node["ids"].append(nodes.make_id(f"equation-{name}"))
                domain.data["objects"].setdefault(name, (self.env.docname, name))


def setup(app):
    app.add_transform(NameEquations)
    app.config.mathjax_path = "mathjax/tex-svg.js"  # sphinx-mathjax-offline sets another, which needs fonts beside it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
