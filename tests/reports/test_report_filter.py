"""The report filter on sentences of our own, its matrix and its spans."""

import random
import time

import numpy as np
import pytest

from medvlp_lite.reports import ReportFilter, adjacency, entity_labels, entity_of, extract, mentions
from medvlp_lite.reports.lexicon import load
from medvlp_lite.reports.sections import findings_text, sections, sentences
from medvlp_lite.reports.vocabulary import landmarks, vocabulary
from medvlp_lite.studies import Triplet

SIGN = {True: "+", False: "-", None: "?"}


def read(text: str) -> list[str]:
    """What is named, as "concept sign / side / zone / severity", empty ends cut off."""
    rows = []
    for m in mentions(text):
        if m.implied or m.entity in vocabulary()["normal_entities"]:
            continue
        fields = (m.concept + SIGN[m.present], m.side or "", m.zone or "", m.severity or "")
        rows.append("/".join(fields).rstrip("/"))
    return rows


# fmt: off
CASES = [
    # plain statements
    ("There is a pleural effusion.", ["effusion+"]),
    ("Small left pleural effusion.", ["effusion+/left//mild"]),
    ("The heart is enlarged.", ["cardiomegaly+"]),
    ("Moderately enlarged cardiac silhouette.", ["cardiomegaly+///moderate"]),
    ("Severe cardiomegaly.", ["cardiomegaly+///severe"]),
    ("Blunted right costophrenic angle.", ["blunted angle+/right"]),
    ("Both costophrenic angles are blunted.", ["blunted angle+/bilateral"]),
    ("Mild degenerative changes of the thoracic spine.", ["degenerative spine+///mild"]),
    ("Degenerative changes of both shoulders.", ["degenerative+/bilateral"]),
    ("The lungs are hyperinflated.", ["hyperinflation+"]),
    ("Lung volumes are low.", ["low volume+"]),
    ("Calcified granuloma in the left upper lobe.", ["granuloma+/left/upper lobe"]),
    ("Prominent pulmonary vasculature.", ["congestion+"]),
    # negation, before and after, and lists
    ("No effusion.", ["effusion-"]),
    ("No effusion, pneumothorax or consolidation.", ["effusion-", "pneumothorax-", "consolidation-"]),
    ("No pneumothorax, effusion, or focal airspace disease is seen.", ["pneumothorax-", "effusion-", "airspace disease-"]),
    ("Without evidence of edema.", ["edema-"]),
    ("The lungs are clear of infiltrates and effusions.", ["infiltrate-", "effusion-"]),
    ("Negative for pneumonia.", ["pneumonia-"]),
    ("A pneumothorax is not seen.", ["pneumothorax-"]),
    ("The effusion has resolved.", ["effusion-"]),
    ("Pneumonia is absent.", ["pneumonia-"]),
    ("There is neither effusion nor pneumothorax.", ["effusion-", "pneumothorax-"]),
    ("The heart is not enlarged.", []),
    ("The lungs do not demonstrate consolidation or nodules.", ["consolidation-", "nodule-"]),
    ("Atelectasis, effusion and edema are not identified.", ["atelectasis-", "effusion-", "edema-"]),
    ("Pulmonary vascular engorgement is within normal limits.", ["engorgement-"]),
    ("The film is without nodule or mass.", ["nodule-", "mass-"]),
    ("No focal opacity to suggest pneumonia.", ["opacity-", "pneumonia-"]),
    ("Previously seen effusion is no longer visualized.", ["effusion-"]),
    ("Interval resolution of the pneumothorax.", ["pneumothorax-"]),
    # pseudo-negation
    ("No change in the left effusion.", ["effusion+/left"]),
    ("No significant interval change in mild cardiomegaly.", ["cardiomegaly+///mild"]),
    ("Not only atelectasis but also an effusion.", ["atelectasis+", "effusion+"]),
    ("Without significant change in the right basilar opacity.", ["opacity+/right/base"]),
    ("No increase in the pneumothorax.", ["pneumothorax+"]),
    # ends of scope
    ("No pneumothorax, but there is a small effusion.", ["pneumothorax-", "effusion+///mild"]),
    ("No effusion; however, the heart is enlarged.", ["effusion-", "cardiomegaly+"]),
    ("No acute infiltrate although atelectasis persists.", ["infiltrate-", "atelectasis+"]),
    ("Lungs are clear without edema and the heart is enlarged.", ["edema-", "cardiomegaly+"]),
    ("No pneumothorax, stable right effusion.", ["pneumothorax-", "effusion+/right"]),
    ("Cardiomegaly without edema.", ["cardiomegaly+", "edema-"]),
    ("No consolidation except for a nodule in the right apex.", ["consolidation-", "nodule+/right/apex"]),
    # hedges
    ("Possible pneumonia.", ["pneumonia?"]),
    ("Pneumonia cannot be excluded.", ["pneumonia?"]),
    ("Opacity which may represent pneumonia.", ["opacity+", "pneumonia?"]),
    ("Left base opacity suggesting atelectasis.", ["opacity+/left/base", "atelectasis?/left/base"]),
    ("Questionable nodule in the right upper lobe.", ["nodule?/right/upper lobe"]),
    ("Findings could reflect mild edema.", ["edema?///mild"]),
    ("Cannot exclude a small effusion.", ["effusion?///mild"]),
    ("Atelectasis versus infiltrate.", ["atelectasis?", "infiltrate?"]),
    ("Bibasilar atelectasis or scarring.", ["atelectasis?/bilateral/base", "scar?/bilateral/base"]),
    ("Equivocal appearance; a mass is possible.", ["mass?"]),
    ("Hyperexpansion consistent with COPD.", ["hyperinflation+", "copd+"]),
    ("Probable left lower lobe pneumonia.", ["pneumonia+/left/lower lobe"]),
    ("No effusion, possible atelectasis.", ["effusion-", "atelectasis?"]),
    ("There is a suspicion of cardiomegaly.", ["cardiomegaly?"]),
    # sides, zones, several findings
    ("Small right effusion and large left pneumothorax.", ["effusion+/right//mild", "pneumothorax+/left//severe"]),
    ("Left lower lobe consolidation with right apical scarring.", ["consolidation+/left/lower lobe", "scar+/right/apex"]),
    ("Opacity and effusion in the left base.", ["opacity+/left/base", "effusion+/left/base"]),
    ("Right effusion and atelectasis.", ["effusion+/right", "atelectasis+/right"]),
    ("Right greater than left pleural effusions.", ["effusion+/bilateral"]),
    ("Bibasilar atelectasis.", ["atelectasis+/bilateral/base"]),
    ("Biapical scarring.", ["scar+/bilateral/apex"]),
    ("Streaky opacities in the lung bases.", ["opacity+/bilateral/base"]),
    ("Scattered granulomas bilaterally.", ["granuloma+/bilateral"]),
    ("Right middle lobe opacity.", ["opacity+/right/middle lobe"]),
    ("Lingular scarring.", ["scar+/left/lingula"]),
    ("Patchy opacity left mid lung.", ["opacity+/left/mid lung"]),
    ("Minimal atelectasis at the left base, nodule at the right apex.", ["atelectasis+/left/base/mild", "nodule+/right/apex"]),
    ("The right lung base demonstrates consolidation.", ["consolidation+/right/base"]),
    ("Retrocardiac opacity.", ["opacity+//retrocardiac"]),
    ("Fracture of the left clavicle.", ["fracture+/left"]),
    ("Left base opacity in keeping with consolidation as well as scarring in both upper zones.",
     ["opacity+/left/base", "consolidation+/left/base", "scar+/bilateral/upper lung"]),
    ("Left apical nodule and a mass in the right lower lobe.", ["nodule+/left/apex", "mass+/right/lower lobe"]),
    ("Moderate effusion on the right.", ["effusion+/right//moderate"]),
    # severity
    ("Trace effusion.", ["effusion+///mild"]),
    ("The effusion is large.", ["effusion+///severe"]),
    ("Mild to moderate cardiomegaly.", ["cardiomegaly+///moderate"]),
    ("Borderline cardiomegaly.", ["cardiomegaly+///borderline"]),
    ("Large hiatal hernia.", ["hiatal hernia+///severe"]),
    ("Minimal edema and moderate effusion.", ["edema+///mild", "effusion+///moderate"]),
    # sections, history, advice
    ("INDICATION: pneumonia. FINDINGS: No effusion.", ["effusion-"]),
    ("History: known mass\nFindings: Clear lungs.\nImpression: Normal.", []),
    ("COMPARISON: Effusion on prior film.\nIMPRESSION: Atelectasis.", ["atelectasis+"]),
    ("TECHNIQUE: PA film.\n\nFINDINGS:\nCardiomegaly.\n\nIMPRESSION:\n1. Cardiomegaly.", ["cardiomegaly+", "cardiomegaly+"]),
    ("Patient has a history of pneumonia.", []),
    ("CT is recommended to exclude a nodule.", []),
    ("Correlate for infection.", []),
    ("Status post resection of mass.", []),
    # typing faults, spelling, gaps
    ("No pneumothorax.There is an effusion.", ["pneumothorax-", "effusion+"]),
    ("Blunting of the left costophrenicangle.", ["blunted angle+/left"]),
    ("Pulmonary oedema.", ["edema+"]),
    ("Noeffusion.", ["effusion-"]),
    ("XXXX left XXXX effusion.", ["effusion+/left"]),
    ("There is XXXX evidence of cardiomegally.", ["cardiomegaly+"]),
    ("No pleural effusions or pneumothoraces.", ["effusion-", "pneumothorax-"]),
    ("Ground-glass opacities in both lower lobes.", ["ground-glass opacity+/bilateral/lower lobe"]),
    ("A 1.2 cm nodule in the left apex.", ["nodule+/left/apex"]),
    ("NO EFFUSION OR PNEUMOTHORAX.", ["effusion-", "pneumothorax-"]),
    ("Peripheral opacities, typical of COVID-19.", ["opacity+", "covid-19+"]),
    ("Moderate pneumoconiosis in both upper zones.", ["pneumoconiosis+/bilateral/upper lung/moderate"]),
    ("Left pleural efusion.", ["effusion+/left"]),
    ("No pneumothoraxes or effussions.", ["pneumothorax-", "effusion-"]),
    # abbreviations
    ("RLL infiltrate c/w PNA.", ["infiltrate+/right/lower lobe", "pneumonia+/right/lower lobe"]),
    ("LUL mass, small L effusion.", ["mass+/left/upper lobe", "effusion+/left//mild"]),
    ("Cardiomegaly w/o edema.", ["cardiomegaly+", "edema-"]),
    ("B/l effusions w/ atelectasis.", ["effusion+/bilateral", "atelectasis+/bilateral"]),
    ("R/o pneumonia.", []),
    ("Opacity on 12/3 and effusion on 12/5.", ["opacity+", "effusion+"]),
    ("L1 compression fracture.", ["fracture+"]),
    # marks and lines
    ("?pneumonia RLL.", ["pneumonia?/right/lower lobe"]),
    ("Pneumothorax? Left effusion.", ["pneumothorax?", "effusion+/left"]),
    ("No pneumothorax • Left effusion • Cardiomegaly", ["pneumothorax-", "effusion+/left", "cardiomegaly+"]),
    ("No pneumothorax<br/>Small left effusion<BR>Cardiomegaly", ["pneumothorax-", "effusion+/left//mild", "cardiomegaly+"]),
    ("- No consolidation - Stable cardiomegaly - Left effusion", ["consolidation-", "cardiomegaly+", "effusion+/left"]),
    ("no pneumothorax\nsmall left effusion\nmild cardiomegaly", ["pneumothorax-", "effusion+/left//mild", "cardiomegaly+///mild"]),
    ("There is no evidence of a focal consolidation, pneumothorax or a\nlarge pleural effusion.",
     ["consolidation-", "pneumothorax-", "effusion-///severe"]),
    # headings
    ("CLINICAL QUESTION: pneumothorax?\nFINDINGS: No pneumothorax.", ["pneumothorax-"]),
    ("Hx: pneumonia.\nReason for referral: effusion\nReport: Cardiomegaly.", ["cardiomegaly+"]),
    ("INDICATION: edema\nIMPRESSION  Mild cardiomegaly.", ["cardiomegaly+///mild"]),
    ("INDICATION: Pneumonia.\n\nCOMPARISON: Effusion before.\n\nThe heart is enlarged.", ["cardiomegaly+"]),
    ("<p>INDICATION: edema</p><p>FINDINGS: Cardiomegaly</p>", ["cardiomegaly+"]),
    # what follows a denied finding
    ("No pneumothorax, small left effusion, mild cardiomegaly.", ["pneumothorax-", "effusion+/left//mild", "cardiomegaly+///mild"]),
    ("No pneumothorax and bilateral effusions.", ["pneumothorax-", "effusion+/bilateral"]),
    ("No edema, left effusion or pneumothorax.", ["edema-", "effusion-/left", "pneumothorax-"]),
    ("No pneumonia, significant effusion.", ["pneumonia-", "effusion-///severe"]),
    ("No infiltrate, heart normal, tortuous aorta.", ["infiltrate-", "tortuous aorta+"]),
    # more negation
    ("Pneumothorax: none. Effusion: none.", ["pneumothorax-", "effusion-"]),
    ("Failed to demonstrate any consolidation.", ["consolidation-"]),
    ("Interval removal of the left chest tube.", ["chest tube-/left"]),
    ("Right nodule, not seen before.", ["nodule+/right"]),
    ("The lungs are not well expanded with left atelectasis.", ["atelectasis+/left"]),
    # changes
    ("Near-complete resolution of edema.", ["edema+"]),
    ("The left effusion has nearly resolved.", ["effusion+/left"]),
    ("Significant improvement in edema.", ["edema+"]),
    ("Slightly larger left effusion, moderate in size.", ["effusion+/left//moderate"]),
    ("Mildly increased interstitial opacities.", ["opacity+///mild"]),
    ("Interval improvement in moderate edema, now mild.", ["edema+///mild"]),
    # more hedges
    ("Pneumonia in the left lower lobe can't be ruled out.", ["pneumonia?/left/lower lobe"]),
    ("Pneumonia is thought less likely.", ["pneumonia?"]),
    ("Atelectasis, less likely pneumonia.", ["atelectasis+", "pneumonia?"]),
    ("Effusions are small, if any.", ["effusion?///mild"]),
    ("Cardiomegaly, edema possibly present.", ["cardiomegaly+", "edema?"]),
    ("Opacity, atelectasis versus pneumonia.", ["opacity+", "atelectasis?", "pneumonia?"]),
    # where history, advice and places end
    ("Status post sternotomy with stable cardiomegaly.", ["cardiomegaly+"]),
    ("Status post CABG, mild edema.", ["edema+///mild"]),
    ("History of lobectomy, without pneumothorax.", ["pneumothorax-"]),
    ("Evaluation of the bases is limited, but there is a right effusion.", ["effusion+/right"]),
    ("In the right lung, there is consolidation in the upper lobe.", ["consolidation+/right/upper lobe"]),
    # more words
    ("Pinching of the left costophrenic sinus.", ["blunted angle+/left"]),
    ("Increased cardiothoracic ratio.", ["cardiomegaly+"]),
    ("Enlarged heart shadow.", ["cardiomegaly+"]),
    ("Hilar shadows are normal.", []),
    ("Poorly inflated lungs. Air under the diaphragm.", ["low volume+", "pneumoperitoneum+"]),
    ("Alveolar pattern and condensation in both midfields.", ["opacity+/bilateral/mid lung", "consolidation+/bilateral/mid lung"]),
    ("Lung cancer in the left upper lobe.", ["mass+/left/upper lobe"]),
]
# fmt: on


