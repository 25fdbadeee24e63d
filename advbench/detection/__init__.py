"""What detectors share: their base, the guard that rejects, thresholds from calibration images."""

from advbench.detection.base import Detector, FittedDetector, FittedOn
from advbench.detection.calibration import DEFAULT_FPR, applicable, fit, least_fpr, score, usual_fpr
from advbench.detection.guard import NO_DETECTOR, AcceptAll, Guard, undetected_errors
