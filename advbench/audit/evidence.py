"""What an evaluation left behind, as the checks read it: attack results, scores, thresholds, other models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from advbench.audit import Selftest
from advbench.audit.results import ENSEMBLE, Result
from advbench.detection import DEFAULT_FPR, Guard, least_fpr, usual_fpr
from advbench.formatting import as_text
from advbench.metrics import Mask
from advbench.runs import ModelRow, VerifyRow
from advbench.runs.artifacts import Part
from advbench.study.command_lines import Line, attack_options
from advbench.types import ImageSet
from advbench.victim import Victim

BUDGETS = ("quick", "standard", "thorough")


@dataclass(frozen=True)
class Evidence:
    """One model, what was done to it, and the models beside it.

    model      the fields of its rows that say which model it is
    words      the command and options that name it: attack --dataset ..., evaluate --model ...
    results    every attack on it
    verify     its verify rows
    clean      the clean test part as the model sees it
    detectors  names of the detectors that rows are about
    guard      a detector's name and a false-positive rate -> the detector on duty, calibrated on clean images
    calibration  how many images those are; None = enough
    victim     the model itself; None where it cannot be had
    images     clean test images, at least the first; None where the data are not at hand
    learned    those of `detectors` that were fitted on attacked images
    others     further models of the same data set
    selftest   the record of the last `advbench selftest`; None where there is none
    """

    model: ModelRow
    words: tuple[str, ...]
    results: tuple[Result, ...]
    verify: tuple[VerifyRow, ...]
    clean: Part
    detectors: tuple[str, ...]
    guard: Callable[[str, float], Guard]
    calibration: int | None = None
    victim: Callable[[], Victim] | None = None
    images: ImageSet | None = None
    learned: frozenset[str] = frozenset()
    others: tuple[Evidence, ...] = field(default=(), repr=False)
    selftest: Selftest | None = None

    # -- what the audit is about ---------------------------------------------------------------------------

    @cached_property
    def headline(self) -> Result | None:
        """The detector-aware result that the audit is about; None where no detector was ever attacked.

        The one on most images; among equals of the largest budget, at the eps at which most attacks were run, at
        the usual false-positive rate, of the detector that it leaves best.
        """
        aware = [r for r in self.results if r.attack == ENSEMBLE and r.detector is not None]
        beside = Counter(r.ball for r in self.results)

        def weight(r: Result) -> tuple[Any, ...]:
            usual, left = r.adaptive.fpr == DEFAULT_FPR, -r.adaptive.undetected_error_rate
            return r.n, BUDGETS.index(r.setting("budget")), beside[r.ball], usual, left, r.row.eps

        return max(aware, key=weight, default=None)

    @cached_property
    def at(self) -> tuple[str, float]:
        """Norm and eps that the audit is about: the headline's, or those at which most attacks were run."""
        if self.headline is not None:
            return self.headline.ball
        balls = Counter(r.ball for r in self.results)
        return max(balls, key=lambda ball: (balls[ball], ball), default=("linf", 0.3))

    @property
    def eps(self) -> float:
        """The eps that the audit is about."""
        return self.at[1]

    @property
    def detector(self) -> str:
        """The headline's detector, or the first there is."""
        if self.headline is not None and self.headline.detector is not None:
            return self.headline.detector
        return next(iter(self.detectors), "likelihood")

    @property
    def fpr(self) -> float:
        """The headline's false-positive rate, or the usual one for so many calibration images."""
        if self.headline is not None and self.headline.adaptive.fpr is not None:
            return self.headline.adaptive.fpr
        usual = None if self.calibration is None else usual_fpr(self.calibration)
        return DEFAULT_FPR if usual is None else usual

    @property
    def supplied(self) -> bool:
        """Whether the model was not trained here."""
        return self.model.loss is None

    @property
    def pixels(self) -> int:
        """How many numbers an image is."""
        images = self.results[0].made.images if self.images is None else self.images.pixels
        return math.prod(images.shape[1:])

    @property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return 1 / self.clean.outputs.logits.shape[1]

    @property
    def clean_wrong(self) -> Mask:
        """Bool [n test]."""
        wrong: Mask = (self.clean.outputs.predictions != self.clean.labels).numpy()
        return wrong

    def of(self, *attacks: str, eps: float | None = None, **settings: Any) -> list[Result]:
        """Results of these attacks at an eps (default: the audit's) in its norm, with these settings.

        Those on most images come first; images that left [0, 1] are never among them.
        """
        at = self.eps if eps is None else eps
        found = [
            r
            for r in self.results
            if r.attack in attacks and r.row.norm == self.at[0] and abs(r.row.eps - at) < 1e-9
            if r.setting("clip") is not False and all(r.setting(k) == v for k, v in settings.items())
        ]
        return sorted(found, key=lambda r: -r.n)

    def at_any_eps(self, *attacks: str) -> Iterator[tuple[dict[float, Result], str]]:
        """For each choice of settings of these attacks: results by eps in the audit's norm, and what to call them."""
        groups: dict[str, dict[float, Result]] = {}
        for r in sorted(self.results, key=lambda r: r.n):
            if r.attack in attacks and r.row.norm == self.at[0] and r.setting("clip") is not False:
                groups.setdefault(r.label, {})[r.row.eps] = r
        yield from ((dict(sorted(by_eps.items())), label) for label, by_eps in groups.items())

    # -- what would close a gap ----------------------------------------------------------------------------

    def attack(
        self,
        *attacks: str,
        eps: str | None = None,
        n: int | None = None,
        words: tuple[str, ...] = (),
        **settings: Any,
    ) -> Line:
        """The command of attacks on this model, on as many images as the headline unless `n` says otherwise.

        Outside L-inf, where there is no FGSM, PGD takes its place.
        """
        if self.at[0] != "linf":
            attacks = tuple(dict.fromkeys("pgd" if a == "fgsm" else a for a in attacks))
        parts = [*(words or self.words), "--attack", ",".join(attacks)]
        parts += ["--eps", f"{as_text(self.eps)}" if eps is None else eps]
        norm = {} if self.at[0] == "linf" or set(attacks) <= {"targeted-fgsm"} else {"norm": self.at[0]}
        parts += attack_options({**norm, **settings})
        wanted = n if n is not None else None if self.headline is None else self.headline.n
        if wanted is not None and wanted < len(self.clean):
            parts += ["--n", str(wanted)]
        return Line.of(*parts)

    def aware(self, *attacks: str, **settings: Any) -> Line:
        """The command of adaptive attacks on the audit's detector."""
        fpr = self.fpr if self.calibration is None else max(self.fpr, least_fpr(self.calibration))
        return self.attack(*attacks, detector=self.detector, fpr=fpr, **settings)

    def verification(self) -> Line:
        """The command that scores with every detector what was attacked."""
        if self.supplied:
            return self.attack("fgsm", detector=",".join(self.detectors))
        model = self.model
        which = {"dataset": model.dataset, "loss": model.loss, "seed": model.seed, "training": model.training}
        return Line.of("verify", *(word for key, value in which.items() for word in (f"--{key}", str(value))))

    def other(self, loss: str, *more: str) -> tuple[str, ...]:
        """The words of a model of the same data set with another loss or other options."""
        end = self.words.index("--model" if self.supplied else "--loss")
        return ("attack", *self.words[1:end], "--loss", loss, *more)

    def with_seed(self, seed: int) -> tuple[str, ...]:
        """The words of the same model from another seed."""
        at = self.words.index("--seed") + 1
        return (*self.words[:at], str(seed), *self.words[at + 1 :])