@pytest.mark.parametrize("text,expected", CASES, ids=[text[:48] for text, _ in CASES])
def test_sentence(text, expected):
    assert read(text) == expected


def test_there_are_enough_cases_and_they_differ():
    assert len({text for text, _ in CASES}) == len(CASES) >= 80


@pytest.mark.parametrize(
    "text,absent",
    [
        ("Heart size is normal.", "cardiomegaly"),
        ("The lungs are clear.", "opacity"),
        ("The lungs are well expanded and clear.", "opacity"),
        ("Pulmonary vasculature within normal limits.", "congestion"),
        ("Costophrenic angles are sharp.", "blunted angle"),
        ("Bony structures are intact.", "fracture"),
    ],
)
def test_a_normal_structure_excludes_its_findings(text, absent):
    implied = [m for m in mentions(text) if m.implied]
    assert absent in {m.concept for m in implied} and all(m.present is False for m in implied)
    assert absent in {t.entity for t in extract(text) if t.present is False}


@pytest.mark.parametrize("text", ["Left lung is clear.", "Cardiomegaly is stable.", "The lungs are not clear."])
def test_a_half_or_a_change_excludes_nothing(text):
    assert not [m for m in mentions(text) if m.implied]


def test_one_pass_gives_both_kinds_of_triplet():
    assert extract("Small right pleural effusion.") == [
        Triplet("effusion", "right_pleural", True, "mild", "right", "right pleural", "effusion", (12, 28))
    ]


