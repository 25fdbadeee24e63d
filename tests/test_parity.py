"""On one fixed model, the same attack in another library: FGSM and PGD of ART and foolbox, APGD of pyautoattack."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from advbench import catalog
from advbench.art_losses import CrossEntropy
from advbench.types import Splits
from advbench.victim import Victim

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
    victim, images, labels = victims[loss], digits.test.images, digits.test.labels
    options = {"eps": EPS[norm], "norm": norm, "steps": STEPS, "step": EPS[norm] / 8, "random_start": False}
    here = share_wrong(victim, ours("pgd", victim, images, labels, **options), labels)
    there = share_wrong(victim, theirs(victim, images, labels, norm), labels)
    assert 0.15 < there < 0.9
    assert here == pytest.approx(there, abs=0.01)


@pytest.mark.parametrize("loss", ["softmax", "lgm"])
def test_fgsm_misclassifies_exactly_what_foolbox_does(loss: str, victims: dict[str, Victim], digits: Splits) -> None:
    foolbox = pytest.importorskip("foolbox")
    victim, images, labels = victims[loss], digits.test.images, digits.test.labels
    here = ours("fgsm", victim, images, labels, eps=0.1)
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    there = foolbox.attacks.FGSM()(model, images, labels, epsilons=0.1)[1]
    assert share_wrong(victim, here, labels) == pytest.approx(share_wrong(victim, there, labels), abs=0.01)
    assert ((here - there).abs() < 1e-6).double().mean() > 0.999


def test_apgd_ce_and_dlr_leave_no_more_images_robust_than_pyautoattack_at_equal_budget(
    victims: dict[str, Victim], digits: Splits
) -> None:
    from pyautoattack import AutoAttack

    images, labels = digits.test.images, digits.test.labels
    here, there = [], []
    for victim in (victims["softmax"], victims["lgm"]):
        for norm, eps in EPS.items():
            lost = torch.zeros(len(labels), dtype=torch.bool)
            for objective in ("ce", "dlr"):
                moved = ours("apgd", victim, images, labels, eps=eps, norm=norm, objective=objective, steps=100)
                lost |= victim.outputs(moved).predictions != labels
            here.append(lost.double().mean().item())
            reference = AutoAttack(
                victim.model,
                norm={"linf": "Linf", "l2": "L2"}[norm],
                eps=eps,
                version="custom",
                attacks=["apgd-ce", "apgd-dlr"],
                seed=0,
            )
            reference.apgd.n_restarts = 1
            theirs = reference.run_standard_evaluation(images, labels, batch_size=len(images))[0]
            there.append(share_wrong(victim, theirs, labels))
    assert all(0.15 < share < 0.9 for share in there)
    # another random start moves any one of these shares by up to a point; their mean has to stand
    assert np.mean(here) >= np.mean(there) - 1e-9
    assert min(h - t for h, t in zip(here, there, strict=True)) > -0.015
