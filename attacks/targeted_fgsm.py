"""Targeted FGSM: one step down the full loss at the runner-up class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from advbench.evasion import Attack
from advbench.types import Perturbed
from advbench.victim import Victim
from advbench.victim.art_losses import CrossEntropy, ExactCrossEntropy, FullLoss

if TYPE_CHECKING:
    from advbench.victim.art_classifier import GradientClassifier


@dataclass(frozen=True, kw_only=True)
class TargetedFGSM(Attack):
    """`x - eps * sign(grad L(x, t))` (Wan et al. 2018, sec. 4.3), by ART if present.

    t is the class with the second largest clean posterior, even where that is the true class. L is the head's
    full loss without its margin: L_cls + lambda L_lkd for L-GM, cross-entropy + weighted centre distance for
    center, cross-entropy for softmax and for a model that came without a loss of ours.
    exact_gradient   apply the head in float64
    """

    targeted: ClassVar[bool] = True
    exact_gradient: bool = False

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:  # noqa: ARG002
        """One gradient and two forward passes per image; labels and seeds are not used."""
        from advbench.victim.art_classifier import fast_gradient_step

        targets = victim.outputs(images).logits.topk(2, dim=1).indices[:, 1]
        return fast_gradient_step(self._classifier(victim), images, targets, self.eps, targeted=True)

    def _classifier(self, victim: Victim) -> GradientClassifier:
        if not victim.has_head:
            loss = ExactCrossEntropy() if self.exact_gradient else CrossEntropy()
            return victim.logits_classifier(loss, clip=self.clip)
        head = victim.head_in_float64() if self.exact_gradient else victim.head
        return victim.features_classifier(FullLoss(head, exact=self.exact_gradient), clip=self.clip)
