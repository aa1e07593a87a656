"""``{overview}``: the picture of the start page, drawn by the library when the book is built.

One phantom, its report with what the report filter reads, the labels that follow, and the map of the committed MedKLIP.
"""

import base64
import io
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

SEED, STUDY = 7, 17  # a report that names one finding of two; another phantom would do as well
STATE = {True: ("present", "stated"), False: ("absent", "denied"), None: ("unsure", "hedged")}


def overview() -> str:
    """The picture as HTML; its texts take the colours of the page.

    Raises ValueError when the chosen report names no finding that is present.
    """
    from medvlp_lite.phantom import ENTITIES
    from medvlp_lite.phantom.corpus import make_studies
    from medvlp_lite.reports import mentions

    study = make_studies(1, seed=SEED, start=STUDY, size=224)[0]
    found = [mention for mention in mentions(study.report) if mention.concept in ENTITIES]
    named = [mention.concept for mention in found if mention.present]
    if not named:
        raise ValueError(f"phantom {study.study_id} has no named finding; choose another for the start page")
    return f"""<figure class="overview">
<div><p class="step">1. A radiograph</p><img src="{png(study.image)}" alt="{escape(described(study))}"></div>
<div><p class="step">2. Its report, read by rules</p><p class="report">{marked(study.report, found)}</p>
<p class="key"><mark class="present">stated</mark> <mark class="absent">denied</mark> <mark class="unsure">hedged</mark></p></div>
<div><p class="step">3. Labels with a third value</p>{labels(study, found, ENTITIES)}</div>
<div><p class="step">4. Where is the {escape(named[0])}?</p><img src="{heat(study, named[0])}" alt="The radiograph again, with
the cells of a 14 by 14 map shaded where the model looks for {escape(named[0])}, and the true outline of the finding."></div>
<figcaption>A phantom: a synthetic radiograph with a report, drawn from a seed, whose truth is known to the pixel. The map is
the attention of MedKLIP (chapter 4), trained on such pairs and on nothing else; the outline, which it never saw, is the truth. Chapter 4 counts how often such a map
is right.</figcaption></figure>"""


def described(study) -> str:
    there = ", ".join(" ".join(filter(None, (f.side, f.entity))) for f in study.findings if f.present)
    return f"A synthetic frontal chest radiograph. It shows: {there}."


def marked(report: str, found) -> str:
    """The report as HTML, every named finding marked by what the report says of it."""
    out, end = [], 0
    for mention in sorted(found, key=lambda mention: mention.span):
        first, last = mention.span
        if first >= end:
            css, said = STATE[mention.present]
            out += [
                escape(report[end:first]),
                f'<mark class="{css}" title="{said}">{escape(report[first:last])}</mark>',
            ]
            end = last
    return "".join([*out, escape(report[end:])])


def labels(study, found, entities) -> str:
    """A table of what report and image hold, for the findings that are named or there."""
    said = {mention.concept: STATE[mention.present][1] for mention in found}
    there = {finding.entity for finding in study.findings if finding.present}
    rows = "".join(
        f"<tr><td>{escape(entity)}</td><td>{said.get(entity, 'not mentioned')}</td><td>{'yes' if entity in there else 'no'}</td></tr>"
        for entity in entities
        if entity in said or entity in there
    )
    return f"<table><thead><tr><th>finding</th><th>report</th><th>image</th></tr></thead><tbody>{rows}</tbody></table>"


def heat(study, entity: str) -> str:
    """The committed MedKLIP's map for one finding, over the radiograph, as a data address."""
    import matplotlib.pyplot as plt
    import medvlp_lite
    import torch
    from medvlp_lite.figures.grounding import draw_heatmap
    from medvlp_lite.studies import StudyDataset
    from medvlp_lite.systems.base import Query
    from medvlp_lite.systems.medklip import MedKLIP

    system = MedKLIP.from_pretrained(Path(medvlp_lite.__file__).parent / "weights" / "medklip")
    pixels = torch.from_numpy(StudyDataset([study], size=112).images).unsqueeze(1).float() / 255
    with torch.no_grad():
        cells = system.heatmap(pixels, [Query.about(entity)])[0, 0].cpu().numpy()
    figure, axes = plt.subplots(figsize=(2.8, 2.8), layout="constrained")
    region = next(f for f in study.findings if f.entity == entity and f.present).region(*study.image.shape)
    draw_heatmap(study.image, cells, axes, region=region)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160, bbox_inches="tight", pad_inches=0)
    plt.close(figure)
    return address(file.getvalue())


def png(pixels) -> str:
    """A grey image as a data address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", optimize=True)
    return address(file.getvalue())


def address(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


class Overview(SphinxDirective):
    """``{overview}``"""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", overview(), format="html")]


def setup(app):
    app.add_directive("overview", Overview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
