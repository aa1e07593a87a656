import math

import numpy as np
import pytest
import torch
from conftest import made_up_studies

from medvlp_lite.encoders.descriptions import HashedTfidf
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official import medklip as official
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems import medklip
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.medklip import MedKLIP

ENTITIES = ("effusion", "nodule", "edema", "pneumothorax")
REPORTS = (
    "There is a small left pleural effusion. No pneumothorax.",
    "Nodule in the right upper lobe. No effusion or edema.",
    "Possible mild edema. The patient is rotated.",
)
SMALL = {"image_size": 32, "width": 16, "heads": 2, "layers": 2, "feedforward": 16}


def build(**options) -> MedKLIP:
    torch.manual_seed(0)
    return MedKLIP(ReportTokenizer.train(REPORTS, 120), entities=ENTITIES, **{**SMALL, **options}).eval()


@pytest.fixture(scope="module")
def batch():
    data = StudyDataset(made_up_studies(12), size=32)
    out = collate([data[i] for i in range(6)])
    out.reports = list(REPORTS) * 2
    return out


def test_targets_say_what_the_reports_say():
    targets = build().targets(REPORTS)
    places = vocabulary()["positions"]
    assert targets.shape == (3, 51, 4)
    assert targets[0, places.index("left_pleural"), 0] == 1 and (targets[0, :, 3] == 0).any()
    assert targets[1, places.index("upper_right_lobe"), 1] == 1 and (targets[1, :, 0] == 0).any()
    assert targets[2].isnan().all(), "a hedged finding is unknown, and so is an unmentioned one"


def test_loss_terms_and_switches(batch):
    both = build().loss(batch)
    assert set(both.terms) == {"existence", "position"} and both.total.isfinite()
    assert both.total.item() == pytest.approx((both.terms["existence"] + 0.3 * both.terms["position"]).item(), rel=1e-6)
    assert set(build(position_weight=0).loss(batch).terms) == {"existence"}
    assert build(existence="paper").loss(batch).terms["existence"].item() == pytest.approx(math.log(2), abs=0.2)
    assert -1 <= build(loc_log=False).loss(batch).terms["position"].item() <= 0
    with pytest.raises(ValueError, match="existence must be 'code' or 'paper'"):
        build(existence="maybe")


def test_a_batch_without_any_positive_entity_is_safe(batch):
    system = build().train()
    batch = batch.to("cpu")
    batch.reports = ["No effusion. No pneumothorax."] * 6
    losses = system.loss(batch)
    losses.total.backward()
    assert losses.terms["position"].item() == 0 and losses.total.isfinite()
    batch.reports = ["Rotated patient."] * 6
    assert system.loss(batch).total.item() == 0


def test_the_text_side_stays_frozen(batch):
    system = build().train()
    before = system.entity_vectors.clone()
    system.loss(batch).total.backward()
    trained = {name for name, p in system.named_parameters() if p.grad is not None}
    assert not [name for name in trained if "vectors" in name] and torch.equal(before, system.entity_vectors)
    assert {"query_projection.weight", "position_head.weight", "decoder.layers.0.norm1.weight"} <= trained


def test_heat_maps_are_the_mean_attention_of_all_layers(batch):
    system = build()
    queries = [Query.about("effusion"), Query.about("nodule")]
    layers = system.attention_by_layer(batch.images, queries)
    heat = system.heatmap(batch.images, queries)
    assert layers.shape == (2, 6, 2, 4, 4) and torch.allclose(heat, layers.mean(0))
    assert torch.allclose(heat.sum(dim=(2, 3)), torch.ones(6, 2), atol=1e-5)


def test_an_unseen_entity_is_asked_by_its_description(batch):
    system = build()
    unseen = Query("covid-19", (), (), "Ground-glass opacities at the periphery of both lung bases.")
    other = Query("covid-19", (), (), "A rounded dense lesion.")
    scores = [system.score(batch.images, [query]) for query in (unseen, other)]
    assert scores[0].shape == (6, 1) and not torch.allclose(*scores)
    with_it = torch.cat([system.entity_vectors, system.texts([unseen.description])])
    logits = system.existence_head(system.fuse(batch.images, with_it)[0])[:, -1]
    assert torch.allclose(scores[0][:, 0], logits[:, 1] - logits[:, 0], atol=1e-6), (
        "one more query among the known ones"
    )


