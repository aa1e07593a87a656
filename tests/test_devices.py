"""Where tensors live: one rule for reading numbers back, and systems that keep to their own device."""

import ast
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from small_systems import build, queries
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from medvlp_lite.studies import collate
from medvlp_lite.systems.base import System

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("medvlp_lite/**/*.py"), *ROOT.glob("book/*.ipynb")])


def source_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def bare_numpy_calls(source: str) -> list[int]:
    """Lines with ``x.numpy()`` where x is not itself ``y.cpu()``."""

    def is_call(node: ast.AST, name: str) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name

    return [n.lineno for n in ast.walk(ast.parse(source)) if is_call(n, "numpy") and not is_call(n.func.value, "cpu")]


def test_the_rule_sees_what_it_should():
    assert bare_numpy_calls(
        "a = x.numpy()\nb = x.cpu().numpy()\nc = f(x.cpu()).numpy()\nd = x.detach().cpu().numpy()"
    ) == [1, 3]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_numbers_are_read_from_the_cpu(path):
    lines = bare_numpy_calls(source_of(path))
    assert not lines, f"{path.name}: .numpy() without .cpu() before it, in lines {lines}"


PICKS = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Elsewhere(torch.Tensor):
    """A tensor that says it is on the device "meta" and computes on the CPU: a second device for machines without one."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="meta",
            requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    """An operation on tensors of one device; tensors of two devices are refused as a GPU refuses them."""
    flat = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in flat if isinstance(x, Elsewhere)]
    at_home = [x for x in flat if not isinstance(x, Elsewhere) and x.ndim > 0]  # a lone number may live anywhere
    device = kwargs.get("device")
    picks = function in PICKS and isinstance(flat[0], Elsewhere)  # by an index from the CPU: allowed
    if away and at_home and not picks:
        raise RuntimeError(f"Expected all tensors to be on the same device: {function}")
    kwargs = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs))
    result = function(*args, **kwargs)
    there = torch.device(device).type == "meta" if device is not None else bool(away)
    if there and str(function).split(".")[1].endswith("_"):
        return flat[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, result) if there else result


class SecondDevice(TorchDispatchMode):
    """Inside it, the device "meta" holds numbers."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def moved(system: System) -> System:
    for module in system.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    kind[name] = Elsewhere(tensor.detach())
    return system


def use(system: System, dataset, device: str) -> None:
    """Everything that a system offers, with what is given to it on ``device``."""
    read = dataset.with_inputs(system.text_inputs(dataset.reports, dataset.findings))
    images = collate([dataset[i] for i in range(6)]).to(device).images
    losses = [system.loss(collate([data[i] for i in range(6)]).to(device)).total for data in (read, dataset)]
    out = [*losses, system.embed_images(images), system.image_features(images)]
    if system.name != "unimodal":  # the shared start answers no question
        out += [system.score(images, queries(system.name)), system.heatmap(images, queries(system.name))]
    if system.name not in ("staging", "supervised"):
        out.append(system.embed_texts(["Small effusion.", "No nodule."]))
    assert {tensor.device.type for tensor in out} == {device}


def test_the_second_device_refuses_what_a_gpu_refuses():
    with SecondDevice(), torch.no_grad():
        there, here = torch.ones(3, device="meta"), torch.ones(3)
        assert (there + there).device.type == "meta" and float((there + 1).sum()) == 6
        assert torch.equal(there.cpu(), here) and (there * torch.tensor(2.0)).device.type == "meta"
        for mixed in (lambda: there + here, lambda: here @ there, lambda: torch.cat([there, here])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()


@pytest.mark.parametrize("name", sorted(System.registry))
def test_every_system_stays_on_its_device(name, dataset, monkeypatch):
    system = build(name, dataset)
    monkeypatch.setattr(torch, "autocast", lambda device_type, *_, **__: nullcontext())  # "meta" has no half precision
    with SecondDevice(), torch.no_grad():
        use(moved(system), dataset, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", sorted(System.registry))
def test_every_system_works_on_a_gpu(name, dataset):
    use(build(name, dataset).to("cuda"), dataset, "cuda")
    with torch.device("cuda"):
        use(build(name, dataset).to("cuda"), dataset, "cuda")
