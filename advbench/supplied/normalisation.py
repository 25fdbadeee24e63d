"""Compare a supplied model's predictions with labels: another pixel scale, another class order, chance."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from advbench.errors import BadSetting, Diagnostic, warn
from advbench.supplied.features import Supplied
from advbench.supplied.logits import logits_of

SCREEN = 100  # images on which every alternative is tried; those that win there are tried on all
LEVEL = 1e-3  # of each family of tests: a sound model is falsely doubted about once in a thousand
LEAST_GAIN = 0.03
# A network of random weights moves a few points above or below chance with every scale: only one that makes sense
# of the images (skill, 0 = chance, 1 = no error) and loses a good part of its errors has found its own scale.
LEAST_SKILL = 1 / 3
MOST_ERRORS = 0.75
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Scale:
    """Another way to hand images x in [0, 1] to a model: (x - mean) / std, inverted or with the channels reversed."""

    name: str
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    inverted: bool = False
    reversed: bool = False

    def apply(self, images: Tensor) -> Tensor:
        """What the model is given for images [n c h w] in [0, 1]."""
        images = 1 - images if self.inverted else images
        images = images.flip(1) if self.reversed else images
        mean, std = (images.new_tensor(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


def scales(model: Supplied, images: Tensor) -> list[Scale]:
    """What to compare a model's present normalisation with; the present one is left out."""
    mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
    own = [tuple(round(v, 4) for v in part.tolist()) for part in torch.std_mean(images, dim=(0, 2, 3))]
    found = [Scale("no normalisation"), Scale("(x - 0.5) / 0.5", (0.5,), (0.5,))]
    if images.shape[1] == 3:
        found += [
            Scale("ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            Scale("CIFAR-10's mean and std", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ]
    if images.shape[1] == 1:
        found += [Scale("MNIST's mean and std", (0.1307,), (0.3081,))]
    if min(own[0]) > 0:
        found += [Scale("the mean and std of these images", own[1], own[0])]
    found += [Scale("pixels from 0 to 255", (0.0,), (1 / 255,)), Scale("inverted pixels", mean, std, inverted=True)]
    if images.shape[1] == 3:
        found += [Scale("channels in the order blue, green, red", mean, std, reversed=True)]
    return [scale for scale in found if not same(scale, mean, std)]


def same(scale: Scale, mean: Numbers, std: Numbers) -> bool:
    """Whether a scale is what a model with this mean and std is given already."""
    if scale.inverted or scale.reversed:
        return False
    channels = max(len(v) for v in (scale.mean, scale.std, mean, std))
    pairs = ((scale.mean, mean), (scale.std, std))
    return all(
        math.isclose(x, y, abs_tol=1e-4, rel_tol=1e-3)
        for a, b in pairs
        for x, y in zip(a * (channels // len(a)), b * (channels // len(b)), strict=True)
    )


def agreement(
    model: Supplied, images: Tensor, labels: Tensor, logits: Tensor, batch_size: int = 100
) -> Iterator[Diagnostic]:
    """Findings from the model's logits [n k] on labelled images: another scale, classes in another order, chance."""
    predictions = logits.argmax(dim=1)
    found = better_scale(model, images, labels, predictions == labels, batch_size)
    found = found or other_order(predictions, labels, logits.shape[1])
    yield from at_chance(predictions, labels, logits.shape[1]) if found is None else (found,)


@torch.no_grad()
def better_scale(
    model: Supplied, images: Tensor, labels: Tensor, right: Tensor, batch_size: int
) -> Diagnostic | None:
    """The scale under which a model is right clearly more often, by an exact paired test (McNemar 1947)."""
    offered, chance = scales(model, images), chance_of(labels)
    wins: list[tuple[int, Scale]] = []
    for scale in offered:
        screened = correct(model, scale, images[:SCREEN], labels[:SCREEN], batch_size)
        if screened is None or screened.sum() <= right[:SCREEN].sum():
            continue
        won = correct(model, scale, images, labels, batch_size)
        if won is not None and makes_sense(won, right, chance) and clearly_better(won, right, LEVEL / len(offered)):
            wins.append((int(won.sum()), scale))
    if not wins:
        return None
    n, count, (most, best) = len(right), int(right.sum()), max(wins, key=lambda win: win[0])
    return warn(
        "scale",
        f"the model is right on {count} of {n} images as they are given to it, and on {most} with {best.name}; "
        + remedy(model, best),
    )


def correct(model: Supplied, scale: Scale, images: Tensor, labels: Tensor, batch_size: int) -> Tensor | None:
    """Bool [n]: right under a scale; None where some logits are not finite, or the model refuses such images."""
    try:
        logits = torch.cat([logits_of(model.module, scale.apply(part)) for part in torch.split(images, batch_size)])
    except BadSetting:  # a model may look at what it is given, and these are not its images
        return None
    return logits.argmax(dim=1) == labels if logits.isfinite().all() else None


def chance_of(labels: Tensor) -> float:
    """The share of the largest class, which a constant prediction reaches."""
    return float(labels.bincount().max()) / len(labels)


def makes_sense(won: Tensor, right: Tensor, chance: float) -> bool:
    """Whether `won` is a trained model's agreement, with at most three quarters of the errors of `right`."""
    skill = (float(won.float().mean()) - chance) / max(1 - chance, 1e-9)
    return skill >= LEAST_SKILL and int((~won).sum()) <= MOST_ERRORS * int((~right).sum())


def clearly_better(won: Tensor, right: Tensor, level: float) -> bool:
    """Whether `won` beats `right` [n] in a one-sided exact paired test at a level, and by 3 points."""
    gained, lost = int((won & ~right).sum()), int((right & ~won).sum())
    gain = (gained - lost) / len(right)
    return gain >= LEAST_GAIN and binom.sf(gained - 1, gained + lost, 0.5) < level


def remedy(model: Supplied, scale: Scale) -> str:
    """How to give the model that scale."""
    plain = not model.mean.any() and bool((model.std == 1).all())
    if scale.inverted:
        return "let build wrap it in a module that hands over 1 - images"
    if scale.reversed:
        return "let build wrap it in a module that hands over images.flip(1)"
    if scale.mean == (0.0,) and scale.std == (1.0,):
        return "it seems to normalise by itself, so that it is done twice: leave --mean and --std out"
    mean, std = (",".join(f"{v:.6g}" for v in values) for values in (scale.mean, scale.std))
    why = "it seems to be trained on normalised images" if plain else "another normalisation seems to be meant"
    return f"{why}: give --mean {mean} --std {std}"


def other_order(predictions: Tensor, labels: Tensor, classes: int) -> Diagnostic | None:
    """Classes in another order: predictions that follow the labels, but by a permutation of them."""
    table = torch.zeros(classes, classes, dtype=torch.long, device=labels.device)
    table.index_put_((labels, predictions), torch.ones_like(labels), accumulate=True)
    order = table.argmax(dim=1)
    identity = torch.arange(classes, device=labels.device)
    if not torch.equal(order.sort().values, identity) or torch.equal(order, identity):
        return None
    follows = order[labels] == predictions
    if follows.float().mean() < 0.5 or not clearly_better(follows, predictions == labels, LEVEL):
        return None
    moved = [f"{i} as {int(j)}" for i, j in enumerate(order) if i != j]
    return warn(
        "class-order",
        f"the model's classes are in another order than the data's: {int(follows.sum())} of {len(labels)} "
        f"predictions fit once they are renamed (class {', '.join(moved[:4])}{', ...' if len(moved) > 4 else ''}), "
        f"and {int((predictions == labels).sum())} as they are; let build reorder the model's logits, or rename the "
        "folders",
    )


def at_chance(predictions: Tensor, labels: Tensor, classes: int) -> Iterator[Diagnostic]:
    """Agreement that guessing would reach: not clearly above the share of the largest class."""
    n, right = len(labels), int((predictions == labels).sum())
    chance = max(chance_of(labels), 1 / classes)
    if chance == 1 or binom.sf(right - 1, n, chance) < 0.01:
        return
    one = int(predictions[0]) if bool((predictions == predictions[0]).all()) else None
    constant = "" if one is None else f"; every image is predicted as class {one}"
    yield warn(
        "chance",
        f"the model is right on {right} of {n} images, no more than chance ({100 * chance:.0f} %){constant}: its "
        "weights are untrained or were not given (--weights), its classes are in another order than the data's, or "
        "it was trained on other images",
    )
