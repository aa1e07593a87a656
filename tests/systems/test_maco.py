import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies

from medvlp_lite.components.contrastive import info_nce
from medvlp_lite.components.masked_contrastive import patch_weights, sample_sentences, sentence_pieces
from medvlp_lite.components.reconstruction import random_masking, shrink
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems import maco
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.maco import MaCo, MaCoConfig
from medvlp_lite.training import TrainingConfig, fit

REPORTS = [
    "There is a small effusion. No nodule.",
    "Mild edema. The heart is normal. No effusion.",
    "Opacity number 3.",
]
SMALL = {"vit": (16, 2, 2, 4), "decoder": (16, 1, 2), "text_encoder": (16, 1, 2), "dim": 16, "image_size": 32}


def build(**options) -> MaCo:
    torch.manual_seed(0)
    return MaCo(ReportTokenizer.train(REPORTS, 120), MaCoConfig(**{**SMALL, **options})).eval()


@pytest.fixture(scope="module")
def data():
    return StudyDataset(made_up_studies(24), size=32)


@pytest.fixture(scope="module")
def batch(data):
    out = collate([data[i] for i in range(6)])
    out.reports = REPORTS * 2
    return out


def test_total_weighs_by_lambda_or_adds_as_the_released_code(batch):
    losses = build().loss(batch)
    terms = losses.terms
    assert set(terms) == {"reconstruction", "contrastive"}
    expected = 0.9 * terms["reconstruction"] + 0.1 * terms["contrastive"]
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    losses = build(lam=None).loss(batch)
    assert losses.total.item() == pytest.approx(sum(losses.terms.values()).item(), rel=1e-6)
    assert set(build(contrastive=False).loss(batch).terms) == {"reconstruction"}
    alone = build(lam=0.0).loss(batch)
    assert alone.total.item() == pytest.approx(alone.terms["contrastive"].item(), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"weighting": "none"}, {"weighting": "split"}, {"weighting": "joint_normalised"}, {"affine": True}, {"contrastive": False}, {"weighting": "arxiv"}, {"text_pool": "mean"},
     {"lam": 0}, {"hr": False}, {"mask_ratio": 0}, {"lam": None}],
)  # fmt: skip
def test_what_can_learn_gets_a_gradient_and_nothing_else_asks_for_one(options, batch):
    system = build(**options).train()
    torch.manual_seed(1)
    system.importance_score.weight.data.normal_()
    losses = system.loss(batch)
    losses.total.backward()
    assert losses.total.isfinite()
    silent = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent, "else several processes cannot train"


def test_the_decoder_reconstructs_the_full_image_or_what_the_encoder_saw(batch):
    visible = random_masking(6, 4, 0.5)
    assert build().reconstruct(batch.images, visible).shape == (6, 1, 32, 32)
    assert build(hr=False).reconstruct(batch.images, visible).shape == (6, 1, 16, 16)
    plain = build(hr=False, downsample=1)
    assert plain.reconstruct(batch.images, random_masking(6, 8, 0.5)).shape == (6, 1, 32, 32)


def test_a_view_of_all_patches_is_the_image_vector(batch):
    system = build()
    everything = torch.arange(16).expand(6, -1)
    view = F.normalize(system.view(batch.images, everything), dim=-1)
    assert torch.allclose(view, system.embed_images(batch.images), atol=1e-5)


def test_score_and_map_agree_where_no_patch_is_weighted(batch):
    system, queries = build(), [Query.about("effusion"), Query("edema", ("Edema.",))]
    positive, negative = system.prompts(queries)
    score = system.score(batch.images, queries)
    maps = system.ground(batch.images, positive - negative, tau_w=None, sigma=0)
    assert torch.equal(system.heatmap(batch.images, queries), system.ground(batch.images, positive - negative))
    assert maps.shape == (6, 2, 4, 4) and score.min() > 0 and score.max() < 1
    assert torch.allclose(maps.sum(dim=(2, 3)).sigmoid(), score, atol=1e-5), (
        "tokens are averaged, so are their products"
    )


def test_weights_of_patches_scale_the_map(batch):
    system, text = build(), torch.randn(1, 16)
    system.importance_score.weight.data = torch.randn(1, 16)
    shares = patch_weights(system.importance_score.weight[0], 0.02).view(4, 4)
    plain = system.ground(batch.images, text, tau_w=None, sigma=0)
    assert torch.allclose(system.ground(batch.images, text, sigma=0), plain * 16 * shares, atol=1e-5)


def test_sentences_read_once_are_chosen_and_shuffled_as_texts_would_be(batch):
    system = build()
    ids = system.text_inputs([*REPORTS, "none. .", "First one. Second."], [()] * 5)["sentence_ids"]
    marks = {"pad": system.tokenizer.pad_id, "start": 2, "end": system.tokenizer.end_id}
    possible = [
        {" ".join(order) for k in range(1, len(pieces) + 1) for order in itertools.permutations(pieces, k)} or {""}
        for pieces in map(sentence_pieces, [*REPORTS, "none. .", "First one. Second."])
    ]
    torch.manual_seed(0)
    drawn = [set() for _ in possible]
    for _ in range(150):
        for row, found in zip(sample_sentences(ids, 24, **marks), drawn):
            found.add(tuple(row[row != marks["pad"]].tolist()))
    for texts, found in zip(possible, drawn):
        assert found == {tuple(system.tokenizer([text], 24)[0].tolist()) for text in texts}
    long = sample_sentences(ids, 5, **marks)
    assert long.shape == (5, 5) and (long == marks["end"]).sum(dim=1).eq(1).all()


