import math
import subprocess
import sys

import pytest
import torch

from medvlp_lite.encoders.image import IMAGE_ENCODERS, ViTEncoder, image_encoder, sincos_positions, standardise
from medvlp_lite.encoders.text import ReportTokenizer, TextEncoder, masked_mean

CORPUS = ["There is a small left effusion.", "No pneumothorax. The heart is normal.", "Mild edema. Small nodule."] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return ReportTokenizer.train(CORPUS, 120)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_image_encoder_gives_the_map_it_promises(name):
    size = 64 if "vit" not in name else (112 if name == "vit_lite" else 224)
    if name == "vit_b16":
        pytest.skip("86 M parameters: its shape is the lite one's with other numbers")
    encoder = image_encoder(name, size).eval()
    with torch.no_grad():
        out = encoder(torch.rand(2, 1, size, size))
    assert out.shape == (2, encoder.width, size // encoder.stride, size // encoder.stride)


def test_resnet50_layer3_is_the_map_of_equation_k2():
    encoder = image_encoder("resnet50_layer3", 224).eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 1, 224, 224)).shape == (1, 1024, 14, 14)


def test_lite_sizes_fit_a_laptop():
    for name in ("resnet_lite", "vit_lite"):
        assert sum(p.numel() for p in image_encoder(name, 112).parameters()) < 1_000_000


def test_unknown_encoders_are_refused_by_name():
    with pytest.raises(ValueError, match="no image encoder 'vgg'"):
        image_encoder("vgg", 112)
    with pytest.raises(ValueError, match="not a multiple of the patch side"):
        ViTEncoder("lite", 100)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images must be"):
        standardise(torch.zeros(shape))


def test_vit_on_all_patches_in_any_order_equals_the_full_map():
    torch.manual_seed(0)
    encoder = ViTEncoder("lite", 32).eval()
    images = torch.rand(2, 1, 32, 32)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    with torch.no_grad():
        tokens, full = encoder(images, order), encoder(images).flatten(2).transpose(1, 2)
    assert torch.allclose(tokens, full.gather(1, order.unsqueeze(-1).expand(-1, -1, 128)), atol=1e-5)


def test_vit_cannot_see_what_is_not_visible():
    torch.manual_seed(0)
    encoder = ViTEncoder("lite", 32).eval()
    images = torch.rand(1, 1, 32, 32)
    changed = images.clone()
    changed[..., 8:, :] = 0  # rows of patches 1..3
    visible = torch.arange(4).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(encoder(images, visible), encoder(changed, visible))


def test_position_codes_are_distinct_and_bounded():
    codes = sincos_positions(14, 128)
    assert codes.shape == (196, 128) and codes.abs().max() <= 1
    assert torch.unique(codes, dim=0).shape[0] == 196
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(4, 6)


def test_position_codes_put_the_column_first_as_mae_does():
    codes, grid, width = sincos_positions(3, 8), 3, 8
    for row in range(grid):
        for column in range(grid):
            rates = [10_000 ** (-k / (width / 4)) for k in range(width // 4)]
            expected = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
            assert codes[row * grid + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_numbers_instead_of_a_name_size_a_vit_and_a_bert(tokenizer):
    encoder = ViTEncoder([8, 3, 2, 4], 16)
    assert (encoder.width, len(encoder.blocks), encoder.stride, encoder.grid) == (8, 3, 4, 4)
    text = TextEncoder(tokenizer, [12, 2, 3, 20], max_length=9)
    assert text.bert.config.intermediate_size == 20 and text.bert.config.num_hidden_layers == 2


def test_tokenizer_pads_cuts_and_keeps_the_end(tokenizer):
    ids = tokenizer(["effusion", "there is a small left effusion and more words"], max_length=6)
    assert ids.shape == (2, 6)
    assert ids[0, -1] == tokenizer.pad_id
    assert tokenizer.tokens("effusion")[0] == "[CLS]" and ids[1, -1] == ids[0][ids[0] != tokenizer.pad_id][-1]
    with pytest.raises(ValueError, match="list of at least one string"):
        tokenizer("effusion", 8)
    with pytest.raises(ValueError, match="holds no text"):
        ReportTokenizer.train(["", " . "])


def test_tokenizer_does_not_depend_on_the_process():
    code = (
        "import hashlib,random;from medvlp_lite.encoders.text import ReportTokenizer as T;r=random.Random(0);"
        "w=[''.join(r.choice('abcdefgh') for _ in range(r.randint(3,9))) for _ in range(300)];"
        "c=[' '.join(r.choice(w) for _ in range(30)) for _ in range(60)];"
        "print(hashlib.sha256(T.train(c,400).definition.encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_padding_changes_no_text_vector(tokenizer):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer, "lite", 32).eval()
    with torch.no_grad():
        alone = masked_mean(*encoder(["Small nodule."]))
        beside = masked_mean(*encoder(["Small nodule.", "No pneumothorax. The heart is normal. Mild edema."]))
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_masked_mean_by_hand():
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]])
    assert masked_mean(tokens, torch.tensor([[True, True, False]])).tolist() == [[2.0, 1.0]]
    assert masked_mean(tokens, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0, 0.0]]


def test_a_hub_model_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="not in the local cache"):
        TextEncoder.from_hub(str(tmp_path / "no-such-model"))


def test_a_local_copy_of_a_published_model_is_read(tmp_path):
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    mine = ReportTokenizer.train(["small nodule nodules"], 60)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(mine.definition), pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(mine), **sizes)).save_pretrained(tmp_path)
    encoder = TextEncoder.from_hub(str(tmp_path)).eval()
    tokens, mask = encoder(["small nodules small", "small"])
    assert tokens.shape == (2, 5, 16) and mask.sum(dim=1).tolist() == [5, 3]
    assert encoder.tokenizer.tokens("small") == ["[CLS]", "small", "[SEP]"]
