import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies

from medvlp_lite.encoders.clip_text import END
from medvlp_lite.encoders.sentence import STORED, SentenceEncoder, mask_tokens, pretrain
from medvlp_lite.encoders.text import MASK, SPECIAL_TOKENS, ReportTokenizer
from medvlp_lite.evaluation import grading
from medvlp_lite.evaluation.inference import pooled_features
from medvlp_lite.official import medfilip as released
from medvlp_lite.reports.structured_labels import Label, ontology_similarity, reported_labels, true_labels
from medvlp_lite.studies import Finding, StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.medfilip import MedFILIP

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
    return MedFILIP(ReportTokenizer.train(REPORTS, 120), **settings).eval()


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


def test_the_label_matrix_of_each_rung(batch):
    owned = [(MILD,), (SEVERE, Label(None, None, "nodule")), ()]
    rows = lambda **options: build(use_iki=False, **options)._label_matrix(owned)[1]  # noqa: E731
    by_category = rows(use_ssm=False)
    assert by_category.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert rows(use_ssm=False, hard_labels="text").tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    soft, gated = rows(), rows(same_category_only=True)
    assert torch.allclose(soft.max(), torch.tensor(1.0)) and 0 < soft[0, 1] < 1 and soft[2].eq(0).all()
    assert gated[0, 2] == 0 and torch.equal(gated[0, :2], soft[0, :2])
    graded = rows(similarity_model="ontology")
    assert graded[0, 1] == pytest.approx(0.2) and graded[0, 2] == 0


def test_the_loss_is_the_formula(batch):
    system = build(use_iki=False)
    terms = system.loss(batch)
    owned = system.labels_of(batch)
    texts = [system.wording(label) for row in owned for label in row]
    cosine = system.embed_images(batch.images) @ system.embed_texts(texts).T
    matrix = torch.zeros_like(cosine)
    vectors = system._similarity_vectors(texts)
    start = 0
    for i, row in enumerate(owned):
        for a in range(start, start + len(row)):
            matrix[i] = torch.maximum(matrix[i], vectors @ vectors[a])
        start += len(row)
    assert terms.terms["mse"].item() == pytest.approx(((cosine - matrix) ** 2).mean().item(), rel=1e-4)
    entropy = F.binary_cross_entropy_with_logits(cosine / 0.07, matrix.clamp(max=1))
    assert terms.terms["ce"].item() == pytest.approx(entropy.item(), rel=1e-4)
    assert terms.total.item() == pytest.approx(sum(t.item() for t in terms.terms.values()), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_entities": False}, {"use_ssm": False}, {"triplets": "truth"}, {"ce": "softmax"}])  # fmt: skip
def test_every_rung_trains_both_encoders(options, batch):
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
    for option in ("ce", "mse_on", "hard_labels", "triplets", "template"):
        with pytest.raises(ValueError, match=f"{option} must be one of"):
            build(**{option: "other"})


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
    for one, other in ((MILD, SEVERE), (MILD, Label(None, "both bases", "edema"))):
        assert ontology_similarity(one, other) == ontology_similarity(other, one)


def test_masking_hides_words_and_never_special_tokens():
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (200, 40))
    shown, chosen = mask_tokens(ids, 50, share=0.3)
    special = len(SPECIAL_TOKENS)
    assert not chosen[ids < special].any() and torch.equal(shown[~chosen], ids[~chosen])
    assert chosen[ids >= special].float().mean() == pytest.approx(0.3, abs=0.02)
    hidden = shown[chosen] == SPECIAL_TOKENS.index(MASK)
    assert (
        hidden.float().mean() == pytest.approx(0.8, abs=0.03) and (shown[chosen] == ids[chosen]).float().mean() > 0.08
    )


def test_pretraining_learns_and_is_stored(tmp_path):
    sentences = [f"{a} {b} in the {c}." for a in ("mild", "severe") for b in CATEGORIES for c in ("left lung", "right lung", "base")]  # fmt: skip
    model, losses = pretrain(sentences, ReportTokenizer.train(sentences, 100), steps=60, batch_size=16, max_length=16)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    model.store(tmp_path, "made up")
    again = SentenceEncoder.stored(tmp_path)
    assert torch.allclose(again(sentences[:3]), model(sentences[:3]), atol=2e-2)
    assert torch.allclose(again(sentences[:3]).norm(dim=1), torch.ones(3), atol=1e-5)
    assert again.centred(sentences)(sentences).mean(dim=0).norm() < again(sentences).mean(dim=0).norm()
    with pytest.raises(ValueError, match="needs at least as many sentences"):
        pretrain(sentences[:3], ReportTokenizer.train(sentences, 100), steps=1)


