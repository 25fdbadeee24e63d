"""Feature matching: takes an image to the features of a clean, accepted image of another class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.detection import Guard
from advbench.errors import BadSetting
from advbench.evasion import FeatureObjective, GradientEvasion, Objective
from advbench.types import Outputs


@dataclass(frozen=True, kw_only=True)
class FeatureMatching(GradientEvasion):
    """`-||phi(x) - phi(r)||^2` by Auto-PGD (Sabour et al. 2016, arXiv:1511.05122; Tramer et al. 2020).

    r is, of the guard's clean calibration images that have the target's label, are classified so and pass the
    threshold, the one whose features lie nearest to the clean image's. Works where the score has no gradient.
    targets   at least 1; steps, restarts as in `apgd`
    """

    steps: int = 50
    targets: int = 3
    restarts: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise BadSetting(
                f"targets = {self.targets} is out of range; features are matched to a target's: 1 or more"
            )

    def objectives(self, labels: Tensor, targets: Tensor | None, guard: Guard, clean: Outputs) -> Sequence[Objective]:  # noqa: ARG002
        """One: towards the nearest reference of each image's target; without one, towards its own features."""
        assert targets is not None
        usable = (guard.clean_scores <= guard.threshold) & (guard.clean.predictions == guard.labels)
        own, found = clean.features.double().cpu(), guard.clean.features.double().cpu()
        distance = torch.cdist(own, found)
        other = guard.labels[None, :] != targets.cpu()[:, None]
        nearest = distance.masked_fill(other | ~usable, torch.inf).min(dim=1)
        references = torch.where(nearest.values.isfinite()[:, None], found[nearest.indices], own)
        return [FeatureObjective(references.to(clean.features.device))]
