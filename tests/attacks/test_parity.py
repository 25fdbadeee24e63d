"""On one fixed model, the same attack in another library: FGSM and PGD of ART and foolbox, APGD of pyautoattack."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from advbench import catalog
from advbench.types import Splits
from advbench.victim import Victim
from advbench.victim.art_losses import CrossEntropy

EPS = {"linf": 0.08, "l2": 0.5}
STEPS = 20
Attacked = Callable[[Victim, Tensor, Tensor, str], Tensor]


def share_wrong(victim: Victim, images: Tensor, labels: Tensor) -> float:
    return (victim.outputs(images).predictions != labels).double().mean().item()


def ours(name: str, victim: Victim, images: Tensor, labels: Tensor, **options: object) -> Tensor:
    made = catalog.load("attack", name)(**options).perturb(victim, images, labels, torch.arange(len(images)))
    moved: Tensor = made.images
    return moved


def of_art(victim: Victim, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    classifier = victim.logits_classifier(CrossEntropy())
    attack = ProjectedGradientDescentPyTorch(
        classifier, norm=np.inf if norm == "linf" else 2, eps=EPS[norm], eps_step=EPS[norm] / 8, max_iter=STEPS,
        batch_size=len(images), verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(images.numpy(), y=labels.numpy()))


def of_foolbox(victim: Victim, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=EPS[norm] / 8, steps=STEPS, random_start=False)
    moved: Tensor = attack(model, images, labels, epsilons=EPS[norm])[1]
    return moved


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("theirs", [of_art, of_foolbox])
@pytest.mark.parametrize("loss", ["softmax", "lgm"])
def test_pgd_misclassifies_as_many_images_as_other_libraries_do_within_a_point(
    norm: str, theirs: Attacked, loss: str, victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images, labels = victims[loss], digits.test.load_all(), digits.test.labels
    options = {"eps": EPS[norm], "norm": norm, "steps": STEPS, "step": EPS[norm] / 8, "random_start": False}
    here = share_wrong(victim, ours("pgd", victim, images, labels, **options), labels)
    there = share_wrong(victim, theirs(victim, images, labels, norm), labels)
    assert 0.15 < there < 0.9
    assert here == pytest.approx(there, abs=0.01)


@pytest.mark.parametrize("loss", ["softmax", "lgm"])
def test_fgsm_misclassifies_exactly_what_foolbox_does(loss: str, victims: dict[str, Victim], digits: Splits) -> None:
    foolbox = pytest.importorskip("foolbox")
    victim, images, labels = victims[loss], digits.test.load_all(), digits.test.labels
    here = ours("fgsm", victim, images, labels, eps=0.1)
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    there = foolbox.attacks.FGSM()(model, images, labels, epsilons=0.1)[1]
    assert share_wrong(victim, here, labels) == pytest.approx(share_wrong(victim, there, labels), abs=0.01)
    assert ((here - there).abs() < 1e-6).double().mean() > 0.999


CELLS = [  # loss, norm, eps, robust accuracy between 10 and 90 %
    ("softmax", "linf", 0.05), ("softmax", "linf", 0.08), ("softmax", "l2", 0.5),
    ("lgm", "linf", 0.05), ("lgm", "linf", 0.08), ("lgm", "l2", 0.5),
]  # fmt: skip
STARTS = 3  # restarts of ours, and of theirs
SEEDS = (0, 1, 2)
BUDGET = 50  # gradients of a start


def robust_after_ours(victim: Victim, images: Tensor, labels: Tensor, norm: str, eps: float, seed: int) -> int:
    """Images that withstand APGD-CE and APGD-DLR both."""
    seeds, left = 1000 * seed + torch.arange(len(images)), victim.outputs(images).predictions == labels
    for objective in ("ce", "dlr"):
        which = catalog.load("attack", "apgd")(
            eps=eps, norm=norm, objective=objective, steps=BUDGET, restarts=STARTS, stop=True
        )
        rows = torch.nonzero(left).squeeze(1)
        moved = which.perturb(victim, images[rows], labels[rows], seeds[rows]).images
        left[rows] = victim.outputs(moved).predictions == labels[rows]
    return int(left.sum())


def robust_after_theirs(victim: Victim, images: Tensor, labels: Tensor, norm: str, eps: float, seed: int) -> int:
    """The same two of pyautoattack."""
    from pyautoattack import AutoAttack

    reference = AutoAttack(
        victim.model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, version="custom",
        attacks=["apgd-ce", "apgd-dlr"], seed=seed,
    )  # fmt: skip
    reference.apgd.n_restarts, reference.apgd.n_iter = STARTS, BUDGET
    moved = reference.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    return int((victim.outputs(moved).predictions == labels).sum())


@pytest.mark.parametrize(("loss", "norm", "eps"), CELLS)
def test_apgd_ce_and_dlr_leave_no_more_images_robust_than_pyautoattack_in_any_cell(
    loss: str, norm: str, eps: float, victims: dict[str, Victim], digits: Splits
) -> None:
    victim, images, labels = victims[loss], digits.test.load_all(), digits.test.labels
    here = [robust_after_ours(victim, images, labels, norm, eps, seed) for seed in SEEDS]
    there = [robust_after_theirs(victim, images, labels, norm, eps, seed) for seed in SEEDS]
    assert all(0.1 < count / len(labels) < 0.9 for count in there)
    # one image of 300: random starts differ
    assert np.mean(here) <= np.mean(there) + 1, (here, there)
