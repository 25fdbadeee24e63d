"""`python -m tests.bench.mnist_training ours|plain SEED`: train on the real MNIST (ADVBENCH_DATA), for its time.

Each training has a process of its own, as a user gives it one: what one does to the process would reach the other.
"""

import functools
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advbench import catalog
from advbench.recipes import Training
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Splits
from advbench.victim import build

EPOCHS = 2


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
    """The toolkit's loop, in a process set up as the toolkit's are."""
    trainer = Trainer(
        *model(seed), splits.train, splits.validation, settings(), seed=seed, device=torch.device("cpu")
    )
    trainer.run()
    return nn.Sequential(trainer.network, trainer.head)


def plain(splits: Splits, seed: int) -> nn.Module:
    """As anybody would type it in: float32, NCHW, a shuffling DataLoader; the same recipe.

    Like the toolkit's loop it looks at the validation error after each epoch.
    """
    network, head = model(seed)
    module = nn.Sequential(network, head)
    given = settings()
    torch.manual_seed(seed)
    loader = DataLoader(
        TensorDataset(splits.train.load_all(), splits.train.labels), given.batch_size, shuffle=True, drop_last=True
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
    for _ in range(given.epochs):
        module.train()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), given.max_gradient_norm)
            optimizer.step()
            schedule.step()
        error(module, splits.validation)
    return module


@torch.no_grad()
def error(module: nn.Module, images: ImageSet) -> float:
    """Share of wrong images; the module is left in evaluation mode."""
    module.eval()
    predictions = torch.cat([module(batch).argmax(dim=1) for batch in torch.split(images.load_all(), 500)])
    return float((predictions != images.labels).double().mean())


def main(work: str, seed: int) -> None:
    """Print seconds an epoch and test error as JSON."""
    splits = mnist()
    assert splits is not None
    began = time.perf_counter()
    module = {"ours": ours, "plain": plain}[work](splits, seed)
    seconds = (time.perf_counter() - began) / EPOCHS
    print(json.dumps({"seconds": seconds, "error": error(module, splits.test)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
