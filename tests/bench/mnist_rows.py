"""Slow rows on the real MNIST (ADVBENCH_DATA): training against a plain script, and a GPU's times."""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from advbench.device import computes_bf16
from advbench.progress import Quiet
from advbench.runs import load
from advbench.study.parsing import parse
from advbench.study.selection import Found
from advbench.study.study import Study
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace
from tests.bench.mnist_training import mnist
from tests.bench.timing import by_turns, row

SEEDS = (0, 1, 2)


@functools.cache
def against_plain() -> tuple[float, float] | None:
    """(median ratio of epoch times, difference of the mean test errors) over three seeds, taken by turns."""
    if mnist() is None:
        return None
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for i, work in by_turns([*found], len(SEEDS)):
        words = [sys.executable, "-m", "tests.bench.mnist_training", work, str(SEEDS[i])]
        found[work].append(json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout))
        last = found[work][-1]
        sys.stderr.write(f"{work}, seed {SEEDS[i]}: {last['seconds']:.1f} s an epoch, error {last['error']:.4f}\n")
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["ours"], found["plain"], strict=True)]
    errors = [statistics.mean(one["error"] for one in found[work]) for work in found]
    return statistics.median(ratios), errors[0] - errors[1]


@row("mnist-epoch-over-plain-script", 0.5, slow=True)
def epoch_time() -> float | None:
    """An MNIST epoch over a plain script's, the same network and batch, on the CPU; median of three seeds.

    None on a CPU without bf16: half the time is what bf16 can do.
    """
    if not computes_bf16(torch.device("cpu")):
        sys.stderr.write("mnist-epoch-over-plain-script: not measured, this CPU does not compute bf16 natively\n")
        return None
    found = against_plain()
    return None if found is None else found[0]


@row("mnist-error-over-plain-script", 0.003, slow=True)
def epoch_error() -> float | None:
    """By how much the test error after two epochs exceeds the plain script's, means of three seeds."""
    found = against_plain()
    return None if found is None else found[1]


@functools.cache
def on_gpu() -> tuple[float, float] | None:
    """Seconds on a CUDA GPU: (training three models of ten epochs, Table 6 and EERs); None without one."""
    folder = os.environ.get("ADVBENCH_DATA")
    if not torch.cuda.is_available() or folder is None or mnist() is None:
        return None
    table = {
        "dataset": "mnist",
        "losses": ["softmax", "center", "lgm"],
        "training": {"epochs": 10},
        "attacks": [{"name": "fgsm", "eps": [0.1, 0.2, 0.3]}],
        "detectors": ["likelihood"],
    }
    with tempfile.TemporaryDirectory() as home:
        place = Workspace(Path(home) / "runs", Path(home) / "reports", Path(folder), batch_size=2500)
        study = Study(parse(table), place, weights=[])
        _ = study.fingerprint
        trained = sum(r.seconds for r in study.train())
        began = time.perf_counter()
        rows = study.attack()
        names = tuple(choice.file_name for choice in study.attacks)
        found = [Found(load(place.runs_dir / run), names) for run in dict.fromkeys(r.model.run for r in rows)]
        verify_found(found, ["likelihood"], Quiet())
        return trained, time.perf_counter() - began


@row("mnist-gpu-training-seconds", 20, slow=True)
def gpu_training() -> float | None:
    """Seconds to train softmax, center and L-GM for ten epochs each on a GPU."""
    found = on_gpu()
    return None if found is None else found[0]


@row("mnist-gpu-table6-seconds", 5, slow=True)
def gpu_table6() -> float | None:
    """Seconds for Table 6 and the EERs of these three models on a GPU."""
    found = on_gpu()
    return None if found is None else found[1]
