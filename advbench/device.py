"""How this process computes: on which device, and in which arithmetic.

Only here are devices named and GPUs asked for; everything else is handed a device, with its index.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import torch

from advbench.errors import BadData, BadSetting

Device = torch.device
CPU = Device("cpu")
CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # which this process is in, and what they may take
Arithmetic = Literal["fp32", "bf16"]


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


def memory_left() -> int:
    """Bytes of memory that this process may still take: of the machine, its control groups, its limits."""
    left, status = [2**63], _numbers("/proc/self/status")
    left += [1024 * one for one in [_numbers("/proc/meminfo").get("MemAvailable")] if one is not None]
    with suppress(ImportError, OSError):
        import resource

        for kind, taken in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            most = resource.getrlimit(kind)[0]
            left += [most - 1024 * status.get(taken, 0)] if most != resource.RLIM_INFINITY else []
    with suppress(OSError):
        for line in CGROUPS[0].read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            root = CGROUPS[1] / ("memory" if kinds else "")
            for group in (Path(f"{root}{name}"), *Path(f"{root}{name}").parents) if kinds in ("", "memory") else ():
                for most_in, taken_in in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
                    at = group / f"memory.{most_in}"
                    if at.is_file() and (text := at.read_text().strip()).isdecimal():
                        cached = _numbers(str(group / "memory.stat")).get("inactive_file", 0)
                        left.append(int(text) - int((group / f"memory.{taken_in}").read_text()) + cached)
    return max(0, min(left))


def _numbers(path: str) -> dict[str, int]:
    """The numbers in a file of lines such as `MemAvailable: 12 kB`."""
    with suppress(OSError):
        lines = (line.replace(":", " ").split() for line in Path(path).read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
    return {}


def check_memory(needed: int, what: str, cure: str) -> None:
    """Raise BadData where fewer bytes of memory are left than `what` needs; `cure` is a way with less."""
    if needed > (left := memory_left()):
        raise BadData(f"{what} needs {needed / 1e9:.1f} GB of memory and {left / 1e9:.1f} GB are left; {cure}")


def out_of_memory() -> str:
    """The sentence about memory that ran out where no smaller batch could be tried."""
    left = f"memory ran out, {memory_left() / 1e9:.1f} GB are left"
    return f"{left}; what is done is kept, and the same command goes on: give it a smaller --batch-size or fewer --n"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch or Python means that memory ran out, on whichever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "alloc" in str(error) and "memory" in str(error)
