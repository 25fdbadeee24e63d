"""The rows; importing this module fills the table."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench import catalog, metrics
from advbench.losses.lgm import LGM
from advbench.types import Outputs
from advbench.victim import Composed, Victim, build
from tests.bench.timing import ratio, row

BATCH, BATCHES = 256, 2


def mnist_victim(loss: str = "lgm") -> Victim:
    """The MNIST network at its random first weights: times do not depend on them."""
    shape, classes = (1, 28, 28), 10
    network, head = build("mnist-cnn", 100, loss, {}, shape=shape, classes=classes, seed=0)
    return Victim(Composed(network, head), shape=shape, classes=classes, device=torch.device("cpu"), batch_size=BATCH)


def some_images() -> tuple[Tensor, Tensor]:
    """Random images and labels, a few batches of them."""
    rng = torch.Generator().manual_seed(0)
    n = BATCH * BATCHES
    return torch.rand(n, 1, 28, 28, generator=rng), torch.randint(10, (n,), generator=rng)


@row("fgsm-over-plain-loop", 1.15)
def fgsm() -> float:
    """FGSM through our ART wrapper over a plain torch loop, on the MNIST network."""
    victim, (images, labels), eps = mnist_victim(), some_images(), 0.3
    attack = catalog.load("attack", "fgsm")(eps=eps)

    def ours() -> Tensor:
        def work(part: slice) -> Tensor:
            moved: Tensor = attack.perturb(victim, images[part], labels[part], torch.arange(BATCH)).images
            return moved

        return torch.cat(victim.in_batches(len(images), work))

    def theirs() -> Tensor:
        batches = []
        for x, z in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            leaf = x.clone().requires_grad_()
            loss = F.cross_entropy(victim.model(leaf), z, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            batches.append((x + eps * gradient.sign()).clamp(0, 1))
        return torch.cat(batches)

    assert (ours() == theirs()).double().mean() > 0.999
    return ratio(ours, theirs, 5)


@row("scoring-over-forward", 1.15)
def scoring() -> float:
    """A forward pass and the scores of all detectors over that forward pass alone, on the MNIST network."""
    victim, (images, labels) = mnist_victim(), some_images()
    outputs = victim.outputs(images)
    fitted = [catalog.load("detector", n)().fit(victim.head, outputs, labels) for n in catalog.names("detector")]

    def ours() -> list[Tensor]:
        made: Outputs = victim.outputs(images)
        with torch.no_grad():
            return [detector.score(made) for detector in fitted]

    @torch.no_grad()
    def theirs() -> list[Tensor]:
        return [victim.model(batch) for batch in torch.split(images, BATCH)]

    return ratio(ours, theirs, 5)


def _plain_head(features: Tensor, labels: Tensor, dim: int, classes: int) -> tuple[nn.Module, Tensor]:
    linear = nn.Linear(dim, classes)
    return linear, F.cross_entropy(linear(features), labels)


class Broadcast(LGM):
    """L-GM as the paper's formula is usually typed in, with an (n, k, d) tensor of differences."""

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        squared = (x[:, None, :] - self.mu[None]).square()
        log_var = self.bounded_log_var()
        if log_var is None:
            return -squared.sum(dim=2) / 2, self.log_prior
        offset = self.log_prior - log_var.sum(dim=1) / 2
        return offset - (squared * torch.exp(-log_var)).sum(dim=2) / 2, offset


def _head_ratio(covariance: str, *, broadcast: bool, repeats: int) -> float:
    n, dim, classes = 256, 512, 1000
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(n, dim, generator=rng, requires_grad=True)
    labels = torch.randint(classes, (n,), generator=rng)
    head = LGM(dim, classes, covariance=covariance)  # type: ignore[arg-type]
    slow = Broadcast(dim, classes, covariance=covariance)  # type: ignore[arg-type]
    slow.load_state_dict(head.state_dict())
    linear = nn.Linear(dim, classes)
    assert torch.allclose(head.loss(features, labels), slow.loss(features, labels), rtol=1e-4)

    def step(module: nn.Module, loss: Tensor) -> None:
        features.grad = None
        module.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]

    def ours() -> None:
        step(head, head.loss(features, labels))

    def theirs() -> None:
        if broadcast:
            step(slow, slow.loss(features, labels))
        else:
            step(linear, F.cross_entropy(linear(features), labels))

    return ratio(ours, theirs, repeats)


@row("lgm-identity-over-linear", 1.3)
def lgm_identity() -> float:
    """L-GM head, forward + backward at n 256, d 512, k 1000, over Linear + cross-entropy."""
    return _head_ratio("identity", broadcast=False, repeats=40)


@row("lgm-diagonal-over-linear", 2.5)
def lgm_diagonal() -> float:
    """The same with a learned diagonal covariance."""
    return _head_ratio("diagonal", broadcast=False, repeats=40)


@row("lgm-identity-over-nkd", 0.02)
def lgm_identity_nkd() -> float:
    """L-GM by matrix products over L-GM with an (n, k, d) tensor."""
    return _head_ratio("identity", broadcast=True, repeats=3)


@row("lgm-diagonal-over-nkd", 0.02)
def lgm_diagonal_nkd() -> float:
    """The same with a learned diagonal covariance."""
    return _head_ratio("diagonal", broadcast=True, repeats=3)


@row("bootstrap-over-sklearn-loop", 0.1)
def bootstrap() -> float:
    """EER + AUROC intervals, 1,000 resamples of 10,000 + 10,000 scores, over a loop around `roc_curve`."""
    from sklearn.metrics import auc, roc_curve

    rng = np.random.default_rng(0)
    n, resamples = 10_000, 1_000
    clean, attacked = rng.normal(0, 1, n), rng.normal(2, 1, n)
    labels = np.repeat([0, 1], n)

    def ours() -> metrics.RocIntervals:
        return metrics.bootstrap(clean, attacked, rng=np.random.default_rng(0), resamples=resamples)

    def theirs() -> list[np.ndarray]:
        draw = np.random.default_rng(0)
        figures = []
        for _ in range(resamples):
            index = draw.integers(n, size=n)
            fpr, tpr, _ = roc_curve(labels, np.concatenate([clean[index], attacked[index]]))
            figures.append((fpr[np.argmin(np.abs(fpr - (1 - tpr)))], auc(fpr, tpr)))
        return [np.percentile(column, [2.5, 97.5]) for column in np.transpose(figures)]

    found, (eer, auroc) = ours(), theirs()
    assert np.allclose([found.eer.low, found.eer.high], eer, atol=0.003)
    assert np.allclose([found.auroc.low, found.auroc.high], auroc, atol=0.003)
    return ratio(ours, theirs, 3)


BARE = """
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer()

@app.command()
def one(x: int = 0):
    table = Table()
    Console().print(table)

@app.command()
def two(x: int = 0):
    pass

app()
"""


@row("help-over-bare-program", 1.5)
def help_() -> float:
    """`advbench --help` over the --help of a bare typer + rich program, both in a process of their own."""
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "env": {**os.environ, "COLUMNS": "80"}}
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        return ratio(
            lambda: subprocess.run([sys.executable, "-m", "advbench", "--help"], **quiet),  # type: ignore[call-overload]
            lambda: subprocess.run([sys.executable, str(bare), "--help"], **quiet),  # type: ignore[call-overload]
            15,
        )
