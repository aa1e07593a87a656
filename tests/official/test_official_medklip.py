import pytest
import torch

from medvlp_lite.official import medklip as official
from medvlp_lite.reports.vocabulary import vocabulary
from medvlp_lite.systems.base import Query
from medvlp_lite.systems.medklip import MedKLIP


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
    monkeypatch.setattr(MedKLIP, "texts", lambda self, texts: torch.zeros(len(texts), 768))
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
