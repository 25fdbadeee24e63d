"""Adversarial images that break the terms of their attack are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advbench.attacks.fgsm import FGSM
from advbench.errors import FailedCheck
from advbench.evasion import check_perturbation
from advbench.types import Adversarials, ImageSet, Outputs


@pytest.fixture
def clean() -> ImageSet:
    images = torch.linspace(0, 1, 3 * 4).reshape(3, 1, 2, 2)
    return ImageSet("three", images, torch.tensor([0, 1, 2]), ("a", "b", "c"))


def moved(clean: ImageSet, images: Tensor, labels: Tensor | None = None) -> Adversarials:
    """An attack's result with these images."""
    n = len(images)
    outputs = Outputs(torch.zeros(n, 2), torch.zeros(n, 3))
    none = torch.zeros(n, dtype=torch.bool)
    labels = clean.labels if labels is None else labels
    return Adversarials(images, torch.arange(n), labels, None, outputs, none, none)


def test_a_perturbation_of_exactly_eps_is_fair(clean: ImageSet) -> None:
    inside = (clean.load_all() + torch.where(clean.load_all() < 0.5, 0.25, -0.25)).clamp(0, 1)
    check_perturbation(FGSM(eps=0.25), clean, moved(clean, inside))
    check_perturbation(FGSM(eps=0.25, clip=False), clean, moved(clean, clean.load_all() + 0.25))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda x: x + 0.2501 * (x < 0.5), "eps"),
        (lambda x: torch.where(x == 0, x + 0.25001, x), "eps"),
        (lambda x: x + 0.1, "[0, 1]"),
        (lambda x: x - 0.1, "[0, 1]"),
        (lambda x: x.double(), "float64"),
        (lambda x: x.flatten(1), "(3, 4)"),
        (lambda x: x[:2], "(2, 1, 2, 2)"),
        (lambda x: torch.where(x == 0, torch.nan, x), "finite"),
        (lambda x: torch.where(x == 0, torch.inf, x), "finite"),
    ],
)
def test_images_that_break_the_terms_of_the_attack_are_refused(
    clean: ImageSet, broken: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(FailedCheck) as caught:
        check_perturbation(FGSM(eps=0.25), clean, moved(clean, broken(clean.load_all())))
    assert said in str(caught.value)
    assert "FGSM" in str(caught.value)


def test_other_labels_than_given_are_refused(clean: ImageSet) -> None:
    with pytest.raises(FailedCheck, match="labels"):
        check_perturbation(FGSM(), clean, moved(clean, clean.load_all(), torch.tensor([0, 1, 1])))


def test_an_l2_attack_is_measured_over_the_whole_image(clean: ImageSet) -> None:
    class L2(FGSM):
        norm = "l2"

    step = torch.where(clean.load_all() < 0.5, 0.2, -0.2)
    check_perturbation(L2(eps=0.4), clean, moved(clean, clean.load_all() + step))  # sqrt(4 * 0.2^2)
    with pytest.raises(FailedCheck, match="l2"):
        check_perturbation(L2(eps=0.399), clean, moved(clean, clean.load_all() + step))
