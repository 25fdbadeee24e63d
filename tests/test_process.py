"""What a process of ours does to itself before it computes."""

import platform
import subprocess
import sys

import pytest

from advbench import process

GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys, torch
from advbench import process
if sys.argv[1] == "kept":
    process.set_up(1)
    assert torch.get_num_threads() == 1

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

sizes = [3 * 2**20 * (1 + i % 7) for i in range(20)]
for round in range(3):
    before = faults()
    layers = [torch.ones(size // 4) for size in sizes]
    del layers
print(faults() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_that_a_pass_has_freed_serves_the_next() -> None:
    def faults(how: str) -> int:
        words = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)

    assert faults("kept") < faults("as it is") / 10


def test_where_a_user_has_said_how_memory_is_kept_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not process.keep_freed_memory()


def test_without_such_a_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not process.keep_freed_memory()