def test_an_answer_does_not_depend_on_what_else_is_asked(batch):
    system = build()
    asked = [Query("covid-19", (), (), "Ground-glass opacities."), Query.about("effusion"), Query("covid-19", (), (), "A mass.")]  # fmt: skip
    together = system.score(batch.images, asked)
    alone = torch.cat([system.score(batch.images, [query]) for query in asked], dim=1)
    assert torch.allclose(together, alone, atol=1e-6) and not torch.allclose(together[:, 0], together[:, 2])


def test_excluded_entities_stay_queries_and_teach_nothing(batch):
    system = build(excluded=("effusion",))
    place = system.config["entities"].index("effusion")
    fused = []
    system.dropout.register_forward_hook(lambda _, __, out: fused.append(out) or out.retain_grad())
    system.loss(batch).total.backward()
    taught = fused[0].grad.abs().sum(dim=(0, 2)) > 0
    assert not taught[place] and taught.any() and len(taught) == len(system.config["entities"])
    with pytest.raises(ValueError, match="excluded names no entity of this system: gout"):
        build(excluded=("gout",))


def test_without_a_position_loss_its_head_asks_for_no_gradient(batch):
    system = build(position_weight=0.0)
    system.loss(batch).total.backward()
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad), (
        "else several processes cannot train"
    )


def test_names_instead_of_descriptions():
    described, named = build(), build(use_descriptions=False)
    assert not torch.allclose(described.entity_vectors, named.entity_vectors)
    texts = HashedTfidf(["a"])
    assert texts.width == named.entity_vectors.shape[1]


def test_flip_mirrors_left_and_right_in_the_labels(batch, monkeypatch):
    places = vocabulary()["positions"]
    order = medklip._mirror_order()
    assert places[order[places.index("left_pleural")]] == "right_pleural"
    assert places[order[places.index("upper_left_lobe")]] == "upper_right_lobe"
    assert order[places.index("heart_size")] == places.index("heart_size")
    assert [order[i] for i in order] == list(range(51))
    system = build(flip=True)
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(6))
    adjacency = system.targets(batch.reports)
    flipped, mirrored = system._flip(batch, adjacency)
    assert torch.equal(flipped.images, batch.images.flip(3))
    left, right = places.index("left_pleural"), places.index("right_pleural")
    assert mirrored[0, right, 0] == 1 and mirrored[0, left, 0].isnan()
    system.config["mirror_positions"] = False
    assert system._flip(batch, adjacency)[1][0, left, 0] == 1


