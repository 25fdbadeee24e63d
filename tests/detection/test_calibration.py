"""Scores as a run's calibration takes them, and the guard's rule: above the threshold is rejected, a tie passes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from advbench.detection import FittedDetector, Guard, calibration, undetected_errors
from advbench.errors import FailedCheck
from advbench.types import Outputs


class Broken(FittedDetector):
    """Gives what it was made with."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def score(self, outputs: Outputs) -> Tensor:  # noqa: ARG002
        return torch.tensor(self.values, dtype=torch.float32)


OUTPUTS = Outputs(torch.zeros(3, 2), torch.zeros(3, 2))


def test_a_detector_that_gives_nan_is_named() -> None:
    with pytest.raises(FailedCheck, match=r"broken.*2 of 3.*test") as caught:
        calibration.score("broken", Broken(math.nan, 1.0, math.nan), OUTPUTS, "test")
    assert caught.value.exit_code == 1


def test_infinite_scores_are_allowed_and_scores_are_float64() -> None:
    scores = calibration.score("fine", Broken(math.inf, -5.0, 0.0), OUTPUTS, "test")
    assert scores.dtype == np.float64
    assert scores.tolist() == [math.inf, -5.0, 0.0]


@pytest.mark.parametrize("threshold", [0.5, math.inf, -math.inf])
def test_a_score_above_the_threshold_is_rejected_and_a_tie_passes(threshold: float) -> None:
    scores = (threshold, np.nextafter(np.float32(threshold), np.float32(math.inf)), -1e30)
    guard = Guard("given", Broken(*map(float, scores)), threshold, False, OUTPUTS, torch.zeros(3, dtype=torch.long))
    above = [False, math.isfinite(threshold) or threshold < 0, threshold == -math.inf]
    assert guard.rejects(OUTPUTS).tolist() == above
    wrong = torch.tensor([1, 1, 0])  # the first class is predicted of all three
    assert undetected_errors(OUTPUTS, wrong, guard).tolist() == [True, not above[1], False]