def test_a_location_spells_abbreviations_out_and_names_no_word_twice():
    assert [m.location for m in mentions("RLL opacity. Blunted left costophrenicangle.")] == [
        "right lower lobe",
        "left costophrenicangle",
    ]


def test_this_refers_to_the_sentence_before():
    found = mentions("There is an opacity in the left base. This represents atelectasis.")
    assert [(m.concept, m.side, m.zone) for m in found] == [
        ("opacity", "left", "base"),
        ("atelectasis", "left", "base"),
    ]


@pytest.mark.parametrize("uncertain,present", [("unknown", None), ("present", True), ("absent", False)])
def test_uncertain_can_be_switched(uncertain, present):
    assert [t.present for t in extract("Possible edema.", uncertain)] == [present]


def test_a_wrong_switch_is_named():
    with pytest.raises(ValueError, match="uncertain must be one of"):
        ReportFilter("perhaps")


@pytest.mark.parametrize("style", ["varied", "terse"])
def test_spans_point_at_the_words(style):
    from medvlp_lite.phantom import sample_patient, write_report

    for seed in range(20):
        report = write_report(sample_patient(seed), style=style).text
        for mention in mentions(report):
            start, end = mention.span
            assert mention.sentence[0] <= start < end <= mention.sentence[1] <= len(report)
            phrase = report[start:end]
            assert phrase == phrase.strip() and phrase[0].isalnum() and phrase[-1].isalnum()


