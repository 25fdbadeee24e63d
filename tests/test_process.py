"""What a process of ours does to itself before it computes."""

import os
import platform
import subprocess
import sys

import pytest

from advbench import process

GLIBC = platform.libc_ver()[0] == "glibc"
# 48 MB are above what glibc ever keeps by itself: by its default each of them is mapped anew, wherever the heap lies.
# Where they are kept, the heap settles within some rounds: the first blocks' edges become small blocks of their own.
FAULTS = """
import resource, sys, torch
from advbench import process
if sys.argv[1] == "kept":
    process.set_up(1)
    assert torch.get_num_threads() == 1

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for round in range(60):
    if round == 40:
        before = faults()
    torch.ones(12 * 2**20)
print(faults() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_that_a_pass_has_freed_serves_the_next() -> None:
    unsaid = {name: value for name, value in os.environ.items() if name not in process.USERS_OWN}

    def faults(how: str) -> int:
        words = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=unsaid).stdout)

    by_default = faults("as it is")
    if not by_default:
        pytest.skip("this system counts no page faults")
    assert faults("kept") < by_default / 10


def test_where_a_user_has_said_how_memory_is_kept_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not process.keep_freed_memory()


def test_without_such_a_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not process.keep_freed_memory()
