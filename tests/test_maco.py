import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import made_up_studies

from medvlp_lite.components.masked_contrastive import importance, patch_weights
from medvlp_lite.components.reconstruction import patchify, position_map, random_masking, shrink
from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official import maco as official
from medvlp_lite.studies import StudyDataset, collate
from medvlp_lite.systems.base import Query, System
from medvlp_lite.systems.maco import MaCo, shuffled_sentences
from medvlp_lite.training import TrainingConfig, fit

REPORTS = [
    "There is a small effusion. No nodule.",
    "Mild edema. The heart is normal. No effusion.",
    "Opacity number 3.",
]
SMALL = {"vit": [16, 2, 2, 4], "decoder": [16, 1, 2], "text_variant": [16, 1, 2], "dim": 16, "image_size": 32}


def build(**options) -> MaCo:
    torch.manual_seed(0)
    return MaCo(ReportTokenizer.train(REPORTS, 120), **{**SMALL, **options}).eval()


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
    losses = build(lambda_mode="sum").loss(batch)
    assert losses.total.item() == pytest.approx(sum(losses.terms.values()).item(), rel=1e-6)
    assert set(build(contrastive=False).loss(batch).terms) == {"reconstruction"}
    assert set(build(lam=0).loss(batch).terms) == {"contrastive"}


