"""Compute as if alone in the process: the caller's torch settings and model come back as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from advbench import process
from advbench.process import Device


@contextmanager
def own_state() -> Iterator[None]:
    """Set torch as advbench needs it: float32, gradients on, no autocast, compiled code run eagerly.

    Afterwards, an exception included, these are as before, and so are the random streams of torch, NumPy and Python
    and the current GPU.
    """
    streams = np.random.get_state(), random.getstate()  # noqa: NPY002
    with ExitStack() as back:
        back.callback(torch.set_default_dtype, torch.get_default_dtype())
        back.callback(np.random.set_state, streams[0])
        back.callback(random.setstate, streams[1])
        back.callback(process.make_current, process.current())
        back.enter_context(torch.random.fork_rng(devices=process.gpus_in_use()))
        back.enter_context(torch.inference_mode(mode=False))
        back.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            back.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != process.CPU:
            back.enter_context(process.CPU)
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
    modes = [part.training for part in parts]
    own = [
        (part, name, tensor)
        for part in parts
        for kind in (part._parameters, part._buffers)
        for name, tensor in kind.items()
        if tensor is not None
    ]
    copies: dict[int, Tensor] = {}
    try:
        for part, name, tensor in own:
            setattr(part, name, copies.setdefault(id(tensor), _copy(tensor, device)))
        if any(modes):
            module.eval()
        yield
    finally:
        if any(modes):
            module.train(modes[0])  # first, so that what eval() computed is taken back on the copies
        for part, name, tensor in own:
            setattr(part, name, tensor)
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def _copy(tensor: Tensor, device: Device) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    copy = tensor.detach().to(device, dtype, copy=True)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
