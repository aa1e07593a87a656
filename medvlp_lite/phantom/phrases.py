"""The words of the phantom's reports: names, grades, places and stock sentences. All sentences are our own.

In a template {sev} is a grade, {side} a side, {loc} a place with its side, {zone} an adjective of place; a leading "*"
marks a plural. Built in chapter 01_image_report_pairs.
"""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "consolidation": ("consolidation", "airspace opacity", "airspace disease", "consolidative"),
    "ground-glass opacity": ("ground-glass", "ground glass"),
    "nodule": ("nodule", "nodular opacity"),
    "mass": ("mass",),
    "effusion": ("effusion", "pleural fluid"),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly", "cardiac enlargement", "enlarged", "enlargement of the heart", "heart size"),
    "edema": ("edema",),
    "atelectasis": ("atelectasis", "atelectatic"),
    "pleural thickening": ("pleural thickening", "thickening of the pleura", "thickened pleura"),
    "granuloma": ("granuloma",),
    "pneumoconiosis": ("pneumoconiosis", "pneumoconiotic"),
    "covid-19": ("covid-19",),
}

GRADES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "default": (("mild", "slight", "subtle", "minor"), ("moderate", "moderate"), ("severe", "extensive", "marked")),
    "nodule": (("small", "tiny"), ("medium-sized", "moderate-sized"), ("large", "sizeable")),
    "mass": (("small", "modest"), ("moderate-sized", "moderate"), ("large", "bulky")),
    "effusion": (("small", "mild", "trace", "minimal"), ("moderate", "moderate-sized"), ("large", "severe", "massive")),
    "pneumothorax": (("small", "mild", "tiny"), ("moderate", "moderate-sized"), ("large", "severe")),
    "cardiomegaly": (("mild", "slight", "borderline to mild"), ("moderate",), ("severe", "marked", "gross")),
    "granuloma": (("single small", "small"), ("paired", "moderate-sized"), ("clustered", "large clustered")),
}

MEANT = {"mild": ("mildly", "slightly"), "moderate": ("moderately",), "severe": ("severely", "markedly", "grossly")}

POSITIVE: dict[str, tuple[str, ...]] = {
    "consolidation": (
        "{sev} consolidation {loc}",
        "{sev} airspace consolidation {loc}",
        "{sev} airspace opacity {loc}, in keeping with consolidation",
        "{sev} consolidation with air bronchograms {loc}",
        "a {sev} focus of consolidation {loc}",
        "{sev} airspace disease {loc}",
        "{sev} patchy consolidative change {loc}",
    ),
    "ground-glass opacity": (
        "{sev} ground-glass opacity {loc}",
        "{sev} hazy ground-glass opacification {loc}",
        "{sev} ground glass change {loc}",
        "an area of {sev} ground-glass density {loc} through which vessels remain visible",
        "{sev} ground-glass opacity projecting {loc}",
    ),
    "nodule": (
        "a {sev} nodule {loc}",
        "a {sev} pulmonary nodule {loc}",
        "a {sev} rounded nodular opacity {loc}",
        "a {sev} solitary nodule of about {mm} mm {loc}",
        "a {sev} well-defined nodule {loc}",
    ),
    "mass": (
        "a {sev} mass {loc}",
        "a {sev} lobulated mass {loc}",
        "a {sev} mass of about {mm} mm {loc}",
        "a {sev} mass lesion {loc}",
        "a {sev} irregular mass {loc}",
    ),
    "effusion": (
        "a {sev} {side} pleural effusion",
        "a {sev} {side}-sided pleural effusion",
        "a {sev} {side} effusion with a meniscus",
        "a {sev} amount of pleural fluid on the {side}",
        "blunting of the {side} costophrenic angle by a {sev} effusion",
        "a {sev} pleural effusion at the {side} base",
    ),
    "pneumothorax": (
        "a {sev} {side} {zone} pneumothorax",
        "a {sev} {side}-sided {zone} pneumothorax",
        "a {sev} {side} pneumothorax, {zone} in position",
        "a {sev} {side} {zone} pneumothorax with a visible pleural line",
    ),
    "cardiomegaly": (
        "{sev} cardiomegaly",
        "{sev} cardiac enlargement",
        "{sev} enlargement of the heart",
        "a heart that is {mod} enlarged",
        "a {mod} enlarged cardiac silhouette",
    ),
    "edema": (
        "{sev} bilateral pulmonary edema",
        "{sev} perihilar edema on both sides",
        "{sev} interstitial edema with septal lines in both lungs",
        "{sev} bilateral perihilar haze consistent with edema",
        "vascular congestion with {sev} bilateral edema",
    ),
    "atelectasis": (
        "{sev} atelectasis {loc}",
        "{sev} linear atelectasis {loc}",
        "{sev} band-like atelectasis {loc} with volume loss",
        "{sev} plate-like atelectasis {loc}",
        "{sev} atelectatic change {loc}",
        "a band of {sev} atelectasis {loc}",
    ),
    "pleural thickening": (
        "{sev} pleural thickening {loc}",
        "{sev} thickening of the pleura {loc}",
        "{sev} thickened pleura {loc}",
        "a rim of {sev} pleural thickening {loc}",
    ),
    "granuloma": (
        "a {sev} calcified granuloma {loc}",
        "a {sev} dense granuloma {loc}",
        "a {sev} healed granuloma {loc}",
        "a {sev} calcified focus {loc}, typical of a granuloma",
    ),
    "pneumoconiosis": (
        "{kind} small opacities {loc}, profusion {ilo}, consistent with {sev} pneumoconiosis",
        "*bilateral {kind} small opacities of profusion {ilo}, predominating in the {zone} zones, in keeping with stage "
        "{roman} pneumoconiosis",
        "{sev} pneumoconiosis, stage {roman}, with {kind} opacities {loc}",
        "stage {number} pneumoconiosis with {kind} small opacities {loc}",
        "{sev} pneumoconiotic change {loc}, ILO profusion {ilo}",
    ),
    "covid-19": (
        "*{sev} bilateral peripheral ground-glass opacities towards the bases, typical of COVID-19",
        "{sev} COVID-19 pneumonia with peripheral basal ground-glass change on both sides",
        "{sev} bilateral subpleural haze at the bases, suggesting COVID-19 pneumonia",
    ),
}

