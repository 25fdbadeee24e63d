"""Slow rows on the real MNIST (ADVBENCH_DATA): training against a plain script, and a GPU's times."""

from __future__ import annotations

import functools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advbench import catalog
from advbench.arithmetic import computes_bf16
from advbench.parsing import parse
from advbench.pipeline import Study
from advbench.place import Place
from advbench.prelu import PReLU
from advbench.progress import Quiet
from advbench.reporting import verify_found
from advbench.runs import load
from advbench.selection import Found
from advbench.training import Trainer, build
from advbench.types import ImageSet, Splits, Training
from tests.bench.timing import by_turns, row

EPOCHS = 2
SEEDS = (0, 1, 2)


@functools.cache
def mnist() -> Splits | None:
    """The real data, or None where ADVBENCH_DATA does not name them."""
    folder = os.environ.get("ADVBENCH_DATA")
    if folder is None or not (Path(folder) / "MNIST" / "raw").is_dir():
        return None
    splits: Splits = catalog.load("data set", "mnist")().load(Path(folder))
    return splits


def model(seed: int) -> tuple[Any, Any]:
    """Network and head at their first weights."""
    return build("mnist-cnn", 100, "softmax", {}, shape=(1, 28, 28), classes=10, seed=seed)


def settings() -> Training:
    """MNIST's own recipe for a few epochs."""
    return Training(**{**catalog.load("data set", "mnist").recipe.training, "epochs": EPOCHS})


def ours(splits: Splits, seed: int) -> nn.Module:
    """The toolkit's loop."""
    trainer = Trainer(
        *model(seed), splits.train, splits.validation, settings(), seed=seed, device=torch.device("cpu")
    )
    trainer.run()
    return nn.Sequential(trainer.network, trainer.head)


def plain(splits: Splits, seed: int) -> nn.Module:
    """As anybody would type it in: float32, NCHW, torch's PReLU, a shuffling DataLoader; the same recipe."""
    network, head = model(seed)
    for i, layer in enumerate(network.layers):
        if isinstance(layer, PReLU):
            network.layers[i] = nn.PReLU()
    module = nn.Sequential(network, head)
    given = settings()
    torch.manual_seed(seed)
    loader = DataLoader(
        TensorDataset(splits.train.images, splits.train.labels), given.batch_size, shuffle=True, drop_last=True
    )
    total, warmup = given.epochs * len(loader), given.warmup * len(loader)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=1, momentum=given.momentum, weight_decay=given.weight_decay, nesterov=True
    )

    def rate(step: int) -> float:
        if step < warmup:
            return given.learning_rate * (step + 1) / (warmup + 1)
        return given.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    module.train()
    for _ in range(given.epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), given.max_gradient_norm)
            optimizer.step()
            schedule.step()
    return module


@torch.no_grad()
def error(module: nn.Module, test: ImageSet) -> float:
    """Test error."""
    module.eval()
    predictions = torch.cat([module(batch).argmax(dim=1) for batch in torch.split(test.images, 500)])
    return float((predictions != test.labels).double().mean())


@functools.cache
def against_plain() -> tuple[float, float] | None:
    """(median ratio of epoch times, difference of the mean test errors) over three seeds, taken by turns."""
    splits = mnist()
    if splits is None:
        return None
    errors: dict[Callable[..., nn.Module], list[float]] = {ours: [], plain: []}
    times: dict[Callable[..., nn.Module], list[float]] = {ours: [], plain: []}
    for i, work in by_turns((ours, plain), len(SEEDS)):
        began = time.perf_counter()
        module = work(splits, SEEDS[i])
        times[work].append(time.perf_counter() - began)
        errors[work].append(error(module, splits.test))
    ratios = [a / b for a, b in zip(times[ours], times[plain], strict=True)]
    return statistics.median(ratios), statistics.mean(errors[ours]) - statistics.mean(errors[plain])


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
        place = Place(Path(home) / "runs", Path(home) / "reports", Path(folder), batch_size=2500)
        study = Study(parse(table), place, weights=[])
        _ = study.fingerprint
        trained = sum(r["seconds"] for r in study.train())
        began = time.perf_counter()
        rows = study.attack()
        names = tuple(choice.file_name for choice in study.attacks)
        found = [Found(load(place.runs_dir / run), names) for run in dict.fromkeys(r["run"] for r in rows)]
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
