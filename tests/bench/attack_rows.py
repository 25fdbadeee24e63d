"""Rows on attacks: against a plain loop, against other libraries, against AutoAttack; and how cost grows."""

import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench import catalog
from advbench.detection import NO_DETECTOR, AcceptAll, Guard
from advbench.runs import released
from advbench.runs.artifacts import within
from advbench.victim import Composed, Victim, build
from tests.bench.mnist_training import mnist
from tests.bench.rows import BATCH, mnist_victim, some_images
from tests.bench.timing import ratio, row

WEIGHTS = Path(__file__).resolve().parents[2] / "reports" / "mnist" / "weights"


def _some_pgd() -> tuple[Victim, Tensor, Tensor]:
    victim, (images, labels) = mnist_victim("softmax"), some_images()
    return victim, images[:16], labels[:16]


STEPS = 40


@row("pgd-over-plain-loop", 1.05)
def pgd() -> float:
    """Our PGD-40 over a plain torch loop, on the MNIST network."""
    victim, images, labels = _some_pgd()
    attack = catalog.load("attack", "pgd")(eps=0.3, step=0.01, steps=STEPS, random_start=False)

    def ours() -> Tensor:
        moved: Tensor = attack.perturb(victim, images, labels, torch.arange(len(labels))).images
        return moved

    def theirs() -> Tensor:
        x = images
        for _ in range(STEPS):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(victim.model(leaf), labels, reduction="sum"), leaf)
            x = (images + (x + 0.01 * gradient.sign() - images).clamp(-0.3, 0.3)).clamp(0, 1)
        return x

    return ratio(ours, theirs, 5)


class Passes(nn.Module):
    """A model that counts its forward and backward passes, in batches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(images)
        self.forwards += 1
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, _: Tensor) -> None:
        self.backwards += 1


def _pgd_of(library: str, model: nn.Module, images: Tensor, labels: Tensor) -> object:
    if library == "foolbox":
        import foolbox.models.pytorch

        attack = foolbox.attacks.LinfPGD(abs_stepsize=0.01, steps=STEPS, random_start=False)
        return attack(
            foolbox.models.pytorch.PyTorchModel(model, bounds=(0, 1), device="cpu"), images, labels, epsilons=0.3
        )
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    from advbench.victim.art_classifier import wrap
    from advbench.victim.art_losses import CrossEntropy

    classifier = wrap(model, CrossEntropy(), shape=(1, 28, 28), classes=10, device=torch.device("cpu"), clip=True)
    art = ProjectedGradientDescentPyTorch(
        classifier, eps=0.3, eps_step=0.01, max_iter=STEPS, batch_size=len(images), verbose=False
    )
    return art.generate(images.numpy(), y=labels.numpy())


def _pgd_against(library: str) -> tuple[float, float]:
    """Our passes over theirs (forward and backward together), and our time over theirs."""
    victim, images, labels = _some_pgd()
    attack = catalog.load("attack", "pgd")(eps=0.3, step=0.01, steps=STEPS, random_start=False)
    counted = Passes(victim.model).eval()
    _pgd_of(library, counted, images, labels)
    made = attack.perturb(victim, images, labels, torch.arange(len(labels)))
    forwards, backwards = int(made.forwards[0]), int(made.gradients[0])
    sys.stderr.write(
        f"PGD-{STEPS}: ours {forwards} forward, {backwards} backward; "
        f"{library} {counted.forwards}, {counted.backwards}\n"
    )
    passes = max(forwards / counted.forwards, backwards / counted.backwards)
    time = ratio(
        lambda: attack.perturb(victim, images, labels, torch.arange(len(labels))),
        lambda: _pgd_of(library, victim.model, images, labels),
        2,
    )
    sys.stderr.write(f"PGD-{STEPS}: our time over that of {library}: {time:.3f}\n")
    return passes, time


@row("pgd-passes-over-foolbox", 1.0)
def pgd_foolbox() -> float:
    """Forward and backward passes of our PGD-40 over foolbox's, the larger ratio; times on stderr."""
    return _pgd_against("foolbox")[0]


@row("pgd-passes-over-art", 1.0)
def pgd_art() -> float:
    """Forward and backward passes of our PGD-40 over ART's, the larger ratio; times on stderr."""
    return _pgd_against("art")[0]


EPS = 0.3


