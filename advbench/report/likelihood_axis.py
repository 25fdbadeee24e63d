"""The axis of log-likelihood histograms, the only place where they are exponentiated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advbench import catalog
from advbench.metrics import Array
from advbench.runs import Run
from advbench.runs.artifacts import Scores, scores_of

LOW = 0.2  # "very low likelihood" in Wan et al. 2018, sec. 4.3
SURE = 0.98  # a large p_max, ibid.


@dataclass(frozen=True)
class LikelihoodAxis:
    """Clean and attacked scores on [0, 1]; `non_positive` counts affinities put at 0."""

    clean: Array
    attacked: Array
    label: str
    non_positive: int
    is_density: bool

    @classmethod
    def of_run(cls, run: Run, scores: Scores, attack: str) -> LikelihoodAxis:
        """The likelihoods among a run's scores: of an attack's images, and of the clean ones that they were."""
        attacked = -scores_of(scores, "likelihood", attack)
        clean = -scores_of(scores, "likelihood", "test")[: len(attacked)]
        return cls.of(clean, attacked, density=catalog.load("loss", run.trained.loss_name).is_density)

    @classmethod
    def of(cls, clean: Array, attacked: Array, *, density: bool) -> LikelihoodAxis:
        """From log-likelihoods (`density`), or from affinities over their maximum (Wan et al. 2018, sec. 4.3)."""
        both = np.concatenate([clean, attacked])
        if density:
            top = max(0.0, float(both.max()))  # a learned covariance can give densities above 1
            label = "likelihood" if top == 0 else "likelihood / its maximum"
            return cls(np.exp(clean - top), np.exp(attacked - top), label, 0, True)
        scale = float(both.max()) if both.max() > 0 else 1.0
        low = int((both <= 0).sum())
        clean, attacked = (np.clip(side / scale, 0, 1) for side in (clean, attacked))
        return cls(clean, attacked, "affinity / its maximum", low, False)
