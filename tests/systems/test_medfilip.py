import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies
from processes import run_two_processes

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.structured_labels import Label, ontology_similarity, reported_labels, true_labels
from medvlp_lite.studies import Finding, StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.medfilip import MedFILIP, MedFILIPConfig, similarity_model

CATEGORIES = ("effusion", "nodule", "edema", "pneumothorax")
REPORTS = (
    "There is a small left pleural effusion. No pneumothorax.",
    "Large left pleural effusion and a nodule in the right upper lobe.",
    "Heart size is normal. No effusion.",
)
MILD, SEVERE = Label("mild", "left", "effusion"), Label("severe", "left", "effusion")


def build(**options) -> MedFILIP:
    torch.manual_seed(0)
    settings = {"categories": CATEGORIES, "image_size": 32, "dim": 16, "similarity_model": "words", **options}
    return MedFILIP(ReportTokenizer.train(REPORTS, 120), MedFILIPConfig(**settings)).eval()


@pytest.fixture(scope="module")
def batch():
    data = StudyDataset(made_up_studies(12), size=32)
    out = collate([data[i] for i in range(6)])
    out.reports = [REPORTS[i] for i in (0, 1, 0, 2, 1, 1)]
    return out


def test_labels_from_reports_and_from_the_truth():
    first, second, third = (reported_labels(report, CATEGORIES) for report in REPORTS)
    assert [(label.severity, label.category) for label in first] == [("mild", "effusion")] and "left" in first[
        0
    ].location
    assert {label.category for label in second} == {"effusion", "nodule"} and third == ()
    assert reported_labels(REPORTS[1], ("nodule",)) == tuple(label for label in second if label.category == "nodule")
    findings = (Finding("effusion", True, "left", "basal", "mild"), Finding("nodule", False), Finding("mass", True))
    assert true_labels(findings, CATEGORIES) == (Label("mild", "left basal", "effusion"),)


def test_wording_follows_the_switches():
    system = build()
    assert system.wording(MILD).startswith("mild left effusion, where effusion is ")
    assert build(template="code").wording(MILD).startswith("mild left effusion. ")
    assert build(use_iki=False).wording(MILD) == "mild left effusion"
    assert build(use_iki=False, use_fg=False).wording(MILD) == "effusion"
    assert build(use_entities=False).wording(MILD) == "Mild left effusion."
    assert build().wording(Label(None, None, "unheard of")) == "unheard of"
    assert build().wording(Label(None, None, "pleural thickening")).startswith("pleural thickening, where")
    assert build(template="code").wording(Label(None, None, "pleural thickening")) == "pleural thickening"


def test_the_label_matrix_of_each_row_of_the_ablation(batch):
    owned = [(MILD,), (SEVERE, Label(None, None, "nodule")), ()]

    def rows(**options):
        system = build(use_iki=False, **options)
        system.labels.add(label for row in owned for label in row)
        return system.label_matrix(owned)

    by_category = rows(use_ssm=False)
    assert by_category.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert rows(use_ssm=False, hard_labels="text").tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    soft, gated = rows(), rows(same_category_only=True)
    assert torch.allclose(soft.max(), torch.tensor(1.0)) and 0 < soft[0, 1] < 1 and soft[2].eq(0).all()
    assert gated[0, 2] == 0 and torch.equal(gated[0, :2], soft[0, :2])
    graded = rows(similarity_model="ontology")
    assert graded[0, 1] == pytest.approx(0.2) and graded[0, 2] == 0
    for dial in (0.0, 0.5, 1.0):
        assert rows(similarity_model="ontology", severity_similarity=dial)[0, 1] == pytest.approx(dial)
    assert rows(similarity_model="ontology", similarity_power=2)[0, 1] == pytest.approx(0.04)


