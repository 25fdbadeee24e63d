"""Compute without leaving traces: the caller's torch settings and model are restored."""

import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from advbench.device import CPU, Device, current, gpus_in_use, make_current
from advbench.errors import BadSetting


@contextmanager
def own_state() -> Iterator[None]:
    """Set torch as advbench needs it: float32, gradients on, no autocast, compiled code run eagerly.

    Afterwards, an exception included, these are as before, and so are the random streams of torch, NumPy and Python
    and the current GPU.
    """
    with ExitStack() as back:
        back.callback(torch.set_default_dtype, torch.get_default_dtype())
        back.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        back.callback(random.setstate, random.getstate())
        back.callback(make_current, current())
        back.enter_context(torch.random.fork_rng(devices=gpus_in_use()))
        back.enter_context(torch.inference_mode(mode=False))
        back.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            back.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != CPU:
            back.enter_context(CPU)
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import would take a second
            back.enter_context(torch.compiler.set_stance("force_eager"))
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def borrowed(module: nn.Module, device: Device) -> Iterator[None]:
    """The caller's model with frozen float32 copies on `device` in the place of its tensors, in evaluation mode.

    Its own tensors are only put aside, so that values, types, devices and gradients stay as they are; they come back
    at the end, an exception included, with the modes of all its parts. Tied tensors stay tied.
    """
    parts = list(module.modules())
    modes = [(part, part.training) for part in parts if hasattr(part, "training")]
    kept = [(part, [name for name, _ in part._buffers.items()]) for part in parts]
    own = [(p, name, t) for p in parts for kind in (p._parameters, p._buffers) for name, t in kind.items()]
    fixed = [(part, part.train, part.eval) for part in parts if "train" in vars(part)]
    copies: dict[int, Tensor] = {}
    try:
        keep_mode(module)
        for part, name, tensor in own:
            if tensor is not None:
                copies[id(tensor)] = copies[id(tensor)] if id(tensor) in copies else _copy(tensor, device)
                setattr(part, name, copies[id(tensor)])
        _call(module.eval)
        yield
    finally:
        with ExitStack() as back:  # all of it, whatever raises
            for part, name, tensor in own:
                back.callback(setattr, part, name, tensor)
            for part, mode in modes:
                back.callback(setattr, part, "training", mode)
            for part, known in kept:
                for name in {name for name, _ in part._buffers.items()}.difference(known):  # a pass made them: caches
                    back.callback(part._buffers.pop, name)
            for part, train, evaluate in fixed:
                back.callback(vars(part).update, train=train, eval=evaluate)
            if any(mode for _, mode in modes):
                _call(module.train)  # so that what eval() computed is taken back on the copies


def keep_mode(module: nn.Module) -> None:
    """Let train() and eval() pass over parts that refuse them: torch.export's, whose mode is compiled in."""
    for part in module.modules():
        if "train" in vars(part):
            part.train = part.eval = types.MethodType(_stay, part)  # type: ignore[method-assign]


def _stay(part: nn.Module, mode: bool = False) -> nn.Module:
    del mode
    for inner in part.modules():
        inner.training = False
    return part


def _call(change: Callable[[], object]) -> None:
    try:
        change()
    except Exception as error:  # whatever a method of the user's own raises
        raise BadSetting(
            f"the model's own train() or eval() raised {type(error).__name__}: {error}; let it take mode=True alone, "
            "as that of nn.Module does"
        ) from error


def _copy(tensor: Tensor, device: Device) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    try:
        copy = tensor.detach().to(device, dtype, copy=True)
    except torch.OutOfMemoryError as error:
        raise BadSetting(f"a copy of the model does not fit into the memory of {device}; use another") from error
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
