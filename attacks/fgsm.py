"""Fast gradient sign method: one step up the cross-entropy at the true label."""

from dataclasses import dataclass

from torch import Tensor

from advbench.evasion import Attack
from advbench.types import Perturbed
from advbench.victim import Victim
from advbench.victim.art_losses import CrossEntropy, ExactCrossEntropy


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """`x + eps * sign(grad CE(logits, z))` (Goodfellow et al. 2015; Wan et al. 2018, sec. 4.3), by ART if present.

    The loss is the cross-entropy of the evaluation logits; for L-GM that is L_cls without the margin.
    exact_gradient   take the logit gradient in float64, where float32 would round it to zero
    """

    exact_gradient: bool = False

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:  # noqa: ARG002
        """One gradient per image; seeds are not used."""
        from advbench.victim.art_classifier import fast_gradient_step

        loss = ExactCrossEntropy() if self.exact_gradient else CrossEntropy()
        classifier = victim.logits_classifier(loss, clip=self.clip)
        return fast_gradient_step(classifier, images, labels, self.eps, targeted=False)
