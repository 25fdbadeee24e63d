"""The noise controls: their norm, their distribution, and that no model is asked."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from advbench import catalog
from advbench.errors import BadSetting
from advbench.types import ImageSet, Perturbed
from advbench.victim import Victim

EPS = 0.2
GREY = torch.full((40, 1, 12, 12), 0.5)  # nothing is clipped
NAMES = ("uniform-noise", "gaussian-noise")


def noise(name: str, victim: Victim, images: Tensor, seeds: Tensor | None = None, **options: object) -> Perturbed:
    made = catalog.load("attack", name)(**({"eps": EPS} | options))
    labels = torch.zeros(len(images), dtype=torch.long)
    result: Perturbed = made.perturb(victim, images, labels, torch.arange(len(images)) if seeds is None else seeds)
    return result


@pytest.fixture
def grey_victim(linear_victim: Callable[..., Victim]) -> Victim:
    """A model of 12 x 12 images; noise does not ask it."""
    return linear_victim(torch.eye(144)[:2], height=12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_norm_of_every_perturbation_is_eps(name: str, norm: str, grey_victim: Victim) -> None:
    delta = (noise(name, grey_victim, GREY, norm=norm).images - GREY).double().flatten(1)
    size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    np.testing.assert_allclose(size, EPS, rtol=1e-5)


def test_uniform_noise_is_uniform_in_the_ball(grey_victim: Victim) -> None:
    delta = (noise("uniform-noise", grey_victim, GREY).images - GREY).double().flatten() / EPS
    assert stats.kstest(delta, stats.uniform(-1, 2).cdf).statistic < 0.02  # 5,760 pixels; the stretch takes 1/144


def test_gaussian_noise_is_normal_of_half_eps_cut_off_at_the_ball(grey_victim: Victim) -> None:
    delta = (noise("gaussian-noise", grey_victim, GREY).images - GREY).double().flatten() / EPS
    inside = delta[delta.abs() < 1 - 1e-4]
    cut = stats.truncnorm(-2, 2, scale=0.5)
    assert stats.kstest(inside, cut.cdf).statistic < 0.02
    assert 1 - len(inside) / len(delta) == pytest.approx(2 * stats.norm.sf(2), abs=0.01)


@pytest.mark.parametrize(("name", "shape"), [("uniform-noise", stats.uniform(-(3**0.5), 2 * 3**0.5)),
                                            ("gaussian-noise", stats.norm())])  # fmt: skip
def test_in_l2_the_pixels_keep_their_distribution_and_share_one_length(
    name: str, shape: stats.rv_continuous, grey_victim: Victim
) -> None:
    delta = (noise(name, grey_victim, GREY, norm="l2", eps=2.0).images - GREY).double().flatten(1)
    assert stats.kstest((delta * 12 / 2.0).flatten(), shape.cdf).statistic < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_asked(name: str, victims: dict[str, Victim], few: ImageSet) -> None:
    asked: list[int] = []
    hook = victims["lgm"].network.register_forward_hook(lambda *given: asked.append(1))
    made = noise(name, victims["lgm"], few.load_all())
    hook.remove()
    assert asked == []
    for counts, each in ((made.gradients, 0), (made.forwards, 0), (made.first_success, -1)):
        assert counts.tolist() == [each] * len(few)
    assert made.zero_gradients is not None
    assert not made.zero_gradients.any()


@pytest.mark.parametrize("name", NAMES)
def test_noise_changes_far_fewer_labels_than_an_attack_of_its_norm(name: str, victim: Victim, few: ImageSet) -> None:
    wrong = victim.outputs(noise(name, victim, few.load_all()).images).predictions != few.labels
    attacked = (
        catalog.load("attack", "fgsm")(eps=EPS).perturb(victim, few.load_all(), few.labels, torch.arange(24)).images
    )
    assert wrong.sum() < (victim.outputs(attacked).predictions != few.labels).sum() / 2


@pytest.mark.parametrize("name", NAMES)
def test_a_length_beyond_the_diagonal_of_the_images_is_refused(name: str, grey_victim: Victim) -> None:
    with pytest.raises(BadSetting, match=r"outside \(0, 12\]"):
        noise(name, grey_victim, GREY, norm="l2", eps=12.1)
