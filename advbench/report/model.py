"""A model of the page: its run, rows and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from advbench import metrics
from advbench.runs import AttackRow, Run, VerifyRow, artifacts
from advbench.runs.rows import Identity


@dataclass(frozen=True)
class ReportedModel:
    """One model of the page."""

    run: Run
    label: str
    attacks: Mapping[str, AttackRow]  # that the page is about, by file name
    rows: Sequence[VerifyRow]
    scores: artifacts.Scores
    test: artifacts.Part
    known: Mapping[str, AttackRow]  # of the whole run

    @cached_property
    def detectors(self) -> set[str]:
        """Those that this page holds rows of."""
        return {row.detector for row in self.rows}

    @cached_property
    def whole(self) -> Mapping[tuple[str, int, Identity], VerifyRow]:
        """The rows of all images, the paper's setting, by detector, number of images and attack."""
        rows = reversed(self.rows)
        return {(row.detector, row.n_clean, row.identity): row for row in rows if row.population == "all"}

    def scored_by(self, detector: str) -> bool:
        """Whether this page holds rows of the detector on this model."""
        return detector in self.detectors

    def score(self, detector: str, source: str) -> metrics.Array:
        """Scores of a detector on `test` or an attack file, in image order."""
        return artifacts.scores_of(self.scores, detector, source)

    def wrong(self, detector: str, source: str) -> metrics.Mask:
        """Whether each image of `source` is misclassified, in the order of its scores."""
        chosen = self.scores[detector, source]
        mask: metrics.Mask = (chosen.prediction != chosen.label).to_numpy()
        return mask