def test_mean_pooling_leaves_padding_out():
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 4.0], [9.0, 9.0]]])
    model = SentenceEncoder(lambda texts: (states, torch.tensor([[True, True], [True, False]])))
    assert torch.allclose(model(["a", "b"]), torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))


def test_a_hub_model_that_is_not_here_is_named(tmp_path):
    with pytest.raises(OSError, match="nothing' is not in the local cache"):
        SentenceEncoder.from_hub(str(tmp_path / "nothing"))


def test_the_stored_model_is_the_one_that_is_described():
    about = json.loads((STORED / "similarity_text.json").read_text(encoding="utf-8"))
    assert about["sha256"] == hashlib.sha256((STORED / "similarity_text.safetensors").read_bytes()).hexdigest()
    assert "phantom" in about["made_of"] and "no real report" in about["made_of"]


def test_probes_read_images_as_the_system_prepares_them():
    system = build(image_encoder_name="resnet50", grey=(0.4, 0.3))
    dataset = StudyDataset(made_up_studies(3), size=32)
    images = torch.from_numpy(dataset.images).unsqueeze(1).float() / 255
    with torch.no_grad():
        expected = system.image_encoder.body(((images - 0.4) / 0.3).expand(-1, 3, -1, -1))
        assert torch.allclose(system.image_features(images), expected)
        projected = system.image_projection(expected.permute(0, 2, 3, 1))
        assert torch.allclose(system.local_features(images), projected, atol=1e-5)
    assert np.allclose(pooled_features(system, dataset), expected.mean(dim=(2, 3)), atol=1e-5)


def test_zones_are_graded_from_images_as_the_system_prepares_them():
    system, studies = build(image_encoder_name="resnet50", grey=(0.4, 0.3)), made_up_studies(2)
    for study in studies:
        study.meta["brixia"] = {who: dict.fromkeys(grading.ZONES, 0) for who in ("senior", "junior")}
    zones = grading.zone_features(studies, system).features.reshape(2, 6, -1)[..., :-6]
    images = torch.from_numpy(StudyDataset(studies, size=grading.IMAGE_SIZE).images).unsqueeze(1).float() / 255
    with torch.no_grad():
        maps = system.image_features(images).numpy()
    inside = grading.zone_boxes(studies[0])[2].mask(*maps.shape[2:])
    assert np.allclose(zones[0, 2], maps[0][:, inside].mean(axis=1), atol=1e-5)


