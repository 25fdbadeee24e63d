"""Read a model's weights from a file as data, never as code, and put them into a model.

`.safetensors`, or `.pt`, `.pth`, `.bin` through torch's weights-only reader, which builds tensors and plain
containers and refuses everything else. Taken off around the weights: one container (`state_dict`,
`model_state_dict` or `model`) and the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile), where every
name has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advbench.errors import BadData, BadSetting

TORCH_FILES = (".pt", ".pth", ".bin")
CONTAINERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
SAVE = "safetensors.torch.save_file(model.state_dict(), 'w.safetensors')"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; raises BadData where it holds anything else."""
    if path.suffix not in (".safetensors", *TORCH_FILES):
        raise BadSetting(
            f"weights {path.name!r} end in {path.suffix or 'nothing'}; give .safetensors or {', '.join(TORCH_FILES)}"
        )
    if not path.is_file():
        raise BadData(f"there is no weights file {path}; check the path")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise BadData(f"{path.name} is no whole safetensors file ({first_line(error)}); save it again") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a broken file raises a dozen types, one of them of pickle, which is not imported here
        raise BadData(refusal(path, error)) from error
    return tensors_of(found, path.name)


def refusal(path: Path, error: Exception) -> str:
    """Why torch's weights-only reader refused a file."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named or "Unsupported global" in text or "Unsupported class" in text:
        what = f" ({named.group(1)})" if named else ""
        return (
            f"{path.name} holds more than tensors{what}: such a file can run code when it is opened, so it was "
            f"refused and nothing in it was run; save the weights alone: {SAVE}"
        )
    if "TorchScript" in text:
        return f"{path.name} is a TorchScript program, not weights; save the weights alone: {SAVE}"
    return (
        f"{path.name} is no whole PyTorch weights file ({first_line(error)}), and nothing in it was run; save it "
        f"again: {SAVE}"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 120 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def tensors_of(found: Any, name: str) -> dict[str, Tensor]:
    """The state dict inside what a `.pt` file holds; raises BadData where there is none."""
    inner = found
    if isinstance(found, Mapping):
        inner = next((found[key] for key in CONTAINERS if isinstance(found.get(key), Mapping)), found)
    if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
        keys = f" with {few(map(str, inner))}" if isinstance(inner, Mapping) else ""
        raise BadData(
            f"{name} holds a {type(inner).__name__}{keys}, not a state dict of tensors (looked for under "
            f"{', '.join(CONTAINERS)}); save the weights alone: {SAVE}"
        )
    return {str(key): value for key, value in inner.items()}


def unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without the prefixes that wrappers add."""
    result = dict(tensors)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if result and all(name.startswith(prefix) for name in result):
                result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
                stripped = True
    return result


def put(module: nn.Module, path: Path) -> None:
    """Load a weights file into a model, every tensor of both accounted for; raises BadData otherwise."""
    tensors = read(path)
    own = module.state_dict()
    if not tensors.keys() & own.keys():
        tensors = unprefixed(tensors)
    shapes = [
        f"{name} is {list(tensor.shape)} and must be {list(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    fault = f"; of another shape: {few(shapes)}" if shapes else ""
    if not shapes:
        # strict=False: the faults come back as lists; BatchNorm fills in the counter that old files lack
        missing, unexpected = module.load_state_dict(tensors, strict=False)
        fault += f"; missing: {few(missing)}" if missing else ""
        fault += f"; not in the model: {few(unexpected)}" if unexpected else ""
    if fault:
        raise BadData(
            f"{path.name} does not fit the model{fault}; give the weights of this architecture with this number of "
            "classes"
        )


def few(names: Any) -> str:
    """The first three of some texts and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