def test_spans_survive_gaps_and_sections():
    report = "INDICATION: cough.\n\nFINDINGS: XXXX heart is XXXX enlarged.No  pleural\neffusion."
    words = [report[a:b] for a, b in (m.span for m in mentions(report))]
    assert words == ["enlarged", "pleural\neffusion"]


def test_sections_that_describe():
    report = "INDICATION: fever. FINDINGS: Clear. IMPRESSION: Normal."
    assert [report[a:b].strip() for a, b in sections(report)] == ["Clear.", "Normal."]
    assert list(sections("No heading here.")) == [(0, 16)]


def test_sentences_keep_decimals_and_abbreviations():
    text = "A 1.2 cm nodule vs. artefact.There is more; no less"
    parts = [text[a:b].strip() for a, b in sentences(text, 0, len(text))]
    assert parts == ["A 1.2 cm nodule vs. artefact", "There is more", "no less"]


def test_vocabulary_is_complete_and_every_concept_finds_its_place():
    words = vocabulary()
    assert len(words["entities"]) == len(set(words["entities"])) == 75
    assert len(words["positions"]) == len(set(words["positions"])) == 51
    assert len(words["categories"]) == 61
    for concept in load().concepts.values():
        assert concept.entity in words["entities"], concept
        assert not concept.category or concept.category in words["categories"], concept
        for side in (None, "left", "right", "bilateral"):
            assert set(landmarks(concept.site, None, side)) <= set(words["positions"]), concept