def test_the_loss_is_the_formula(batch):
    system = build(use_iki=False)
    terms = system.loss(batch)
    owned = system.labels_of(batch.reports, batch.findings)
    texts = [system.wording(label) for row in owned for label in row]
    cosine = system.embed_images(batch.images) @ system.embed_texts(texts).T
    matrix = torch.zeros_like(cosine)
    vectors = similarity_model("words")(texts)
    start = 0
    for i, row in enumerate(owned):
        for a in range(start, start + len(row)):
            matrix[i] = torch.maximum(matrix[i], vectors @ vectors[a])
        start += len(row)
    assert terms.terms["mse"].item() == pytest.approx(((cosine - matrix) ** 2).mean().item(), rel=1e-4)
    entropy = F.binary_cross_entropy_with_logits(cosine / 0.07, matrix.clamp(max=1))
    assert terms.terms["ce"].item() == pytest.approx(entropy.item(), rel=1e-4)
    assert terms.total.item() == pytest.approx(sum(t.item() for t in terms.terms.values()), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_entities": False}, {"use_ssm": False}, {"triplets": "truth"}, {"mse_on": "scaled"}])  # fmt: skip
def test_every_row_of_the_ablation_trains_both_encoders(options, batch):
    system = build(**options).train()
    losses = system.loss(batch)
    losses.total.backward()
    trained = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"image_encoder", "text_encoder", "image_projection", "text_projection", "logit_scale"} <= trained


def test_a_batch_without_labels_is_safe(batch):
    batch = batch.to("cpu")
    batch.reports = [REPORTS[2]] * 6
    system = build().train()
    losses = system.loss(batch)
    losses.total.backward()
    assert losses.total.item() == 0
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), f"other processes wait for {name}"


def test_unknown_options_are_refused():
    for option in ("mse_on", "hard_labels", "triplets", "template"):
        with pytest.raises(ValueError, match=f"{option} must be one of"):
            build(**{option: "other"})


def test_minilm_is_asked_for_in_training_only(batch, monkeypatch):
    """Weights that were trained with it are read and asked without the package."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    similarity_model.cache_clear()
    system = build(similarity_model="minilm")
    assert system.score(batch.images, [Query.about("edema")]).shape == (6, 1)
    with pytest.raises(ImportError, match="needs the extra `text`"):
        system.loss(batch)


def test_scores_heat_maps_and_questions(batch):
    system = build()
    queries = [Query.about("effusion"), Query("covid-19", (), (), "Hazy patches at both bases.")]
    scores, heat = system.score(batch.images, queries), system.heatmap(batch.images, queries)
    assert scores.shape == (6, 2) and heat.shape == (6, 2, 4, 4) and scores.abs().max() <= 1 + 1e-5
    asked = system.embed_texts([system.wording(Label(None, None, "effusion")), "Hazy patches at both bases."])
    assert torch.allclose(system.class_embeddings(queries), asked, atol=1e-6)
    name = system.class_embeddings([Query("covid-19", (), (), "covid-19")])
    assert torch.allclose(name, system.embed_texts(["covid-19"]), atol=1e-6)
    report = build(use_entities=False)
    pooled = [F.normalize(report.embed_texts(t).mean(0), dim=0) for t in (queries[0].positive, queries[0].negative)]
    assert torch.allclose(report.class_embeddings(queries[:1])[0], F.normalize(pooled[0] - pooled[1], dim=0), atol=1e-6)


def test_saved_and_read_again_it_answers_the_same(batch, tmp_path):
    system = build()
    system.save_pretrained(tmp_path)
    again = System.from_pretrained(tmp_path)
    assert isinstance(again, MedFILIP)
    assert torch.equal(again.score(batch.images, [Query.about("edema")]), system.score(batch.images, [Query.about("edema")]))  # fmt: skip


def test_hand_made_nearness():
    assert ontology_similarity(MILD, MILD) == 1 and ontology_similarity(MILD, SEVERE) == pytest.approx(0.2)
    assert ontology_similarity(MILD, Label("moderate", "left", "effusion")) == pytest.approx(0.6)
    assert ontology_similarity(MILD, Label("mild", "right", "effusion")) == pytest.approx(0.5)
    assert ontology_similarity(MILD, Label("mild", "left", "pneumothorax")) == pytest.approx(0.3)
    assert ontology_similarity(MILD, Label("mild", "left", "cardiomegaly")) == 0
    moderate, silent = (Label(severity, "left", "effusion") for severity in ("moderate", None))
    for dial in (0.0, 0.2, 1.0):
        assert ontology_similarity(MILD, SEVERE, dial) == pytest.approx(dial)
        assert ontology_similarity(MILD, moderate, dial) == pytest.approx((1 + dial) / 2)
        assert ontology_similarity(MILD, silent, dial) == pytest.approx(0.75 + 0.3125 * (dial - 0.2))
    with pytest.raises(ValueError, match=r"similarity of mild and severe must lie in \[0, 1\], got 1.5"):
        ontology_similarity(MILD, SEVERE, 1.5)
    for one, other in ((MILD, SEVERE), (MILD, Label(None, "both bases", "edema"))):
        assert ontology_similarity(one, other) == ontology_similarity(other, one)


def test_probes_read_images_as_the_system_prepares_them():
    system = build(image_encoder="resnet50", grey=(0.4, 0.3))
    dataset = StudyDataset(made_up_studies(3), size=32)
    images = torch.from_numpy(dataset.images).unsqueeze(1).float() / 255
    with torch.no_grad():
        expected = system.image_encoder.body(((images - 0.4) / 0.3).expand(-1, 3, -1, -1))
        assert torch.allclose(system.image_features(images), expected)
        projected = system.image_projection(expected.permute(0, 2, 3, 1))
        assert torch.allclose(system.local_features(images), projected, atol=1e-5)


TWO_PROCESSES = """
import torch, torch.distributed as dist
from test_medfilip import REPORTS, build
from conftest import made_up_studies
from medvlp_lite.studies import StudyDataset, collate
dist.init_process_group("gloo")
rank, data = dist.get_rank(), StudyDataset(made_up_studies(8), size=32)

