"""What attacks climb on the logits: formulas from the papers, order and direction of cross-entropy, no saturation."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.errors import BadSetting
from advbench.evasion import ObjectiveName
from advbench.evasion.logit_objectives import objective
from advbench.losses.lgm import LGM
from advbench.types import margin, runners_up

NAMES: tuple[ObjectiveName, ...] = ("ce", "margin", "dlr", "logits")
CASES = list(itertools.product(NAMES, (False, True)))
N, K = 7, 5


@pytest.fixture
def logits(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(0, 3, size=(N, K)))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(N) % K


@pytest.fixture
def targets(labels: Tensor) -> Tensor:
    return (labels + 2) % K


def gradient(name: ObjectiveName, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(name, leaf, labels, targets).sum(), leaf)
    return found


def test_untargeted_objectives_are_the_papers_formulas_image_by_image(logits: Tensor, labels: Tensor) -> None:
    for i, (s, z) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        others = [s[k] for k in range(K) if k != z]
        pi = sorted(s, reverse=True)
        one = logits[[i]], labels[[i]]
        assert objective("margin", *one).item() == pytest.approx(max(others) - s[z], rel=1e-12)
        assert objective("dlr", *one).item() == pytest.approx(-(s[z] - max(others)) / (pi[0] - pi[2]), rel=1e-9)
        assert objective("logits", *one).item() == -s[z]


def test_targeted_objectives_are_the_papers_formulas_image_by_image(
    logits: Tensor, labels: Tensor, targets: Tensor
) -> None:
    for i, (s, z, t) in enumerate(zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True)):
        pi = sorted(s, reverse=True)
        one = logits[[i]], labels[[i]], targets[[i]]
        best = max(s[k] for k in range(K) if k != t)
        ratio = -(s[z] - s[t]) / (pi[0] - (pi[2] + pi[3]) / 2)
        assert objective("margin", *one).item() == pytest.approx(s[t] - best, rel=1e-12)
        assert objective("dlr", *one).item() == pytest.approx(ratio, rel=1e-9)
        assert objective("logits", *one).item() == s[t]


def test_ce_has_the_value_and_the_direction_of_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> None:
    value = objective("ce", logits, labels)
    torch.testing.assert_close(F.softplus(value), F.cross_entropy(logits, labels, reduction="none"))
    value = objective("ce", logits, labels, targets)
    torch.testing.assert_close(F.softplus(-value), F.cross_entropy(logits, targets, reduction="none"))
    leaf = logits.clone().requires_grad_()
    (plain,) = torch.autograd.grad(F.cross_entropy(leaf, labels, reduction="sum"), leaf)
    exact = gradient("ce", logits, labels, None)
    torch.testing.assert_close(F.normalize(exact), F.normalize(plain))


@pytest.mark.parametrize(("name", "targeted"), CASES)
def test_an_objective_belongs_to_its_image_alone_and_is_float64(
    name: ObjectiveName, targeted: bool, logits: Tensor, labels: Tensor, targets: Tensor
) -> None:
    towards = targets if targeted else None
    whole = objective(name, logits.float(), labels, towards)
    single = [objective(name, logits[[i]].float(), labels[[i]], targets[[i]] if targeted else None) for i in range(N)]
    assert whole.dtype == torch.float64
    assert whole.shape == (N,)
    assert torch.equal(torch.cat(single), whole)


@pytest.mark.parametrize("name", ["ce", "margin", "logits"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("lead", [17.0, 104.0, 1e4])
def test_no_lead_of_the_true_class_makes_the_gradient_vanish(
    name: ObjectiveName, targeted: bool, lead: float
) -> None:
    logits = torch.tensor([[lead, 0.0, -1.0, -3.0]])
    found = gradient(name, logits, torch.tensor([0]), torch.tensor([1]) if targeted else None)
    assert found.abs().sum() >= 0.99


@pytest.mark.parametrize(("name", "targeted"), CASES)
def test_an_objective_has_the_gradient_of_its_finite_differences(
    name: ObjectiveName, targeted: bool, logits: Tensor, labels: Tensor, targets: Tensor
) -> None:
    towards = targets if targeted else None
    step = torch.from_numpy(np.random.default_rng(1).normal(size=(N, K)))
    ahead, behind = (objective(name, logits + h * step, labels, towards) for h in (1e-6, -1e-6))
    slope = (gradient(name, logits, labels, towards) * step).sum(dim=1)
    torch.testing.assert_close((ahead - behind) / 2e-6, slope, rtol=1e-5, atol=1e-5)


def test_the_margin_is_positive_for_misclassified_images_only(logits: Tensor, labels: Tensor) -> None:
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(dim=1) != labels)
    assert margin(torch.tensor([[2.0, 2.0]]), torch.tensor([1])).item() == 0


def test_the_training_margin_of_a_head_is_no_part_of_an_objective(rng: np.random.Generator) -> None:
    head, wide = LGM(3, K, alpha=0.0), LGM(3, K, alpha=5.0)
    wide.load_state_dict(head.state_dict())
    x, labels = torch.from_numpy(rng.normal(size=(N, 3))).float(), torch.arange(N) % K
    for name in NAMES:
        assert torch.equal(objective(name, head(x), labels), objective(name, wide(x), labels))


@pytest.mark.parametrize(("targeted", "classes"), [(False, 2), (True, 3)])
def test_dlr_refuses_a_model_of_too_few_classes_and_names_the_way_out(targeted: bool, classes: int) -> None:
    z, t = torch.tensor([0]), torch.tensor([1])
    with pytest.raises(BadSetting, match=r"dlr needs \d classes, this model has \d; use margin"):
        objective("dlr", torch.zeros(1, classes), z, t if targeted else None)


def test_runners_up_are_the_best_other_classes_in_order() -> None:
    logits = torch.tensor([[5.0, 1.0, 4.0, 2.0], [0.0, 9.0, 7.0, 8.0]])
    assert runners_up(logits, torch.tensor([0, 2]), 2).tolist() == [[2, 3], [1, 3]]
    assert runners_up(logits, torch.tensor([0, 2]), 9).tolist() == [[2, 3, 1], [1, 3, 0]]
