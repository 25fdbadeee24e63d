"""Attacks: their base, the norm balls, what they climb, and how."""

from advbench.evasion.ball import Norm as Norm
from advbench.evasion.base import AdaptiveAttack as AdaptiveAttack
from advbench.evasion.base import Attack as Attack
from advbench.evasion.base import FromSurrogate as FromSurrogate
from advbench.evasion.logit_objectives import Objective as Objective
from advbench.evasion.objectives import Criterion as Criterion
from advbench.evasion.objectives import Goal as Goal
from advbench.evasion.objectives import Misclassified as Misclassified
from advbench.evasion.objectives import Misclassify as Misclassify
from advbench.evasion.objectives import Undetected as Undetected
from advbench.evasion.state import Search as Search
