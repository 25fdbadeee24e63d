"""Check adversarial images: norm bound, [0, 1], dtype, shape, labels."""

from collections.abc import Iterator

import torch
from torch import Tensor

from advbench.errors import FailedCheck
from advbench.evasion.base import AttackSettings
from advbench.types import Adversarials, ImageSet

TOLERANCE = 1e-6


def check_perturbation(attack: AttackSettings, clean: ImageSet, made: Adversarials) -> None:
    """Refuse adversarial images that break the attack's own terms: norm, range, type, shape, NaN, labels."""
    images = made.images
    if images.dtype != torch.float32 or images.shape != clean.pixels.shape:
        raise FailedCheck(
            f"{attack!r} returned {images.dtype} {tuple(images.shape)} where torch.float32 "
            f"{tuple(clean.pixels.shape)} belongs; mend the attack"
        )
    if not torch.isfinite(images).all():
        raise FailedCheck(f"{attack!r} returned images that are not finite; mend the attack")
    if not torch.equal(made.labels, clean.labels):
        raise FailedCheck(f"{attack!r} came back with other labels than it was given; mend the attack")
    size = max(_distance(attack, images[part], clean.pixels[part]) for part in _slices(len(images)))
    if size > attack.eps + TOLERANCE:
        raise FailedCheck(
            f"{attack!r} moved an image by {size:.7f} in {attack.norm}, beyond its eps; mend the attack"
        )
    low, high = float(images.min()), float(images.max())
    if attack.clip and (low < 0 or high > 1):
        raise FailedCheck(f"{attack!r} left [0, 1]: pixels from {low:.7f} to {high:.7f}; mend the attack")


def _slices(n: int) -> Iterator[slice]:
    """Of 0..n, at most 1,024 rows each: the clean images may be on disk."""
    return (slice(start, start + 1024) for start in range(0, n, 1024))


def _distance(attack: AttackSettings, moved: Tensor, clean: Tensor) -> float:
    """The largest, in the attack's norm; float64, as float32 would add a rounding of its own to the differences."""
    delta = (moved.double() - clean.double()).flatten(1)
    return float(delta.abs().max() if attack.norm == "linf" else delta.norm(dim=1).max())
