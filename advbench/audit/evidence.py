"""What an evaluation left behind, as the checks read it: attack results, scores, thresholds, other models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from advbench.attacks.detector_aware import GRADIENTS
from advbench.audit import Selftest
from advbench.audit.results import ENSEMBLE, Result
from advbench.detection import DEFAULT_FPR, Guard, least_fpr, usual_fpr
from advbench.formatting import as_text
from advbench.metrics import Array, Mask
from advbench.runs import ModelRow, VerifyRow
from advbench.runs.artifacts import Part
from advbench.runs.rows import Identity
from advbench.study.command_lines import Line, attack_options
from advbench.types import ImageSet
from advbench.victim import Victim


@dataclass(frozen=True)
class Evidence:
    """One model, what was done to it, and the models beside it."""

    model: ModelRow
    words: tuple[str, ...]  # the command and options that name it: attack --dataset ..., evaluate --model ...
    results: tuple[Result, ...]  # of every attack on it
    verify: tuple[VerifyRow, ...]
    clean: Part  # the clean test part as the model sees it
    detectors: tuple[str, ...]  # that rows are about
    guard: Callable[[str, float], Guard]  # detector, false-positive rate -> on duty, calibrated on clean images
    calibration: int | None = None  # how many images those are; None = enough
    victim: Callable[[], Victim] | None = None  # the model itself; None where it cannot be had
    images: ImageSet | None = None  # clean test images, at least the first; None where the data are not at hand
    learned: frozenset[str] = frozenset()  # those of `detectors` that were fitted on attacked images
    others: tuple[Evidence, ...] = field(default=(), repr=False)  # further models of the same data set
    selftest: Selftest | None = None  # the record of the last `advbench selftest`

    @cached_property
    def headline(self) -> Result | None:
        """The detector-aware result that the audit is about.

        The one on most images; among equals of the largest budget, at the eps at which most attacks were run, at
        the usual false-positive rate, of the detector that it leaves best.
        """
        aware = [r for r in self.results if r.row.attack == ENSEMBLE and r.detector is not None]
        beside = Counter(r.row.ball for r in self.results)

        def weight(r: Result) -> tuple[Any, ...]:
            usual, left = r.adaptive.fpr == DEFAULT_FPR, -r.adaptive.undetected_error_rate
            return r.row.n, list(GRADIENTS).index(r.row.setting("budget")), beside[r.row.ball], usual, left, r.row.eps

        return max(aware, key=weight, default=None)

    @cached_property
    def at(self) -> tuple[str, float]:
        """Norm and eps that the audit is about: the headline's, or those at which most attacks were run."""
        if self.headline is not None:
            return self.headline.row.ball
        balls = Counter(r.row.ball for r in self.results)
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

    @cached_property
    def by_identity(self) -> dict[tuple[Identity, int], Result]:
        """The results by attack and number of images."""
        return {(r.row.identity, r.row.n): r for r in reversed(self.results)}

    @cached_property
    def score(self) -> Callable[[str, Result | None], Array]:
        """Scores by a detector of a result's images, None: of the clean ones; each taken once."""

        def taken(detector: str, result: Result | None) -> Array:
            outputs = self.clean.outputs if result is None else result.made.outputs
            return self.guard(detector, self.fpr).score(outputs).numpy()

        return cache(taken)

    @property
    def clean_wrong(self) -> Mask:
        """Bool [n test]."""
        wrong: Mask = (self.clean.outputs.predictions != self.clean.labels).numpy()
        return wrong

    def of(self, *attacks: str, eps: float | None = None, **settings: Any) -> list[Result]:
        """Results of these attacks at an eps in the audit's norm, unclipped ones left out, most images first."""
        at = self.eps if eps is None else eps
        found = [r for r in self.results if r.row.attack in attacks and r.row.norm == self.at[0]]
        found = [r for r in found if abs(r.row.eps - at) < 1e-9 and r.row.setting("clip") is not False]
        found = [r for r in found if all(r.row.setting(k) == v for k, v in settings.items())]
        return sorted(found, key=lambda r: -r.row.n)

    def at_any_eps(self, *attacks: str) -> Iterator[tuple[dict[float, Result], str]]:
        """For each choice of settings of these attacks: results by eps in the audit's norm, and what to call them."""
        groups: dict[str, dict[float, Result]] = {}
        for r in sorted(self.results, key=lambda r: r.row.n):
            if r.row.attack in attacks and r.row.norm == self.at[0] and r.row.setting("clip") is not False:
                groups.setdefault(r.label, {})[r.row.eps] = r
        yield from ((dict(sorted(by_eps.items())), label) for label, by_eps in groups.items())

    def attack(
        self,
        *attacks: str,
        eps: str | None = None,
        n: int | None = None,
        words: tuple[str, ...] = (),
        **settings: Any,
    ) -> Line:
        """The command of attacks on this model; PGD for FGSM outside L-inf, `n` as the headline's unless given."""
        if self.at[0] != "linf":
            attacks = tuple(dict.fromkeys("pgd" if a == "fgsm" else a for a in attacks))
        parts = [*(words or self.words), "--attack", ",".join(attacks)]
        parts += ["--eps", f"{as_text(self.eps)}" if eps is None else eps]
        norm = {} if self.at[0] == "linf" or set(attacks) <= {"targeted-fgsm"} else {"norm": self.at[0]}
        parts += attack_options({**norm, **settings})
        wanted = n or (self.headline and self.headline.row.n)
        return Line.of(*parts, *(["--n", str(wanted)] if wanted and wanted < len(self.clean) else []))

    def aware(self, *attacks: str, **settings: Any) -> Line:
        """The command of adaptive attacks on the audit's detector."""
        fpr = self.fpr if self.calibration is None else max(self.fpr, least_fpr(self.calibration))
        return self.attack(*attacks, detector=self.detector, fpr=fpr, **settings)

    def verification(self) -> Line:
        """The command that scores with every detector what was attacked."""
        if self.supplied:
            return self.attack("fgsm", detector=",".join(self.detectors))
        which = ("dataset", "loss", "seed", "training")
        return Line.of("verify", *(word for key in which for word in (f"--{key}", str(getattr(self.model, key)))))

    def other(self, loss: str, *more: str) -> tuple[str, ...]:
        """The words of a model of the same data set with another loss or other options."""
        end = self.words.index("--model" if self.supplied else "--loss")
        return ("attack", *self.words[1:end], "--loss", loss, *more)

    def with_seed(self, seed: int) -> tuple[str, ...]:
        """The words of the same model from another seed."""
        at = self.words.index("--seed") + 1
        return (*self.words[:at], str(seed), *self.words[at + 1 :])
