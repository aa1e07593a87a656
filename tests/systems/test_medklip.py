import pytest
import torch
from conftest import made_up_studies

from medvlp_lite import experiments
from medvlp_lite.components.entity_fusion import entity_labels, existence_loss, position_loss, sample_positions
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.medklip import MedKLIP, MedKLIPConfig

ENTITIES = ("effusion", "nodule", "edema", "pneumothorax")
REPORTS = (
    "There is a small left pleural effusion. No pneumothorax.",
    "Nodule in the right upper lobe. No effusion or edema.",
    "Possible mild edema. The patient is rotated.",
)
SMALL = {"image_size": 32, "width": 16, "heads": 2, "layers": 2, "feedforward": 16}


def build(**options) -> MedKLIP:
    torch.manual_seed(0)
    return MedKLIP(ReportTokenizer.train(REPORTS, 120), MedKLIPConfig(ENTITIES, **{**SMALL, **options})).eval()


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


def test_labels_are_read_once_per_data_set_and_compact():
    system = build()
    codes = system.text_inputs(REPORTS, ())["adjacency"]
    assert codes.dtype == torch.int8 and set(codes.unique().tolist()) == {-1, 0, 1}
    targets = system.targets(REPORTS)
    assert torch.equal(codes == -1, targets.isnan()) and torch.equal(codes[codes >= 0].float(), targets[codes >= 0])


def test_the_loss_is_the_sum_of_its_components(batch):
    system = build()
    torch.manual_seed(5)
    losses = system.loss(batch)
    targets = system.targets(batch.reports)
    labels, fused = entity_labels(targets), system.fuse(batch.images, system.entity_vectors)[0]
    torch.manual_seed(5)
    position = position_loss(
        system.position_head(fused), system.position_vectors, sample_positions(targets, 7, "entity"), labels == 1
    )
    existence = existence_loss(system.existence_head(fused), labels)
    assert torch.allclose(losses.terms["existence"], existence) and torch.allclose(losses.terms["position"], position)
    assert losses.total.item() == pytest.approx((existence + 0.3 * position).item(), rel=1e-6)
    assert set(build(position_weight=0).loss(batch).terms) == {"existence"}


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


def test_without_a_position_loss_its_head_asks_for_no_gradient(batch):
    system = build(position_weight=0.0)
    system.loss(batch).total.backward()
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad), (
        "else several processes cannot train"
    )


def test_names_instead_of_descriptions():
    described, named = build(), build(use_descriptions=False)
    assert not torch.allclose(described.entity_vectors, named.entity_vectors)
    assert described.config.text_width == named.config.text_width == described.entity_vectors.shape[1]


def test_saved_without_a_text_model_it_still_answers(tmp_path, batch):
    system = build()
    system.save_pretrained(tmp_path)
    again = MedKLIP.from_pretrained(tmp_path)
    assert torch.equal(again.entity_vectors, system.entity_vectors)
    query = [Query("covid-19", (), (), "Ground-glass opacities.")]
    assert torch.equal(again.score(batch.images, query), system.score(batch.images, query))


def test_the_decoder_norms_what_it_reads_and_drops_nothing():
    for system in (experiments.load_pretrained("medklip"), build()):
        assert (system.config.memory_norm, system.config.dropout) == (True, 0.0)
    assert {n for n in dict(build().named_parameters()) if "memory_norm" in n} == {
        "decoder.memory_norm.weight",
        "decoder.memory_norm.bias",
    }


def test_one_hot_queries_hold_no_text(tmp_path, batch):
    system = build(text_model="one-hot")
    system.save_pretrained(tmp_path)
    again, asked = MedKLIP.from_pretrained(tmp_path), [Query.about("nodule")]
    assert torch.equal(again.score(batch.images, asked), system.score(batch.images, asked))
    products = system.entity_vectors @ system.entity_vectors.T
    assert torch.allclose(products, 55 * torch.eye(4)), "4 entities and 51 positions, no two of which share a number"
    assert not (system.entity_vectors @ system.position_vectors.T).any()
    assert set(system.loss(batch).terms) == {"existence", "position"}
    with pytest.raises(ValueError, match="one-hot queries know no text"):
        system.score(batch.images, [Query("covid-19", (), (), "A rounded dense lesion.")])


def test_swapped_descriptions_ask_one_entity_about_another():
    right, wrong = build().targets(REPORTS), build(shuffled="descriptions").targets(REPORTS)
    for place, name in enumerate(ENTITIES):
        other = ENTITIES.index({"effusion": "edema", "nodule": "pneumothorax"}.get(name, name))
        if other != place:
            assert torch.equal(wrong[:, :, other].nan_to_num(-1), right[:, :, place].nan_to_num(-1))
    assert torch.equal(build().entity_vectors, build(shuffled="descriptions").entity_vectors), (
        "asked with the right ones"
    )


def test_shuffled_positions_keep_who_has_what():
    sides = ["Left effusion. Nodule in the right upper lobe.", "Right effusion.", "No effusion."] * 8
    right, wrong = build().targets(sides), build(shuffled="positions").targets(sides)
    assert torch.equal(entity_labels(right).nan_to_num(-1), entity_labels(wrong).nan_to_num(-1))
    has = entity_labels(right)[:, 0] == 1
    assert torch.equal(right[~has].nan_to_num(-1), wrong[~has].nan_to_num(-1))
    assert not torch.equal(right[has, :, 0].nan_to_num(-1), wrong[has, :, 0].nan_to_num(-1))
    rows = [sorted(map(tuple, part[has, :, 0].nan_to_num(-1).tolist())) for part in (right, wrong)]
    assert rows[0] == rows[1], "the same places, of other studies"
    with pytest.raises(ValueError, match="shuffled is 'descriptions', 'positions' or ''"):
        build(shuffled="names")
