"""Detectors: their base, the guard that rejects by one, thresholds from calibration images."""

from advbench.detection.base import Detector as Detector
from advbench.detection.base import FittedDetector as FittedDetector
from advbench.detection.base import FittedOn as FittedOn
from advbench.detection.guard import NO_DETECTOR as NO_DETECTOR
from advbench.detection.guard import AcceptAll as AcceptAll
from advbench.detection.guard import Guard as Guard
