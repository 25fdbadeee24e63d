"""What attacks share: their base, the norm balls, what counts as success, what they maximise, and how."""

from advbench.evasion.adaptive import GradientEvasion, SwitchingEvasion
from advbench.evasion.ball import Ball, Norm, generator
from advbench.evasion.base import AdaptiveAttack, Attack, EitherNorm, FromSurrogate, GradientAttack, check_eps
from advbench.evasion.batches import InMemory, perturb, perturb_into
from advbench.evasion.criteria import Criterion, Misclassified, Rejected, Undetected
from advbench.evasion.gradient_ascent import adaptive_ascent, fixed_ascent, steady
from advbench.evasion.logit_objectives import ObjectiveName
from advbench.evasion.noise import Noise
from advbench.evasion.objectives import (
    ClassifierObjective,
    FeatureObjective,
    JointObjective,
    Objective,
    OrthogonalObjective,
    RejectionObjective,
    SelectiveObjective,
    ViolationObjective,
)
from advbench.evasion.random_search import square_search
from advbench.evasion.state import SearchState
from advbench.evasion.validity import check_perturbation
