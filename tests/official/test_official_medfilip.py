import pytest
import torch
import torch.nn.functional as F

from medvlp_lite.encoders.text import ReportTokenizer
from medvlp_lite.official import medfilip as official

END = "<|endoftext|>"


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
def checkpoint(tmp_path_factory):
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


def test_an_official_checkpoint_converts_to_the_last_digit(checkpoint):
    path, state, trunk = checkpoint
    system = official.from_official(path, tokenizer=clip_file(), grey=(0.4, 0.3))
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
    assert (system.config.mse_on, system.config.same_category_only, system.config.clamp_min) == ("scaled", True, None)  # fmt: skip


def test_a_checkpoint_that_is_not_official_is_refused_with_a_list(checkpoint, tmp_path):
    _, state, _ = checkpoint
    wrong = {**state, "surprise": torch.zeros(1), "text_projection.weight": torch.zeros(3, 512)}
    wrong.pop("image_model.fc.bias")
    torch.save({"network": wrong}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"missing image_projection\.bias; unexpected surprise; text_projection\.weight is \(3, 512\)"):  # fmt: skip
        official.from_official(tmp_path / "wrong.pth", tokenizer=clip_file())
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        official.from_official(tmp_path / "text.pth", tokenizer=clip_file())