BOTH_SIDES: dict[str, tuple[str, ...]] = {
    "effusion": (
        "*{sev} bilateral pleural effusions",
        "*{sev} pleural effusions on both sides",
        "{sev} bilateral pleural fluid",
        "blunting of both costophrenic angles by {sev} effusions",
    ),
}

PLAIN_NAMES: dict[str, tuple[str, ...]] = {
    "consolidation": ("consolidation", "focal consolidation", "airspace consolidation", "focal airspace disease"),
    "ground-glass opacity": ("ground-glass opacity", "ground-glass change", "ground glass opacification"),
    "nodule": ("nodule", "pulmonary nodule", "suspicious nodule", "lung nodule"),
    "mass": ("mass", "pulmonary mass", "focal mass", "lung mass"),
    "effusion": ("effusion", "pleural effusion", "pleural fluid"),
    "pneumothorax": ("pneumothorax", "visible pneumothorax"),
    "cardiomegaly": ("cardiomegaly", "cardiac enlargement"),
    "edema": ("edema", "pulmonary edema", "interstitial edema"),
    "atelectasis": ("atelectasis", "segmental atelectasis", "significant atelectasis"),
    "pleural thickening": ("pleural thickening", "thickening of the pleura"),
    "granuloma": ("granuloma", "calcified granuloma"),
    "pneumoconiosis": ("pneumoconiosis", "sign of pneumoconiosis", "small opacities of pneumoconiosis"),
    "covid-19": ("COVID-19 pneumonia",),
}

ABSENT_SENTENCES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "Heart size is normal.",
        "The heart is not enlarged.",
        "The heart size is within normal limits.",
        "Normal heart size and contour.",
    ),
    "effusion": ("No effusion on either side.", "The pleural spaces hold no effusion."),
    "pneumothorax": ("No pleural line to suggest pneumothorax.", "The lungs are expanded, with no pneumothorax."),
    "consolidation": ("The lungs are free of consolidation.",),
    "edema": ("Vessels are sharp, without edema.",),
    "pneumoconiosis": ("Small opacities do not exceed profusion 0/1; no pneumoconiosis.",),
}

# how often an absent entity is spoken of, relative to the others
TALKED_OF = {
    "effusion": 2.2,
    "pneumothorax": 2.2,
    "cardiomegaly": 1.7,
    "consolidation": 1.7,
    "edema": 0.9,
    "nodule": 0.8,
}

ZONE_NAMES = {
    "upper": ("upper zone", "upper lobe", "upper lung zone", "upper lung field"),
    "mid": ("mid zone", "mid lung", "middle lung zone", "mid lung field"),
    "lower": ("lower zone", "lower lobe", "lower lung zone", "lower lung field"),
}
PLACES = {
    "apical": (("at the {side} apex", "in the {side} apical region"), ("at both apices", "bilaterally at the apices")),
    "basal": (("at the {side} base", "along the {side} lung base"), ("at both bases", "bilaterally at the bases")),
    "lateral": (
        ("along the {side} lateral chest wall", "laterally on the {side}"),
        ("along both lateral chest walls",),
    ),
    "perihilar": (("in the {side} perihilar region", "next to the {side} hilum"), ("in both perihilar regions",)),
}

