"""A frozen classifier under attack, its border to ART, and a run's model rebuilt."""

from advbench.victim.victim import Classifier as Classifier
from advbench.victim.victim import Composed as Composed
from advbench.victim.victim import Victim as Victim