@pytest.mark.parametrize(
    "site,zone,side,expected",
    [
        ("lung", "lower lobe", "left", ("lower_left_lobe",)),
        ("lung", "base", "right", ("right_lower_lung",)),
        ("lung", "base", "bilateral", ("lung_bases",)),
        ("lung", "upper lung", "bilateral", ("left_upper_lung", "right_upper_lung")),
        ("pleural", None, "bilateral", ("left_pleural", "right_pleural")),
        ("pleural", "apex", "left", ("left_apical_lung",)),
        ("pleural", None, None, ("pleural_unspec",)),
        ("lung", None, None, ("unspecified",)),
        ("heart", None, None, ("heart_size",)),
        ("abdomen", None, None, ("other",)),
    ],
)
def test_landmarks(site, zone, side, expected):
    assert landmarks(site, zone, side) == expected


def cell(matrix, position, entity):
    words = vocabulary()
    return matrix[words["positions"].index(position), words["entities"].index(entity)]


def test_adjacency_holds_present_absent_and_unknown():
    matrix = adjacency(extract("Small left effusion. No pneumothorax. Possible pneumonia. Heart size is normal."))
    assert matrix.shape == (51, 75)
    assert cell(matrix, "left_pleural", "effusion") == 1
    assert cell(matrix, "pleural_unspec", "pneumothorax") == 0
    assert np.isnan(cell(matrix, "unspecified", "pneumonia"))
    assert cell(matrix, "heart_size", "normal") == 1 and cell(matrix, "heart_size", "cardiomegaly") == 0
    assert np.isnan(cell(matrix, "right_pleural", "effusion"))