def test_word_vectors_put_related_texts_nearer():
    texts = HashedTfidf(["opacity in the lung", "fluid in the pleural space", "air outside the lung"])
    a, b, c = texts(["fluid in the pleural space", "pleural fluid on the left", "broken rib"])
    assert a @ b > a @ c + 0.1
    assert np.allclose(texts(["fluid in the pleural space"])[0], a) and torch.allclose(a.norm(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="at least one word"):
        texts(["123"])


def official_file(tmp_path, **changes):
    """A file with the names and shapes of the released checkpoint and random numbers."""
    torch.manual_seed(3)
    from torchvision.models import resnet50

    trunk = torch.nn.Sequential(*list(resnet50(weights=None).children())[:-3])
    for name, tensor in trunk.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    state = {f"module.res_features.{name}": tensor for name, tensor in trunk.state_dict().items()}
    shapes = {
        "res_l1": (1024, 1024),
        "res_l2": (256, 1024),
        "disease_embedding_layer": (256, 768),
        "cl_fc": (768, 256),
        "classifier": (2, 256),
    }
    for i in range(4):
        for attention in ("self_attn", "multihead_attn"):
            state[f"module.decoder.layers.{i}.{attention}.in_proj_weight"] = torch.randn(768, 256) * 0.05
            state[f"module.decoder.layers.{i}.{attention}.in_proj_bias"] = torch.randn(768) * 0.05
            shapes[f"decoder.layers.{i}.{attention}.out_proj"] = (256, 256)
        shapes |= {f"decoder.layers.{i}.linear1": (1024, 256), f"decoder.layers.{i}.linear2": (256, 1024)}
        shapes |= {f"decoder.layers.{i}.norm{k}": (256,) for k in (1, 2, 3)}
    shapes["decoder.norm"] = (256,)
    for name, shape in shapes.items():
        state[f"module.{name}.weight"] = torch.randn(shape) * 0.05
        state[f"module.{name}.bias"] = torch.randn(shape[0]) * 0.05
    state = {**state, **changes}
    torch.save({"model": state, "epoch": 99}, tmp_path / "official.pth")
    return tmp_path / "official.pth", {name.removeprefix("module."): tensor for name, tensor in state.items()}, trunk


def test_an_official_checkpoint_converts_to_the_last_digit(tmp_path):
    path, state, trunk = official_file(tmp_path)
    book, places = torch.randn(75, 768), torch.randn(51, 768)
    system = official.from_official(path, entity_vectors=book, position_vectors=places)
    images = torch.rand(1, 1, 64, 64)
    scores = system.score(images, [Query.about("effusion"), Query.about("pneumothorax")])

    pixels = (images.expand(-1, 3, -1, -1) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    linear = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731
    norm = lambda x, name: torch.nn.functional.layer_norm(x, (256,), state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731

    def attend(q, kv, name):
        weight, bias = state[f"{name}.in_proj_weight"].chunk(3), state[f"{name}.in_proj_bias"].chunk(3)
        heads = [(x @ w.T + b).unflatten(-1, (4, 64)).transpose(0, 1) for x, w, b in zip((q, kv, kv), weight, bias)]
        mixed = (heads[0] @ heads[1].transpose(1, 2) / 8).softmax(-1) @ heads[2]
        return linear(mixed.transpose(0, 1).flatten(1), f"{name}.out_proj")

    with torch.no_grad():
        grid = trunk.eval()(pixels)[0].flatten(1).T
        memory = linear(linear(grid, "res_l1").relu(), "res_l2")
        state_of = linear(book, "disease_embedding_layer")
        for i in range(4):
            layer = f"decoder.layers.{i}"
            normed = norm(state_of, f"{layer}.norm1")
            state_of = state_of + attend(normed, normed, f"{layer}.self_attn")
            state_of = state_of + attend(norm(state_of, f"{layer}.norm2"), memory, f"{layer}.multihead_attn")
            state_of = state_of + linear(
                linear(norm(state_of, f"{layer}.norm3"), f"{layer}.linear1").relu(), f"{layer}.linear2"
            )
        logits = linear(norm(state_of, "decoder.norm"), "classifier")
    names = vocabulary()["entities"]
    expected = torch.stack(
        [logits[names.index(n), 1] - logits[names.index(n), 0] for n in ("effusion", "pneumothorax")]
    )
    assert torch.allclose(scores[0], expected, atol=1e-4)
    assert torch.equal(system.position_vectors, places)


def test_one_given_book_of_text_vectors_is_kept(tmp_path, monkeypatch):
    path, _, _ = official_file(tmp_path)
    monkeypatch.setattr(medklip, "_text_model", lambda name: lambda texts: torch.zeros(len(texts), 768))
    book = torch.randn(75, 768)
    system = official.from_official(path, entity_vectors=book)
    assert torch.equal(system.entity_vectors, book) and not system.position_vectors.any()
    with pytest.raises(ValueError, match=r"position_vectors must be \(51, 768\), got \(50, 768\)"):
        official.from_official(path, entity_vectors=book, position_vectors=torch.zeros(50, 768))


def test_a_checkpoint_that_is_not_official_is_refused_with_a_list(tmp_path):
    path, _, _ = official_file(
        tmp_path, **{"module.surprise.weight": torch.zeros(3), "module.cl_fc.bias": torch.zeros(5)}
    )
    with pytest.raises(ValueError, match=r"unexpected surprise\.weight; position_head\.bias is \(5,\), not \(768,\)"):
        official.from_official(path, entity_vectors=torch.zeros(75, 768), position_vectors=torch.zeros(51, 768))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as a file of tensors"):
        official.from_official(tmp_path / "text.pth")


def test_saved_without_a_text_model_it_still_answers(tmp_path, batch):
    system = build()
    system.save_pretrained(tmp_path)
    again = MedKLIP.from_pretrained(tmp_path)
    assert torch.equal(again.entity_vectors, system.entity_vectors)
    query = [Query("covid-19", (), (), "Ground-glass opacities.")]
    assert torch.equal(again.score(batch.images, query), system.score(batch.images, query))