def clip_file():
    """A tokenizer with CLIP's special tokens at CLIP's numbers, and a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"<|startoftext|>": 49406, END: 49407, "mild": 11, "effusion": 25, ".": 3, "edema": 40000}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<|startoftext|> $A {END}", special_tokens=[("<|startoftext|>", 49406), (END, 49407)]
    )
    return ReportTokenizer(tokenizer.to_str())


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A file with the names and shapes of the released checkpoint and random numbers."""
    from torchvision.models import resnet50

    torch.manual_seed(3)
    trunk = resnet50(weights=None)
    trunk.fc = torch.nn.Linear(2048, 768)
    state = {f"image_model.{name}": tensor for name, tensor in trunk.state_dict().items()}
    shapes = {"embeddings.token_embedding.weight": (49408, 512), "embeddings.position_embedding.weight": (77, 512)}
    for i in range(12):
        layer = f"encoder.layers.{i}"
        for part in "qkv":
            shapes |= {
                f"{layer}.self_attn.{part}_proj.weight": (512, 512),
                f"{layer}.self_attn.{part}_proj.bias": (512,),
            }
        shapes |= {f"{layer}.self_attn.out_proj.weight": (512, 512), f"{layer}.self_attn.out_proj.bias": (512,)}
        shapes |= {f"{layer}.mlp.fc1.weight": (2048, 512), f"{layer}.mlp.fc1.bias": (2048,)}
        shapes |= {f"{layer}.mlp.fc2.weight": (512, 2048), f"{layer}.mlp.fc2.bias": (512,)}
        shapes |= {f"{layer}.layer_norm{k}.{w}": (512,) for k in (1, 2) for w in ("weight", "bias")}
    shapes |= {"final_layer_norm.weight": (512,), "final_layer_norm.bias": (512,)}
    state |= {f"text_model.{name}": torch.randn(shape) * 0.05 for name, shape in shapes.items()}
    state |= {"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.tensor(2.5)}
    state["text_projection.weight"] = torch.randn(768, 512) * 0.05
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save({"it": 7, "network": state}, path)
    return path, state, trunk.eval()


def test_an_official_checkpoint_converts_to_the_last_digit(official):
    path, state, trunk = official
    system = released.from_official(path, tokenizer=clip_file(), grey=(0.4, 0.3))
    images = torch.rand(2, 1, 64, 64)
    t = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}

    def norm(x, name):
        return F.layer_norm(x, (512,), t[f"{name}.weight"], t[f"{name}.bias"])

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def encode(ids):
        x = t["embeddings.token_embedding.weight"][ids] + t["embeddings.position_embedding.weight"][: len(ids)]
        for i in range(12):
            layer = f"encoder.layers.{i}"
            normed = norm(x, f"{layer}.layer_norm1")
            q, k, v = (
                linear(normed, f"{layer}.self_attn.{p}_proj").unflatten(1, (8, 64)).transpose(0, 1) for p in "qkv"
            )
            weights = q @ k.transpose(1, 2) / 8 + torch.full((len(ids), len(ids)), -torch.inf).triu(1)
            x = x + linear((weights.softmax(-1) @ v).transpose(0, 1).flatten(1), f"{layer}.self_attn.out_proj")
            hidden = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{layer}.mlp.fc2")
        return norm(x, "final_layer_norm")[-1] @ state["text_projection.weight"].T

    with torch.no_grad():
        pixels = ((images - 0.4) / 0.3).expand(-1, 3, -1, -1)
        expected_images = F.normalize(trunk(pixels), dim=-1)
        expected_texts = F.normalize(
            torch.stack([encode([49406, 11, 25, 49407]), encode([49406, 40000, 49407])]), dim=-1
        )
        assert torch.allclose(system.embed_images(images), expected_images, atol=1e-5)
        assert torch.allclose(system.embed_texts(["mild effusion", "edema"]), expected_texts, atol=1e-4)
    assert system.logit_scale.item() == 2.5
    assert (system.config["mse_on"], system.config["same_category_only"], system.config["clamp_min"]) == ("scaled", True, None)  # fmt: skip


def test_a_checkpoint_that_is_not_official_is_refused_with_a_list(official, tmp_path):
    _, state, _ = official
    wrong = {**state, "surprise": torch.zeros(1), "text_projection.weight": torch.zeros(3, 512)}
    wrong.pop("image_model.fc.bias")
    torch.save({"network": wrong}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"missing image_projection\.bias; unexpected surprise; text_projection\.weight is \(3, 512\)"):  # fmt: skip
        released.from_official(tmp_path / "wrong.pth", tokenizer=clip_file())
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        released.from_official(tmp_path / "text.pth", tokenizer=clip_file())


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from test_medfilip import CATEGORIES, REPORTS, build
from conftest import made_up_studies
from medvlp_lite.studies import StudyDataset, collate
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
data = StudyDataset(made_up_studies(8), size=32)
def part(rows):
    batch = collate([data[i] for i in rows])
    batch.reports = [REPORTS[i % 3] for i in rows]
    return batch
system = build(use_iki=False)
losses = system.loss(part(range(4 * rank, 4 * rank + 4)))
losses.total.backward()
gradient = torch.cat([p.grad.flatten() for p in system.parameters()])
dist.all_reduce(gradient)
dist.destroy_process_group()
if rank == 0:
    whole = build(use_iki=False)
    alone = whole.loss(part(range(8)))
    alone.total.backward()
    expected = torch.cat([p.grad.flatten() for p in whole.parameters()])
    assert torch.allclose(losses.total, alone.total, atol=1e-5), (losses.total, alone.total)
    assert torch.allclose(gradient / 2, expected, atol=1e-5), (gradient / 2 - expected).abs().max()
"""


def test_two_processes_learn_from_all_labels_of_both(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "two.py"), str(tmp_path / "meet")]
    tests = str(Path(__file__).parent)
    workers = [subprocess.Popen([*command, str(rank), tests], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
