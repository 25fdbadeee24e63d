"""A frozen classifier under attack, its border to ART, and a run's model rebuilt."""

from advbench.victim.meter import Meter, Told
from advbench.victim.restore import build, head_of, rebuilt
from advbench.victim.victim import Classifier, Composed, Victim, straight_through
