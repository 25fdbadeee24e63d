"""A model of the page: its run, rows and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from advbench import metrics
from advbench.runs import AttackRow, Run, VerifyRow, artifacts


@dataclass(frozen=True)
class ReportedModel:
    """One model of the page."""

    run: Run
    label: str
    attacks: Mapping[str, AttackRow]  # that the page is about, by file name
    rows: Sequence[VerifyRow]
    scores: pd.DataFrame
    test: artifacts.Part
    known: Mapping[str, AttackRow]  # of the whole run

    def scored_by(self, detector: str) -> bool:
        """Whether this page holds rows of the detector on this model."""
        return any(row.detector == detector for row in self.rows)

    def score(self, detector: str, source: str) -> metrics.Array:
        """Scores of a detector on `test` or an attack file, in image order."""
        return artifacts.scores_of(self.scores, detector, source)

    def wrong(self, detector: str, source: str) -> metrics.Mask:
        """Whether each image of `source` is misclassified, in the order of its scores."""
        chosen = self.scores[(self.scores.detector == detector) & (self.scores.source == source)].sort_values("index")
        mask: metrics.Mask = (chosen.prediction != chosen.label).to_numpy()
        return mask