def test_the_loss_reads_a_whole_report_where_one_sentence_is_all(batch):
    system, single = build(mask_ratio=0, weighting="none"), batch.to("cpu")
    single.reports = ["Edema.", "No nodule.", "Opacity.", "No effusion.", "Normal heart.", "Small effusion."]
    images = system.embed_images(batch.images)
    cosine = images @ system.embed_texts(single.reports).t()
    expected = info_nce(cosine, 0.03)
    assert system.loss(single).terms["contrastive"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_image_as_small_as_the_encoder_takes_it_is_not_shrunk_again(batch):
    system = build()
    side = system.image_encoder.grid * system.image_encoder.stride
    small = shrink(batch.images, system.config.downsample)
    assert small.shape[-1] == side
    assert torch.equal(system.embed_images(small), system.embed_images(batch.images))
    with pytest.raises(ValueError, match="takes images of side"):
        system.embed_images(torch.rand(1, 1, side // 2, side * 2))


def test_the_contrast_is_taken_in_full_precision(batch):
    system = build(weighting="split")
    images, texts, scores = torch.randn(16, 24), torch.randn(16, 24), torch.randn(16)
    exact = system.contrast(images, texts, scores)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(system.contrast(images, texts, scores), exact)


@pytest.mark.parametrize("wrong", [{"mask_ratio": 1.0}, {"image_size": 33}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="need 0 <= mask_ratio < 1"):
        build(**wrong)


def test_the_score_layer_learns_at_its_own_rate_and_leaves_a_trace(data):
    slow, fast = (build(score_rate=rate, trace_every=2, weighting="split") for rate in (1.0, 50.0))
    for system in (slow, fast):
        fit(system, data, TrainingConfig(6, 8, 1e-3, warmup=0.0, augment=False), log=None)
    size = [system.importance_score.weight.abs().mean().item() for system in (slow, fast)]
    assert 20 < size[1] / size[0] < 80
    trace = fast.weights_by_step()
    assert list(trace) == [0, 2, 4, 6] and trace[0].abs().sum() == 0 and trace[4].abs().sum() > 0
    assert torch.equal(trace[6], fast.importance_score.weight[0]) and build().weight_trace.shape == (0, 16)


def test_the_temperature_moves_by_its_own_rate(data):
    """1 / temperature starts at 33 and moves by about the learning rate in each step: without a rate of its own it stands."""
    plan = TrainingConfig(8, 8, 1e-3, warmup=0.0, augment=False)
    moved = {}
    for rate in (1.0, 30.0):
        system = build(temperature_rate=rate)
        before = system.logit_multiplier.item()
        fit(system, data, plan, log=None)
        moved[rate] = abs(system.logit_multiplier.item() - before) / before
    assert moved[1.0] < 3e-4 < 3e-3 < moved[30.0] < 8e-3


def test_only_training_images_are_turned(batch, monkeypatch):
    seen = []
    monkeypatch.setattr(maco, "random_affine", lambda images: seen.append(images) or images)
    system = build(affine=True)
    system.eval().loss(batch)
    assert not seen
    system.train().loss(batch)
    build().train().loss(batch)
    assert len(seen) == 1


def test_a_full_trace_keeps_every_other_row(batch):
    system = build(trace_every=3, contrastive=False).train()
    for step in range(250):
        system.importance_score.weight.data.fill_(float(step))
        system.loss(batch)
    trace = system.weights_by_step()
    assert list(trace) == [*range(0, 250, 12), 250], "3 rows apart until 96, 6 until 192, then 12"
    assert all(weights[0] == min(step, 249) for step, weights in trace.items())


def test_resumed_equals_uninterrupted_with_rates_and_trace(data, tmp_path):
    plan, options = TrainingConfig(6, 8, 1e-3), {"score_rate": 20.0, "trace_every": 1}
    whole = build(**options)
    fit(whole, data, plan, log=None)

    class Stop(Exception):
        pass

    def stop(text):
        if text.startswith("step 4/"):
            raise Stop

    cut = build(**options)
    with pytest.raises(Stop):
        fit(cut, data, plan, checkpoints=tmp_path, checkpoint_every=2, log=stop, log_every=1)
    again = build(**options)
    fit(again, data, plan, checkpoints=tmp_path, checkpoint_every=2, log=None)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), again.state_dict()[name].nan_to_num()), name


def test_saved_and_loaded_it_answers_the_same(tmp_path, batch):
    system = build(weighting="arxiv", trace_every=3)
    system.save_pretrained(tmp_path)
    assert torch.equal(
        System.from_pretrained(tmp_path).score(batch.images, [Query.about("edema")]),
        system.score(batch.images, [Query.about("edema")]),
    )


@pytest.mark.parametrize("name", ["weighting", "text_pool"])
def test_unknown_choices_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        build(**{name: "other"})
