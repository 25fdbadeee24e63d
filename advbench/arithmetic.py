"""Which arithmetic a precision setting means on a device: bf16 only where the device computes it natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from advbench.process import Device, gpu_computes_bf16

Arithmetic = Literal["fp32", "bf16"]


def computes_bf16(device: Device) -> bool:
    """Whether bf16 autocast gains anything on this device.

    On a CPU oneDNN's own word decides: AVX-512, where it has fast kernels even without bf16 instructions, or Arm's
    bf16. On AVX2 alone the convolutions of the MNIST network took 15 times as long as in float32.
    """
    if device.type == "cuda":
        return gpu_computes_bf16()
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def arithmetic_of(
    precision: Arithmetic, device: Device, native: Callable[[Device], bool] = computes_bf16
) -> Arithmetic:
    """What a training of that precision computes in: bf16 where `native` says that the device has it, else float32.

    float32 in the place of bf16 is more exact, never worse.
    """
    return "bf16" if precision == "bf16" and native(device) else "fp32"