FRAMES = (
    ("There is {np}.", "There are {np}."),
    ("{Np} is seen.", "{Np} are seen."),
    ("{Np} is present.", "{Np} are present."),
    ("{Np} is noted.", "{Np} are noted."),
    ("The image shows {np}.",) * 2,
    ("The examination demonstrates {np}.",) * 2,
    ("Note is made of {np}.",) * 2,
    ("{Np}.",) * 2,
    ("Findings are notable for {np}.",) * 2,
    ("The film depicts {np}.",) * 2,
)
HEDGES = (
    "Possible {np}.",
    "{Np} cannot be excluded.",
    "Appearances may represent {np}.",
    "There is a suspicion of {np}.",
    "Questionable {np}.",
    "{Np} is difficult to exclude.",
    "Findings could reflect {np}; correlation is advised.",
    "Equivocal appearance; {np} is possible.",
)
PAIRS = (
    "There is {a}, together with {b}.",
    "The image shows {a} and {b}.",
    "Findings include {a} as well as {b}.",
    "{A}, with {b}.",
    "Note is made of {a} and also of {b}.",
)
NEGATIONS = (
    "No {names}.",
    "No evidence of {names}.",
    "There is no {names}.",
    "No {names} is seen.",
    "Negative for {names}.",
    "The film is without {names}.",
    "No {names} identified.",
    "No radiographic sign of {names}.",
)
CHANGE = {
    "stable": ("unchanged from the prior study", "stable since the previous film", "similar to before"),
    "worse": ("increased since the prior study", "more conspicuous than before", "progressed since the previous film"),
    "better": ("decreased since the prior study", "less conspicuous than before", "improving since the previous film"),
    "new": ("new since the prior study", "which is a new finding", "newly developed"),
}
RESOLVED = (
    "The {name} described before has resolved.",
    "Previously noted {name} is no longer seen.",
    "Interval resolution of the {name}.",
)

COMPLAINTS = (
    "cough", "fever and cough", "shortness of breath", "chest pain", "weight loss", "haemoptysis", "fatigue",
    "palpitations", "dizziness", "night sweats", "dyspnoea on exertion", "fever", "wheezing", "back pain",
)  # fmt: skip
REASONS = (
    "a fall", "preoperative assessment", "occupational health screening", "routine check", "pre-employment check",
    "annual examination of a dust-exposed worker", "before starting treatment", "visa medical", "follow-up visit",
)  # fmt: skip
DURATIONS = (
    "",
    " for two days",
    " for one week",
    " for three weeks",
    " for several months",
    ", worsening",
    ", intermittent",
)
NO_PRIOR = ("None.", "No prior study available.", "None available.", "No earlier film for comparison.")
SOME_PRIOR = (
    "Prior chest radiograph.",
    "Radiograph from an earlier visit.",
    "Previous frontal chest film.",
    "Chest film of last {month}.",
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
VIEWS = {
    "PA": (
        "Frontal view of the chest, PA projection.",
        "PA chest radiograph.",
        "Single upright PA view.",
        "Erect PA film.",
    ),
    "AP": (
        "Frontal view of the chest, AP projection.",
        "Portable AP chest radiograph.",
        "Single AP view.",
        "AP bedside film.",
    ),
}
DISTRACTORS = (
    "The trachea is midline.",
    "The visualised upper abdomen is unremarkable.",
    "No acute osseous abnormality.",
    "Mild degenerative change of the thoracic spine.",
    "The bony thorax is intact.",
    "Mediastinal contours are unremarkable.",
    "The hila are of normal configuration.",
    "Soft tissues are unremarkable.",
    "Overlying clothing artefact is noted.",
    "The aorta is mildly tortuous.",
    "Old healed rib fracture.",
    "The aortic arch is of usual calibre.",
    "Visualised ribs and clavicles are preserved.",
    "Image quality is diagnostic.",
)
CLEAR = (
    "The lungs are clear.",
    "Lungs are well aerated and clear.",
    "Clear lungs bilaterally.",
    "Lung fields are clear.",
)
SCOLIOSIS = (
    "Scoliosis of the thoracic spine.",
    "There is curvature of the thoracic spine.",
    "Thoracic scoliosis is noted.",
    "The spine is scoliotic.",
)
DEVICE_SENTENCES = {
    "endotracheal tube": ("An endotracheal tube ends above the carina.", "Endotracheal tube in good position."),
    "nasogastric tube": ("A nasogastric tube passes below the diaphragm.", "Enteric tube courses into the stomach."),
    "central venous catheter": ("A central venous catheter projects over the SVC.", "Right central line in place."),
    "pacemaker": ("A left chest pacemaker is in place.", "Cardiac pacing device with intact leads."),
    "ECG leads": ("ECG leads overlie the chest.", "Monitoring leads project over the thorax."),
    "sternal wires": ("Median sternotomy wires are intact.", "Sternal wires from earlier surgery."),
}
NORMAL_IMPRESSIONS = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "No acute disease.",
    "Unremarkable examination.",
    "No significant abnormality in the chest.",
    "No active disease of the chest.",
)
UNREMARKED_IMPRESSIONS = ("As above.", "Findings as described.", "See findings.", "Clinical correlation is advised.")
FOLLOW_UPS = (
    "Follow-up is recommended.", "Clinical correlation is advised.", "Further imaging may be considered.",
    "Suggest comparison with earlier films.",
)  # fmt: skip