def part(rows):
    batch = collate([data[i] for i in rows])
    batch.reports = [REPORTS[i % 3] for i in rows]
    return batch

ways, results = ({}, {"use_entities": False}), []
for options in ways:
    system = build(use_iki=False, **options)
    losses = system.loss(part(range(4 * rank, 4 * rank + 4)))
    losses.total.backward()
    gradient = torch.cat([p.grad.flatten() for p in system.parameters()])
    dist.all_reduce(gradient)
    results.append((losses.total, gradient / 2))
dist.destroy_process_group()
for options, (total, gradient) in zip(ways, results):
    whole = build(use_iki=False, **options)
    alone = whole.loss(part(range(8)))
    alone.total.backward()
    expected = torch.cat([p.grad.flatten() for p in whole.parameters()])
    say(torch.allclose(total, alone.total, atol=1e-5), torch.allclose(gradient, expected, atol=1e-5))
"""


def test_two_processes_learn_from_all_labels_of_both(tmp_path):
    assert run_two_processes(TWO_PROCESSES, tmp_path) == ["True True\nTrue True"] * 2


def test_a_table_of_labels_grows_and_says_the_same_of_each():
    whole, parts = build(use_iki=False), build(use_iki=False)
    labels = (MILD, SEVERE, Label(None, None, "nodule"))
    for label in labels:
        parts.labels.add([label])
    whole.labels.add(labels)
    assert parts.labels.place == whole.labels.place and parts.labels.category_of.tolist() == [0, 0, 1]
    assert torch.allclose(parts.labels.similarity, whole.labels.similarity, atol=1e-6)
    assert torch.allclose(whole.labels.similarity, whole.label_similarity(labels), atol=1e-6)
    texts = whole.labels.text_of[whole.labels.rows_of([labels[:2], (), labels[1:]])]
    assert texts.tolist() == [1, 2, 2, 3]
    assert torch.equal(whole.labels.token_ids[1:], whole.text_encoder.ids([whole.wording(label) for label in labels]))