def _released(stem: str) -> Victim | None:
    """The released 100-D model of that name, seed 0; None where it is not here."""
    path = WEIGHTS / f"{stem}-100d-seed0.safetensors"
    if not path.exists():
        return None
    found, shape = released.read(path), (1, 28, 28)
    own = found.model.loss_settings
    network, head = build("mnist-cnn", 100, found.model.loss_name, own, shape=shape, classes=10, seed=0)
    network.load_state_dict(within(found.tensors, "network"))
    head.load_state_dict(within(found.tensors, "head"))
    return Victim(Composed(network, head), shape=shape, classes=10, device=torch.device("cpu"), batch_size=BATCH)


@functools.cache
def _against_autoattack(stem: str, n: int) -> tuple[float, float] | None:
    """(seconds, robust accuracy) of the ensemble (v3, no detector): over, and minus, the published AutoAttack's."""
    splits, victim = mnist(), _released(stem)
    if splits is None or victim is None:
        return None
    images, labels, seeds = splits.test.load_all()[:n], splits.test.labels[:n], torch.arange(n)
    guard = Guard(NO_DETECTOR, AcceptAll(), 1.0, False, victim.outputs(images), labels)
    ensemble = catalog.load("attack", "detector-aware")(eps=EPS, version="v3")
    published = catalog.load("attack", "autoattack")(eps=EPS)

    def robust(attack: Callable[[], Any]) -> tuple[float, float]:
        began = time.perf_counter()
        moved = attack().images
        seconds = time.perf_counter() - began
        return float((victim.outputs(moved).predictions == labels).double().mean()), seconds

    ours, taken = robust(lambda: ensemble.perturb(victim, images, labels, seeds, guard))
    theirs, took = robust(lambda: published.perturb(victim, images, labels, seeds))
    sys.stderr.write(
        f"{stem}, {n} images: robust {ours:.3f} in {taken:.0f} s, AutoAttack {theirs:.3f} in {took:.0f} s\n"
    )
    return taken / took, ours - theirs


def _part(found: tuple[float, float] | None, part: int) -> float | None:
    return None if found is None else found[part]


@row("ensemble-over-autoattack-undefended", 0.25)
def undefended() -> float | None:
    """Time to the worst-case robust accuracy over pyautoattack standard's: released softmax model, 100 images."""
    return _part(_against_autoattack("softmax", 100), 0)


@row("ensemble-minus-autoattack-undefended", 0.005)
def undefended_accuracy() -> float | None:
    """By how much the ensemble's robust accuracy exceeds pyautoattack's there."""
    return _part(_against_autoattack("softmax", 100), 1)


@row("ensemble-over-autoattack-adversarially-trained", 0.5, slow=True)
def adversarially_trained() -> float | None:
    """The time ratio on the adversarially trained softmax model, 64 images."""
    return _part(_against_autoattack("softmax-adv", 64), 0)


@row("ensemble-minus-autoattack-adversarially-trained", 0.005, slow=True)
def adversarially_trained_accuracy() -> float | None:
    """By how much the ensemble's robust accuracy exceeds pyautoattack's there."""
    return _part(_against_autoattack("softmax-adv", 64), 1)


def _pgd_of_n(n: int) -> None:
    victim = mnist_victim("softmax")
    victim.batch_size = 32
    images, labels = torch.rand(n, 1, 28, 28), torch.zeros(n, dtype=torch.long)
    attack = catalog.load("attack", "pgd")(eps=EPS, steps=3)

    def work(part: slice) -> Tensor:
        moved: Tensor = attack.perturb(victim, images[part], labels[part], torch.arange(n)[part]).images
        return moved

    victim.in_batches(n, work)


@row("attack-time-of-4n-over-4-times-n", 1.15)
def linear() -> float:
    """PGD on 512 images over four times PGD on 128, batches of 32: cost is linear in images."""
    return ratio(lambda: _pgd_of_n(512), lambda: _pgd_of_n(128), 3) / 4


@row("attack-peak-memory-of-4n-over-n", 1.1)
def memory() -> float:
    """Peak memory of a process that attacks 1,024 images over one that attacks 256, batches of 32."""

    def peak(n: int) -> int:
        code = f"from tests.bench.attack_rows import peak_of; print(peak_of({n}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    return peak(1024) / peak(256)


def peak_of(n: int) -> int:
    """Peak resident memory of this process after attacking n images, in the system's unit."""
    _pgd_of_n(n)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
