"""Check adversarial images: norm bound, [0, 1], dtype, shape, labels."""

import torch
from torch import Tensor

from advbench.errors import FailedCheck
from advbench.evasion.base import AttackSettings
from advbench.types import Adversarials, ImageSet, Streamed, slices

TOLERANCE = 1e-6


def check_perturbation(attack: AttackSettings, clean: ImageSet, made: Adversarials) -> None:
    """Refuse adversarial images that break the attack's own terms: norm, range, type, shape, NaN, labels."""
    check_images(attack, clean.pixels, made.images)
    if not torch.equal(made.labels, clean.labels):
        raise FailedCheck(f"{attack!r} came back with other labels than it was given; mend the attack")


def check_images(attack: AttackSettings, clean: Tensor | Streamed, images: Tensor) -> None:
    """The same of images that were `clean` before; a few at a time, for both may be larger than memory."""
    if images.dtype != torch.float32 or images.shape != clean.shape:
        raise FailedCheck(
            f"{attack!r} returned {images.dtype} {tuple(images.shape)} where torch.float32 "
            f"{tuple(clean.shape)} belongs; mend the attack"
        )
    for part in slices(len(images), 8 * images[:1].numel()):
        moved = images[part]
        if not torch.isfinite(moved).all():
            raise FailedCheck(f"{attack!r} returned images that are not finite; mend the attack")
        size = _distance(attack, moved, clean[part])
        if size > attack.eps + TOLERANCE:
            raise FailedCheck(
                f"{attack!r} moved an image by {size:.7f} in {attack.norm}, beyond its eps; mend the attack"
            )
        low, high = float(moved.min()), float(moved.max())
        if attack.clip and (low < 0 or high > 1):
            raise FailedCheck(f"{attack!r} left [0, 1]: pixels from {low:.7f} to {high:.7f}; mend the attack")


def _distance(attack: AttackSettings, moved: Tensor, clean: Tensor) -> float:
    """The largest, in the attack's norm; float64, as float32 would add a rounding of its own to the differences."""
    delta = (moved.double() - clean.double()).flatten(1)
    return float(delta.abs().max() if attack.norm == "linf" else delta.norm(dim=1).max())
