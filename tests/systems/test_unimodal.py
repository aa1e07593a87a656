"""The shared start: no image meets a report, what is hidden is guessed, and a system takes over what fits."""

import pytest
import torch
import torch.nn.functional as F
from small_systems import build

from medvlp_lite.encoders.text import MASK
from medvlp_lite.experiments.runner import with_encoders
from medvlp_lite.studies import collate
from medvlp_lite.systems.unimodal import Unimodal, UnimodalConfig


@pytest.fixture
def start(dataset):
    return build("unimodal", dataset)


def losses(system, batch):
    torch.manual_seed(3)
    return system.loss(batch).terms


def test_images_and_reports_never_meet(start, dataset):
    batch = collate([dataset[i] for i in range(6)])
    other = collate([dataset[i] for i in (0, 1, 2, 3, 5, 4)])
    before = losses(start, batch)
    batch.reports = other.reports
    assert losses(start, batch)["views"] == before["views"]
    grown = start.train()
    grown.loss(batch).terms["views"].backward()
    assert all(p.grad is None for p in grown.text_encoder.parameters())
    assert all(p.grad is not None for p in grown.image_encoder.parameters())


def test_word_loss_equals_a_loop_over_what_is_hidden(start, dataset):
    ids = start.text_inputs(dataset.reports[:24], [()] * 24)["token_ids"]
    torch.manual_seed(1)
    found = start.word_loss(ids)
    torch.manual_seed(1)
    draw = torch.rand(ids.shape)
    special = {start.tokenizer.pad_id, start.tokenizer.start_id, start.tokenizer.end_id}
    hidden = [
        (b, i) for b in range(24) for i in range(ids.shape[1]) if draw[b, i] < 0.15 and int(ids[b, i]) not in special
    ]
    seen = ids.clone()
    for b, i in hidden:
        seen[b, i] = start.tokenizer.id_of(MASK)
    states, _ = start.text_encoder.encode(seen)
    table = start.text_encoder.bert.embeddings.word_embeddings.weight
    each = [
        F.cross_entropy(table @ start.word_head(states[b, i]) + start.word_bias, ids[b, i].long()) for b, i in hidden
    ]
    assert len(hidden) > 3 and torch.isclose(found, torch.stack(each).mean(), atol=1e-5)


def test_every_fourth_text_is_a_description(dataset):
    texts = ("A white band at the base.", "A round spot.")
    system = Unimodal(build("unimodal", dataset).tokenizer, UnimodalConfig(image_size=32, max_length=24, texts=texts))
    ids = system.text_inputs(dataset.reports[:9], [()] * 9)["token_ids"]
    for row, text in ((0, texts[0]), (4, texts[1]), (8, texts[0])):
        own = system.text_encoder.ids([text])[0]
        assert ids[row, : len(own)].tolist() == own.tolist()


def test_a_system_starts_from_the_encoders_that_it_has_too(start, dataset):
    system = with_encoders(build("convirt", dataset), start)
    for part in ("image_encoder", "text_encoder"):
        mine, its = getattr(system, part).state_dict(), getattr(start, part).state_dict()
        assert all(torch.equal(mine[name], its[name]) for name in its)
    assert with_encoders(build("supervised", dataset), start).embed_images(torch.zeros(2, 1, 32, 32)).shape == (2, 128)
    other = build("maco", dataset)
    before = other.image_encoder.patches.weight.clone()
    assert torch.equal(with_encoders(other, start).image_encoder.patches.weight, before), (
        "a transformer is of another kind"
    )
    with pytest.raises(ValueError, match="text_encoder of convirt cannot start from unimodal"):
        with_encoders(build("convirt", dataset, text_encoder=(32, 1, 2)), start)


def test_an_unknown_piece_is_refused(start):
    with pytest.raises(ValueError, match="no piece"):
        start.tokenizer.id_of("@@nothing@@")
