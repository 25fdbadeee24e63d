"""Load a supplied model: a user's file, an installed module, timm, or a torch.export archive."""

import hashlib
import importlib.util
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advbench.errors import BadData, BadSetting
from advbench.supplied import weights as weights_files
from advbench.supplied.isolation import keep_mode
from advbench.supplied.user_code import call, contained, explained, import_module, in_words, member, run_file

ARCHIVE = ".pt2"
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt", ".th", ".model")  # as files of weights are named
FORMS = "path/to/file.py:build, package.module:build, timm:NAME, or archive.pt2 with --trust"


def load_model(
    source: str,
    *,
    weights: Path | None = None,
    trust: bool = False,
    classes: int,
    shape: tuple[int, int, int],
    say: weights_files.Say = lambda text: None,
) -> nn.Module:
    """The model that `source` names, on the CPU, in float32 and evaluation mode, every parameter frozen.

    source   `path/to/file.py:build` (the file is executed), `package.module:build` (imported), `timm:NAME` (made
             for `classes` classes and shape[0] channels, random weights), `archive.pt2` (torch.export; it is code,
             opened only with `trust`)
    weights  a file of weights to load into it, read as data, or `FILE:KEY` where it holds several: see `weights.py`
    shape    (channels, height, width) of the images
    say      told which tensors of that file were left out and how names were shortened

    `build` is a model, or a function or class that makes one. If it has a parameter `num_classes` or `classes`, that
    one is given `classes`; nothing else is passed. Raises BadSetting for a source that cannot be used and BadData for
    a weights file that cannot.
    """
    check_form(source)
    folder = folder_of(source)
    with contained(folder):
        if source.startswith("timm:"):
            module = build_timm(source.removeprefix("timm:"), classes=classes, channels=shape[0])
        elif source.endswith(ARCHIVE):
            module = open_archive(Path(source), trust=trust, shape=shape)
        else:
            module = build(source, classes=classes)
        module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
        settle(module, source, shape)
        if weights is not None:
            with explained(source, folder):
                weights_files.put(module, weights, say)
    return module


def check_form(source: str) -> None:
    """Raise BadSetting for a source of no known form."""
    if source.startswith("timm:") or source.endswith(ARCHIVE):
        return
    left, colon, name = source.rpartition(":")
    if Path(source).suffix.lower() in WEIGHTS:
        if Path(source).is_file():
            weights_files.read(Path(source))  # refused here where it is a whole model, a program or broken
        raise BadSetting(
            f"{Path(source).name} holds weights alone, which are no model; name the code that builds it as well: "
            f"--model m.py:build --weights {Path(source).name}"
        )
    if not colon or not left or not name.isidentifier():
        timm = importlib.import_module("timm") if importlib.util.find_spec("timm") else None
        meant = f"timm:{source}" if timm and timm.is_model(source) else f"{source}:build"
        example = f"; did you mean {meant}?" if source.endswith(".py") or meant.startswith("timm:") else "."
        raise BadSetting(f"model {source!r} names no way to make a model{example} Write {FORMS}")


def is_file(source: str) -> bool:
    """Whether the left part of `left:name` is a path rather than a module."""
    left = source.rpartition(":")[0]
    return left.endswith(".py") or "/" in left or "\\" in left


def folder_of(source: str) -> Path | None:
    """The folder of the user's file that a source names."""
    if source.startswith("timm:") or not is_file(source):
        return None
    return Path(source.rpartition(":")[0]).absolute().parent


def build(source: str, *, classes: int) -> nn.Module:
    """A model of `file.py:name` or `package.module:name`."""
    left, _, name = source.rpartition(":")
    where, folder = (Path(left).name, folder_of(source)) if is_file(source) else (left, None)
    if folder is not None and not Path(left).is_file():
        raise BadSetting(f"there is no file {left}; check the path of --model {source}")
    with explained(where, folder):
        module = run_file(Path(left).absolute()) if folder is not None else import_module(left)
        made = member(module, name, where)
        if not isinstance(made, nn.Module):
            if not callable(made):
                raise BadSetting(
                    f"{where}:{name} is a {type(made).__name__}; name a model, or a function or class that makes one"
                )
            made = call(made, {"num_classes": classes, "classes": classes}, f"{where}:{name}")
    if isinstance(made, nn.Module):
        return made
    hint = "is a `return` missing?" if made is None else "return a torch.nn.Module"
    if isinstance(made, dict):
        hint = "return the model, and give its weights by --weights"
    raise BadSetting(f"{where}:{name} returned {made if made is None else 'a ' + type(made).__name__}; {hint}")


