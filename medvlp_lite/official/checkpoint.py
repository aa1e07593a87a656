"""What reading any authors' checkpoint takes: only tensors unless trusted, names translated, nothing missing or left over.

Built in chapter 04_entity_fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch


def official_state(
    path: str | Path, names: Mapping[str, str], *, key: str = "model", trust: bool = False, safe: Sequence[type] = ()
) -> dict[str, torch.Tensor]:
    """The tensors under ``key`` of a checkpoint (or the whole file), without "module.", names translated by prefix.

    ``safe`` names types besides tensors that the file may hold; ``trust`` allows any (a pickle can run code). Raises
    FileNotFoundError, or ValueError naming a file that is no checkpoint.
    """
    try:
        with torch.serialization.safe_globals(list(safe)) if safe else nullcontext():
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a file of tensors; if you know where it comes from, trust=True"
        ) from error
    content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    state = {}
    for name, tensor in content.items():
        name = name.removeprefix("module.")
        prefix = next((old for old in names if name.startswith(old)), "")
        state[names.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return state


def require_fit(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: str | Path, system: str
) -> None:
    """Raise ValueError listing every tensor of ``state`` that is missing, unexpected or of another shape than in ``own``."""
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in own]
    faults += [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in own
               if name in state and state[name].shape != own[name].shape]  # fmt: skip
    if faults:
        raise ValueError(f"{path} is not an official {system} checkpoint: {'; '.join(faults)}")