@pytest.mark.parametrize(
    "options",
    [{}, {"weighting": "none"}, {"weighting": "loss"}, {"contrastive": False}, {"version": "v1"}, {"text_pool": "cls"},
     {"lam": 0}, {"hr": False}, {"mask_ratio": 0}, {"version": "v1", "weighting": "none"}],
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


def test_the_decoder_draws_the_full_image_or_what_the_encoder_saw(batch):
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
    system, queries = build(tau_w=None, smooth_sigma=0), [Query.about("effusion"), Query("edema", ("Edema.",))]
    score, maps = system.score(batch.images, queries), system.heatmap(batch.images, queries)
    assert maps.shape == (6, 2, 4, 4) and score.min() > 0 and score.max() < 1
    assert torch.allclose(maps.sum(dim=(2, 3)).sigmoid(), score, atol=1e-5), (
        "tokens are averaged, so are their products"
    )


def test_weights_of_patches_scale_the_map(batch):
    system, query = build(smooth_sigma=0), [Query.about("edema")]
    system.importance_score.weight.data = torch.randn(1, 16)
    shares = patch_weights(system.importance_score.weight[0], 0.02).view(4, 4)
    plain = build(smooth_sigma=0, tau_w=None).heatmap(batch.images, query)
    assert torch.allclose(system.heatmap(batch.images, query), plain * 16 * shares, atol=1e-5)


def test_sentences_are_chosen_and_shuffled():
    torch.manual_seed(0)
    report = "First one.  Second. none. . Third"
    drawn = {shuffled_sentences(report) for _ in range(200)}
    pieces = {piece.strip() for text in drawn for piece in text.split(".")} - {""}
    assert pieces == {"First one", "Second", "Third"}
    lengths = [text.count(".") for text in (shuffled_sentences(report) for _ in range(600))]
    assert all(abs(lengths.count(k) / 600 - 1 / 3) < 0.08 for k in (1, 2, 3))
    assert shuffled_sentences("") == "" and shuffled_sentences("One.") == "One."


def test_the_released_choice_of_sentences_counts_empty_pieces():
    torch.manual_seed(0)
    drawn = [shuffled_sentences("A is. B is.", empty=True).count(".") for _ in range(3000)]
    # of the three pieces, one empty, k = 1, 2 or 3 stay: none 1/9, one 1/3 (2/3) + 1/3 (2/3), two 1/3 (1/3) + 1/3
    assert all(abs(drawn.count(n) / 3000 - share) < 0.03 for n, share in enumerate((1 / 9, 4 / 9, 4 / 9)))


def test_an_image_as_small_as_the_encoder_takes_it_is_not_shrunk_again(batch):
    system = build()
    side = system.image_encoder.grid * system.image_encoder.stride
    small = shrink(batch.images, system.config["downsample"])
    assert small.shape[-1] == side
    assert torch.equal(system.embed_images(small), system.embed_images(batch.images))
    with pytest.raises(ValueError, match="takes images of side"):
        system.embed_images(torch.rand(1, 1, side // 2, side * 2))


def test_the_contrast_is_taken_in_full_precision(batch):
    system = build(weighting="split", temperature=0.03)
    images, texts, scores = torch.randn(16, 24), torch.randn(16, 24), torch.randn(16)
    exact = system.contrast(images, texts, scores)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(system.contrast(images, texts, scores), exact)


@pytest.mark.parametrize("wrong", [{"mask_ratio": 1.0}, {"temperature": 0.0}, {"image_size": 33}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="need 0 <= mask_ratio < 1"):
        build(**wrong)


def test_the_score_layer_learns_at_its_own_rate_and_leaves_a_trace(data):
    slow, fast = (build(score_rate=rate, trace_every=2, weighting="logits") for rate in (1.0, 50.0))
    for system in (slow, fast):
        fit(system, data, TrainingConfig(6, 8, 1e-3, warmup=0.0, augment=False), log=None)
    size = [system.importance_score.weight.abs().mean().item() for system in (slow, fast)]
    assert 20 < size[1] / size[0] < 80
    trace = fast.weights_by_step()
    assert list(trace) == [0, 2, 4, 6] and trace[0].abs().sum() == 0 and trace[4].abs().sum() > 0
    assert torch.equal(trace[6], fast.importance_score.weight[0]) and build().weight_trace.shape == (0, 16)


def test_a_full_trace_keeps_every_other_row():
    system = build(trace_every=3).train()
    for step in range(250):
        system.importance_score.weight.data.fill_(float(step))
        system._trace()
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
    system = build(version="v1", trace_every=3)
    system.save_pretrained(tmp_path)
    assert torch.equal(
        System.from_pretrained(tmp_path).score(batch.images, [Query.about("edema")]),
        system.score(batch.images, [Query.about("edema")]),
    )


@pytest.mark.parametrize("name", ["version", "weighting", "lambda_mode", "text_pool", "sentences"])
def test_unknown_choices_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        build(**{name: "other"})


WIDTH, DEPTH, GRID, PATCH, TEXT, LAYERS, WORDS, POSITIONS = 128, 2, 4, 4, 24, 2, 30, 12


def official_state(text=TEXT, scale=2) -> dict:
    """Random tensors with the names and the layout of the released checkpoint, at a fraction of its size."""
    generator = torch.Generator().manual_seed(5)
    state = {}

    def put(name, *shape):
        state[name] = torch.randn(*shape, generator=generator) * 0.2

    def block(name, width):
        for norm in ("norm1", "norm2"):
            put(f"{name}.{norm}.weight", width), put(f"{name}.{norm}.bias", width)
        sizes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for part, (outs, ins) in sizes.items():
            put(f"{name}.{part}.weight", outs * width, ins * width), put(f"{name}.{part}.bias", outs * width)

    put("cls_token", 1, 1, WIDTH), put("pos_embed", 1, GRID**2 + 1, WIDTH)
    put("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH), put("patch_embed.proj.bias", WIDTH)
    put("mask_token", 1, 1, TEXT), put("decoder_pos_embed", 1, GRID**2 + 1, TEXT)
    for n in range(DEPTH):
        block(f"blocks.{n}", WIDTH)
    block("decoder_blocks.0", TEXT)
    for name, outs, ins in (("decoder_embed", TEXT, WIDTH), ("decoder_pred", (scale * PATCH) ** 2 * 3, TEXT),
                            ("img_mlp", TEXT, WIDTH), ("pos_weight_img", 1, GRID**2)):  # fmt: skip
        put(f"{name}.weight", outs, ins), put(f"{name}.bias", outs)
    for name, width in (("norm", WIDTH), ("decoder_norm", TEXT)):
        put(f"{name}.weight", width), put(f"{name}.bias", width)
    state["Tpar"], state["logit_scale"] = torch.tensor(33.3), torch.tensor(1.0)
    put("pos_weight_text.weight", 1, text), put("pos_cat.weight", 1, 2), put("WCE.weight", 64)
    bert = "bert_encoder.model.bert."
    put(bert + "embeddings.word_embeddings.weight", WORDS, text)
    put(bert + "embeddings.position_embeddings.weight", POSITIONS, text)
    put(bert + "embeddings.token_type_embeddings.weight", 2, text)
    state[bert + "embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    norms, dense = ["embeddings.LayerNorm"], {"pooler.dense": (text, text)}
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}."
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
        dense |= {layer + f"attention.self.{part}": (text, text) for part in ("query", "key", "value")}
        dense |= {layer + "attention.output.dense": (text, text), layer + "intermediate.dense": (4 * text, text),
                  layer + "output.dense": (text, 4 * text)}  # fmt: skip
    for name in norms:
        put(f"{bert}{name}.weight", text), put(f"{bert}{name}.bias", text)
    for name, (outs, ins) in dense.items():
        put(f"{bert}{name}.weight", outs, ins), put(f"{bert}{name}.bias", outs)
    put("bert_encoder.model.cls.predictions.bias", WORDS)
    return state


def write(state, tmp_path, **extra):
    path = tmp_path / "maco.pth"
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3, **extra}, path)
    return path


def timm_block(x, state, name, heads):
    """One pre-norm block as the official encoder computes it, head by head."""

    def linear(value, part):
        return value @ state[f"{name}.{part}.weight"].t() + state[f"{name}.{part}.bias"]

    def norm(value, part):
        return F.layer_norm(value, value.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"], 1e-6)

    q, k, v = linear(norm(x, "norm1"), "attn.qkv").chunk(3, dim=-1)
    size = q.shape[-1] // heads
    parts = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        shares = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)).softmax(-1)
        parts.append(shares @ v[..., part])
    x = x + linear(torch.cat(parts, dim=-1), "attn.proj")
    return x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def official_forward(state, images, visible):
    """Image vectors, drawing and raw scores as the released code computes them, on three equal channels."""
    colour = ((images - 0.4978) / 0.2449).expand(-1, 3, -1, -1)
    small = F.interpolate(colour, scale_factor=0.5, mode="bicubic", align_corners=False)
    tokens = F.conv2d(small, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    tokens = tokens.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    tokens = torch.stack([row[chosen] for row, chosen in zip(tokens, visible)])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([first, tokens], dim=1)
    for n in range(DEPTH):
        tokens = timm_block(tokens, state, f"blocks.{n}", 2)
    tokens = F.layer_norm(tokens, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    vectors = (tokens[:, 1:] @ state["img_mlp.weight"].t() + state["img_mlp.bias"]).mean(dim=1)
    narrow = tokens @ state["decoder_embed.weight"].t() + state["decoder_embed.bias"]
    full = state["mask_token"].repeat(len(tokens), GRID**2, 1)
    for row, source, chosen in zip(full, narrow, visible):
        row[chosen] = source[1:]
    full = torch.cat([narrow[:, :1], full], dim=1) + state["decoder_pos_embed"]
    full = timm_block(full, state, "decoder_blocks.0", 6)
    full = F.layer_norm(full, (TEXT,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
    drawn = (full @ state["decoder_pred.weight"].t() + state["decoder_pred.bias"])[:, 1:]
    seen = torch.zeros(len(tokens), GRID**2).scatter_(1, visible, 1.0)
    return vectors, drawn, seen @ state["pos_weight_img.weight"][0] + state["pos_weight_img.bias"], colour, seen


def test_official_checkpoint_computes_what_the_released_code_computes(tmp_path):
    state = official_state()
    system = official.from_official(write(state, tmp_path, args=argparse.Namespace(lam=0.9)))
    assert system.config["image_size"] == 32 and system.config["hr"] and system.config["weighting"] == "split"
    torch.manual_seed(0)
    images, visible = torch.rand(3, 1, 32, 32), random_masking(3, GRID, 0.5)
    vectors, drawn, scores, colour, seen = official_forward(state, images, visible)
    with torch.no_grad():
        assert torch.allclose(system.view(images, visible), vectors, atol=1e-4)
        assert torch.allclose(system.importance_score(position_map(visible, 16)), scores, atol=1e-5)
        ours = patchify(system.reconstruct(images, visible), 8)
        assert torch.allclose(ours, drawn, atol=1e-4)
    target = colour.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    batch = collate([StudyDataset(made_up_studies(4), size=32)[i] for i in range(3)])
    batch.images = images
    torch.manual_seed(7)
    with torch.no_grad():
        losses = system.loss(batch)
    torch.manual_seed(7)
    vectors, drawn, scores, colour, seen = official_forward(state, images, random_masking(3, GRID, 0.5))
    expected = (((drawn - target) ** 2).mean(-1) * (1 - seen)).sum() / (1 - seen).sum()
    assert losses.terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses.total.item() == pytest.approx(sum(losses.terms.values()).item(), rel=1e-6)
    cosine = F.normalize(vectors, dim=-1) @ F.normalize(system.text_features(["a"]), dim=-1).detach().t()
    logits, s, own = 33.3 * cosine.expand(-1, 3), importance(scores), torch.arange(3)
    ce = F.cross_entropy
    code = (ce(s[:, None] * logits, own) + ce(s[:, None] * logits.t(), own) + ce(logits, own, reduction="none") @ s / s.sum()
            + ce(logits.t(), own, reduction="none") @ s / s.sum()) / 4  # fmt: skip
    with torch.no_grad():
        texts = system.text_features(["a"] * 3)
        assert system.contrast(vectors, texts, scores).item() == pytest.approx(code.item(), rel=1e-4)


def test_official_text_is_the_pooler_of_bert_without_projection(tmp_path):
    state = official_state()
    system = official.from_official(write(state, tmp_path))
    with torch.no_grad():
        tokens, _ = system.text_encoder(["one two"])
        first = tokens[:, 0] @ state["bert_encoder.model.bert.pooler.dense.weight"].t()
        expected = (first + state["bert_encoder.model.bert.pooler.dense.bias"]).tanh()
        assert torch.allclose(system.text_features(["one two"]), expected, atol=1e-5)
    assert system.text_encoder.max_length == POSITIONS


def test_official_words_come_from_the_authors_file(tmp_path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    names = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "effusion", "left", *(f"word{n}" for n in range(WORDS - 6))]
    words = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.Whitespace()
    path, file = write(official_state(), tmp_path), tmp_path / "words.json"
    words.save(str(file))
    system = official.from_official(path, tokenizer=file)
    assert system.tokenizer(["Left effusion"], 100).tolist() == [[2, 5, 4]]
    assert system.tokenizer(["effusion " * 200], 100).shape == (1, 100), "cut, and no end token is known"
    small = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1}, unk_token="[UNK]"))
    small.save(str(file))
    with pytest.raises(ValueError, match="holds 2 word pieces, the checkpoint 30"):
        official.from_official(path, tokenizer=file)


def test_official_widths_that_cannot_be_multiplied_load_and_say_so(tmp_path):
    system = official.from_official(write(official_state(text=12), tmp_path))
    assert system.text_encoder.width == 12 and system.embed_images(torch.rand(1, 1, 32, 32)).shape == (1, TEXT)
    with pytest.raises(ValueError, match="width 24 but text vectors have width 12"):
        system.contrast(torch.zeros(2, TEXT), torch.zeros(2, 12), torch.zeros(2))
    with pytest.raises(ValueError, match="texts have 12 numbers, images 24"):
        system.score(torch.rand(1, 1, 32, 32), [Query.about("effusion")])


def test_official_checkpoint_without_high_resolution(tmp_path):
    system = official.from_official(write(official_state(scale=1), tmp_path))
    assert system.config["image_size"] == 16 and not system.config["hr"] and system.config["downsample"] == 1


def test_official_files_that_do_not_fit_are_refused(tmp_path):
    state = official_state()
    del state["blocks.1.norm1.bias"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing image_encoder\.blocks\.1\.norm1\.bias; unexpected extra\.weight"):
        official.from_official(write(state, tmp_path))
    with pytest.raises(ValueError, match=r"missing image_encoder\.patches\.weight"):
        official.from_official(write({"a": torch.zeros(1)}, tmp_path))
    state = official_state()
    del state["Tpar"]
    with pytest.raises(ValueError, match="missing logit_multiplier"):
        official.from_official(write(state, tmp_path))
    with pytest.raises(ValueError, match="trust=True"):
        official.from_official(write(state, tmp_path, model_class=MaCo))
    with pytest.raises(FileNotFoundError):
        official.from_official(tmp_path / "none.pth")