def build_timm(name: str, *, classes: int, channels: int) -> nn.Module:
    """One of timm's architectures with random weights; nothing is downloaded."""
    if importlib.util.find_spec("timm") is None:
        raise BadSetting(f"--model timm:{name} needs timm; install it with: pip install 'advbench[models]'")
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        cure = f"nearest: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise BadSetting(f"timm has no architecture {name!r}; {cure}")
    with explained(f"timm:{name}", None):
        module: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    return module


def open_archive(path: Path, *, trust: bool, shape: tuple[int, int, int]) -> nn.Module:
    """The model in a torch.export archive, which is code: opened only where the user trusts it."""
    if not trust:
        raise BadSetting(
            f"{path.name} is a torch.export archive, which can run code when it is opened; if you trust where it "
            "comes from, say so with --trust"
        )
    if not path.is_file():
        raise BadData(f"there is no file {path}; check the path of --model")
    try:
        program = torch.export.load(path)  # noqa: TID251
    except Exception as error:  # whatever a broken or foreign file raises in torch
        raise BadData(
            f"{path.name} cannot be opened as a torch.export archive ({in_words(error)}); write it "
            "with torch.export.save, by this version of torch or an older one"
        ) from error
    check_exported_shape(program, path.name, shape)
    module = torch.export.unflatten(program)  # with the modules' names, so that features can be tapped
    for part in module.modules():
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            node.meta.clear()  # holds tensors without values, which cannot be copied
    return module


def check_exported_shape(program: torch.export.ExportedProgram, name: str, shape: tuple[int, int, int]) -> None:
    """Refuse an archive made for batches of one size, or for other images."""
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    value = nodes[0].meta.get("val") if len(nodes) == 1 else None
    if not isinstance(value, Tensor) or value.ndim != 4:
        raise BadSetting(f"{name} does not take one tensor of images [n c h w]; export a model that does")
    if isinstance(value.shape[0], int):
        raise BadSetting(
            f"{name} was exported for batches of exactly {value.shape[0]}, and here batches have many sizes; export "
            "it again with dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    if any(isinstance(want, int) and want != have for want, have in zip(value.shape[1:], shape, strict=True)):
        wanted = "x".join(str(size) if isinstance(size, int) else "?" for size in value.shape[1:])
        raise BadSetting(
            f"{name} was exported for images of {wanted} (channels x height x width), and these are "
            f"{'x'.join(map(str, shape))}; give images of that size, or export it for this one"
        )


def settle(module: nn.Module, source: str, shape: tuple[int, int, int]) -> None:
    """Bring a model to the CPU, to float32 and evaluation mode, frozen."""
    keep_mode(module)
    refuse_meta(module, source)
    with explained(source, None):
        module.to("cpu").eval()
    if any(is_lazy(t) for t in (*module.parameters(), *module.buffers())):
        with torch.no_grad(), explained(source, None):
            module(torch.zeros(2, *shape))  # lazy layers take their size from a first batch
    module.float().requires_grad_(False)


def refuse_meta(module: nn.Module, source: str) -> None:
    """Raise BadSetting for a model with weights that hold no values."""
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise BadSetting(
            f"{source}: the model has weights on the meta device, which hold no values; build it on the CPU"
        )


def code_file_of(source: str) -> Path | None:
    """The file whose code makes the model: the user's file, the module's, the archive; None for timm's."""
    if source.startswith("timm:"):
        return None
    if source.endswith(ARCHIVE):
        return Path(source)
    left = source.rpartition(":")[0]
    if is_file(source):
        return Path(left)
    spec = importlib.util.find_spec(left)
    return Path(spec.origin) if spec is not None and spec.origin is not None and Path(spec.origin).is_file() else None


def identity_of(module: nn.Module, source: str, code_file: Path | None) -> dict[str, Any]:
    """What a run's record says of a supplied model: no path beyond a file's name.

    source        `m.py:build`, `package.module:build`, `timm:NAME` or `archive.pt2`
    code_sha256   of the code file's bytes (not of what it imports), or None
    state_sha256  of the names, shapes, dtypes and bytes of the state dict, in the order of the names
    """
    name = source
    if is_file(source) and not source.startswith("timm:"):
        left, _, attribute = source.rpartition(":")
        name = f"{Path(left).name}:{attribute}"
    elif source.endswith(ARCHIVE):
        name = Path(source).name
    code = None if code_file is None else hashlib.sha256(code_file.read_bytes()).hexdigest()
    return {"source": name, "code_sha256": code, "state_sha256": state_sha256(module)}


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):  # a module's extra state may be anything, and is part of its code
            digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
