"""How this process computes: on which device, in which arithmetic, with how many threads, in memory that it keeps.

Only here are devices named and GPUs asked for; everything else is handed a device, with its index.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch

from advbench.errors import BadSetting

Device = torch.device
CPU = Device("cpu")
Arithmetic = Literal["fp32", "bf16"]
# Of glibc's malloc.h. Freed memory goes back to the system when that much of it lies at the heap's end, and an
# allocation of that size is mapped anew each time.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes: larger than a layer's output
KEPT_BY_OLDER = 2**25  # older versions take no larger threshold of mapping
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def set_up(threads: int | None = None) -> None:
    """Let this process compute with so many threads of torch (None: as torch chooses), in memory that it keeps.

    It is for processes that advbench starts, not for a program that imports it: it changes the whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Whether freed memory now stays with the process for the next pass; where a user has set that, it stays so.

    Each pass through a network allocates what the one before has freed. By glibc's default much of that goes back to
    the system in between, and every page faults in anew: 8 to 10 % of the time of PGD on MNIST. The process's peak,
    8 % higher then, is what it holds to its end.
    """
    if any(name in os.environ for name in USERS_OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, which has ways of its own
        return False
    mapped = mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, KEPT_BY_OLDER)
    return bool(mapped and mallopt(TRIM_THRESHOLD, KEPT))


def resolve_device(name: str | None) -> Device:
    """The device of that name, with its index; None = CUDA where there is one, else the CPU. Raises BadSetting."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if gpus and name in (None, "cuda"):
        name = f"cuda:{torch.cuda.current_device()}"
    if name is not None and name not in ("cpu", *gpus):
        raise BadSetting(f"device {name!r} cannot be used on this machine; usable: {', '.join(('cpu', *gpus))}")
    return Device(name or "cpu")


def take_gpu(index: int) -> None:
    """Let this process compute on a GPU of the machine, by turns; nothing where there is none."""
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())


def make_current(device: Device) -> None:
    """For libraries that know only the current GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def current() -> Device:
    """The current GPU; the CPU where there is none."""
    return Device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU


def gpus_in_use() -> list[int]:
    """The GPUs, whose random streams may be in use."""
    return list(range(torch.cuda.device_count()))


def free_cached(device: Device) -> None:
    """Give memory that torch keeps for later back to a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def own_streams(device: Device) -> AbstractContextManager[None]:
    """The random streams of the CPU and of `device` come back as they were."""
    stream: AbstractContextManager[None] = torch.random.fork_rng([device] if device.type == "cuda" else [])
    return stream


def computes_bf16(device: Device) -> bool:
    """Whether bf16 autocast gains anything on this device.

    On a CPU oneDNN's own word decides: AVX-512, where it has fast kernels even without bf16 instructions, or Arm's
    bf16. On AVX2 alone the convolutions of the MNIST network took 15 times as long as in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
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