def test_present_outweighs_absent_in_a_cell_and_in_the_label():
    absent, present = Triplet("effusion", "left_pleural", False), Triplet("effusion", "left_pleural", True)
    for order in ([absent, present], [present, absent]):
        assert cell(adjacency(order), "left_pleural", "effusion") == 1
    matrix = adjacency([Triplet("edema", "pulmonary", False), Triplet("edema", "unspecified", True), absent])
    labels = dict(zip(vocabulary()["entities"], entity_labels(matrix)))
    assert labels["edema"] == 1 and labels["effusion"] == 0 and np.isnan(labels["mass"])


def test_no_text_makes_the_filter_fail():
    source = random.Random(1)
    words = [
        *sorted(load().words)[::7],
        "no",
        "or",
        "versus",
        "which",
        "left",
        ".",
        ",",
        ";",
        "\n",
        "XXXX",
        "é",
        "\0",
        ":",
        "FINDINGS:",
    ]
    for _ in range(1500):
        report = " ".join(source.choice(words) for _ in range(source.randint(0, 40)))
        for triplet in extract(report):
            assert (
                0 <= triplet.span[0] < triplet.span[1] <= len(report) and triplet.position in vocabulary()["positions"]
            )


@pytest.mark.parametrize(
    "text",
    [
        "effusion " * 3000,
        "x" * 100_000,
        "no " * 5000,
        ". " * 20_000,
        "effusion\n" * 2000,
        "." + " " * 20_000 + "x",
        "\n " * 20_000,
        "INDICATION: " + "\n" * 20_000,
    ],
)
def test_reading_time_grows_with_length_only(text):
    start = time.process_time()
    extract(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("report", ["", " \n\t", None, float("nan"), np.nan])
def test_an_empty_or_missing_report_says_nothing(report):
    assert extract(report) == mentions(report) == [] and findings_text(report) == ""
    assert np.isnan(adjacency([])).all()


@pytest.mark.parametrize("report", [3, 1.5, b"effusion", ["effusion"]])
def test_what_is_no_report_is_refused(report):
    for read_report in (extract, mentions, findings_text):
        with pytest.raises(TypeError, match="a report must be a string, None or NaN, got"):
            read_report(report)


@pytest.mark.parametrize(
    "name,entity",
    [
        ("effusion", "effusion"),
        ("blunted angle", "blunt"),
        ("covid-19", "tail_abnorm_obs"),
        ("ground-glass opacity", "opacity"),
    ],
)
def test_every_finding_has_one_of_the_75_entities(name, entity):
    assert entity_of(name) == entity


def test_all_named_entities_can_be_read():
    """Each of the 75 entities except the two collecting ones is reached by a sentence with its own name."""
    reached = {m.entity for word in vocabulary()["entities"] for m in mentions(f"The chest shows {word}.")}
    reached |= {
        m.entity
        for m in mentions("Lungs are clear. Bones are intact. Sharp angle. Pleural space is free. Heart is normal.")
    }
    reached |= {m.entity for m in mentions("Unremarkable heart. Stable heart. Sharply seen diaphragm. Acute finding.")}
    reached |= {
        m.entity for m in mentions("Collapse. Volume loss. Low lung volumes. Increased venous pressure. Enlarged hila.")
    }
    reached |= {m.entity for m in mentions("Increased interstitial markings.")}
    missing = set(vocabulary()["entities"]) - reached - {"tail_abnorm_obs", "excluded_obs", "borderline"}
    assert missing == set()
