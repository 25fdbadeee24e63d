"""Read a model's weights from a file as data, never as code, and put them into a model.

The first bytes tell safetensors from torch's format, which is read by torch's weights-only reader: tensors and plain
containers. The weights may lie in containers of any name, beside numbers, text and an optimizer's state; `FILE:KEY`
names one set of several.
"""

import argparse
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advbench.device import check_memory
from advbench.errors import BadData, UnknownName
from advbench.supplied.user_code import in_words

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
DEPTH = 5  # of containers within containers
COUNTER = "n_averaged"  # beside the weights in torch's AveragedModel
SAVE = "safetensors.torch.save_file(model.state_dict(), 'w.safetensors')"
# what training scripts store beside the weights, options and NumPy's numbers; none of it runs code
PLAIN: list[Any] = [argparse.Namespace, np.dtype, type(np.dtype("f8")), type(np.dtype("f4"))]
PLAIN += [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
Tensors = dict[str, Tensor]
Say = Callable[[str], object]


def read(path: Path) -> Any:
    """What a weights file holds, its tensors on the CPU; raises BadData where it cannot be read as data."""
    if not os.path.isfile(path):  # False for too long a name too
        folder = f"{path} is a folder, not a weights file"
        raise BadData(f"{folder if os.path.isdir(path) else f'there is no weights file {path}'}; check the path")
    kind = "PyTorch weights"
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # eight bytes of length, then a JSON header
            if start[5:] == b"\0\0\0{" or (path.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\x02")):
                kind = "safetensors"
                return load_file(path)
            if zipfile.is_zipfile(file):
                unpacked = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
                check_memory(unpacked, f"{path.name}, unpacked,", f"save the weights alone: {SAVE}")
            file.seek(0)
            with torch.serialization.safe_globals(PLAIN):
                return torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except (BadData, MemoryError):
        raise
    except Exception as error:  # a broken file raises a dozen types, one of pickle, which is not imported here
        raise BadData(refusal(path, error, kind)) from error


def refusal(path: Path, error: Exception, kind: str) -> str:
    """Why a file was refused that was read as one of this kind."""
    text, save = str(error), "the weights alone"
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named or "Unsupported global" in text or "Unsupported class" in text:
        what = f" ({named.group(1)})" if named else ""
        why = f"holds more than tensors{what}, as a pickled model does; opening it can run code, so it was refused"
    elif "TorchScript" in text:
        why = "is a TorchScript program, not weights"
    else:
        short = "weights_only" in text  # torch goes on about its default
        why, save = f"is no whole {kind} file ({type(error).__name__ if short else in_words(error)})", "it again"
    return f"{path.name} {why}, and nothing in it was run; save {save}: {SAVE}"


def within(file: str, at: str, key: object) -> str:
    """Where a key of a container lies: `FILE:KEY`, and `FILE:KEY.KEY` below."""
    return f"{at}{':' if at == file else '.'}{key}"


def sets_of(found: Any, file: str, at: str, depth: int, seen: set[int]) -> dict[str, Tensors]:
    """The sets of named tensors in what a file holds, by where they lie; an optimizer's state is none."""
    inside = dict(enumerate(found)) if isinstance(found, (list, tuple)) else found
    if not isinstance(inside, Mapping) or "param_groups" in inside or not depth or id(found) in seen:
        return {}
    seen.add(id(found))  # the same object may be held a million times
    own = {str(key): value for key, value in inside.items() if isinstance(value, Tensor)}
    if nested := [key for key, value in own.items() if value.is_nested]:
        raise BadData(
            f"{at} holds nested tensors, which have no shape: {few(nested)}; save the weights alone: {SAVE}"
        )
    sets = {at: own} if any(tensor.ndim for tensor in own.values()) else {}
    for key, value in inside.items():
        sets |= sets_of(value, file, within(file, at, key), depth - 1, seen)
    return sets


def chosen(given: Path, own: Tensors, say: Say) -> tuple[str, Tensors]:
    """The set of weights to load, and where it lies; raises BadData where there is none or, without a key, several.

    Those count that have most of the model's shapes. A key may also be the first parts of names within a set.
    """
    file = Path(str(given).rpartition(":")[0])
    path = file if os.path.isfile(file) and not os.path.exists(given) else given
    found = read(path)
    if not (sets := sets_of(found, path.name, path.name, DEPTH, set())):
        what = f"{path.name} holds a {type(found).__name__}, not a state dict of tensors"
        raise BadData(f"{what}; save the weights alone: {SAVE}")
    if path != given:
        every = {within(path.name, at, name): tensor for at, held in sets.items() for name, tensor in held.items()}
        start = f"{given.name}."
        if not any(name.startswith(start) for name in every):
            raise UnknownName("set of weights", given.name, sets)
        return given.name, {name.removeprefix(start): every[name] for name in every if name.startswith(start)}
    shapes = {at: {tensor.shape for tensor in held.values()} for at, held in sets.items()}
    rivals = [at for at in sets if 2 * sum(tensor.shape in shapes[at] for tensor in own.values()) > len(own)]
    if len(rivals) > 1:
        raise BadData(f"{path.name} holds several sets of weights; give one of them: --weights {few(rivals, ' or ')}")
    at = rivals[0] if rivals else max(sets, key=lambda at: len(sets[at]))
    if others := [other for other in sets if other not in (at, path.name)]:
        say(f"{at}: these weights are taken, and not the tensors in {few(others)}")
    return at, sets[at]


def plain(name: str) -> str:
    """A tensor's name without the parts that wrappers of a model add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def renamed(tensors: Tensors, own: Tensors) -> dict[str, str]:
    """The model's name for each tensor: wrappers, and first parts that all names share, make no difference."""
    known, ways = {plain(name): name for name in own}, [{name: plain(name) for name in tensors}]
    while len({n.partition(".")[0] for n in ways[-1].values()}) == 1 and all("." in n for n in ways[-1].values()):
        ways.append({old: new.partition(".")[2] for old, new in ways[-1].items()})
    best = max(ways, key=lambda way: len(known.keys() & way.values()))
    names = {old: known.get(new, new) for old, new in best.items()}
    clear = tensors.keys() != own.keys() and len(set(names.values())) == len(names)
    return names if clear else {name: name for name in tensors}


def misfit(tensor: Tensor, mine: Tensor) -> str:
    """How a tensor differs from the model's so that it cannot be copied into it; empty where it can."""
    less = mine.is_floating_point() > tensor.is_floating_point() or tensor.is_complex() > mine.is_complex()
    if tensor.is_meta or tensor.layout != torch.strided or less:
        return f"{tensor.dtype}, {tensor.layout}, {tensor.device} and must be plain {mine.dtype}"
    return "" if tensor.shape == mine.shape else f"{list(tensor.shape)} and must be {list(mine.shape)}"


def put(module: nn.Module, given: Path, say: Say = lambda text: None) -> None:
    """Load weights (`FILE` or `FILE:KEY`) into a model, every tensor of both accounted for, else raise BadData."""
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    where, held = chosen(given, own, say)
    names = renamed({name: held[name] for name in held if name in own or name.split(".")[-1] != COUNTER}, own)
    if changed := [f"{old} is {names.get(old, 'left out')}" for old in held if names.get(old) != old]:
        say(f"{where}: names are matched to the model's: {few(changed)}")
    tensors = {new: held[old] for old, new in names.items()}
    wrong = [f"{n} is {how}" for n, tensor in tensors.items() if n in own and (how := misfit(tensor, own[n]))]
    fault = f"; of another shape or type: {few(wrong)}" if wrong else ""
    if not wrong:
        # strict=False: the faults come back as lists; BatchNorm fills in the counter that old files lack
        try:
            missing, unexpected = module.load_state_dict(tensors, strict=False)
        except RuntimeError as error:  # a type that torch cannot copy from, such as packed float4
            why = " ".join(str(error).split())
            raise BadData(f"{where} does not fit the model: {why}; save the weights as float32: {SAVE}") from error
        missing = [name for name in missing if not name.endswith("_extra_state")]  # no tensor, and part of the code
        fault += f"; missing: {few(missing)}" if missing else ""
        fault += f"; not in the model: {few(unexpected)}" if unexpected else ""
    if fault:
        heads = dict.fromkeys(name.partition(".")[0] for name in tensors)
        whole = [head for head in heads if all(f"{head}.{name}" in tensors for name in own)]
        parts = [within(given.name, where, head) for head in whole]
        usual = "the weights of this architecture with this number of classes"
        cure = f"--weights {few(parts, ' or ')}" if parts else usual
        raise BadData(f"{where} does not fit the model{fault}; give {cure}")


def few(names: Iterable[str], between: str = ", ") -> str:
    """The first three of some texts and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return between.join(listed[:3]) + more
