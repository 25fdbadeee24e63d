"""Evaluate a model that was not trained here: the same steps as a study's, with the model brought along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from advbench import catalog, fitting, guards
from advbench.contracts import FromSurrogate
from advbench.data import for_supplied
from advbench.door import MOST_IMAGES, inspect
from advbench.errors import BadSetting
from advbench.features import Supplied, tap
from advbench.findings import Finding, enforce
from advbench.pipeline import Study
from advbench.place import Place
from advbench.runs import Run
from advbench.sources import label
from advbench.spec import AttackChoice, Model, Spec, SuppliedModel
from advbench.supplied import code_file_of, identity_of, load_model
from advbench.surrogates import NO_SURROGATE
from advbench.types import Outputs, Splits
from advbench.victim import Victim

EPS = 8 / 255  # unless an attack is given another: the usual one of colour pictures
FPR = 0.05
FEW = 200  # images of the ensemble that knows the detector
DETECTORS = ("max-posterior", "energy", "mahalanobis")
SAMPLE = 4  # images by which the features are found
IN_MEMORY = "python:"  # before the type of a model that was handed over as an object


class Bringing(Protocol):
    """How a model gets here."""

    def bring(self, splits: Splits) -> tuple[nn.Module, dict[str, Any]]:
        """The model, and what tells it from others (see `supplied.identity_of`)."""


@dataclass(frozen=True)
class Named:
    """A model by its name on a command line, which may run the code it names."""

    source: str
    weights: Path | None = None
    trust: bool = False

    def bring(self, splits: Splits) -> tuple[nn.Module, dict[str, Any]]:
        """Loaded for the data set's classes and shape; raises BadSetting or BadData."""
        module = load_model(
            self.source,
            weights=self.weights,
            trust=self.trust,
            classes=len(splits.test.classes),
            shape=splits.test.shape,
        )
        identity = identity_of(module, self.source, code_file_of(self.source))
        return module, identity | ({} if self.weights is None else {"weights": self.weights.name})


@dataclass(frozen=True)
class Given:
    """A model in memory."""

    module: nn.Module

    def bring(self, splits: Splits) -> tuple[nn.Module, dict[str, Any]]:  # noqa: ARG002
        """Itself."""
        return self.module, identity_of(self.module, IN_MEMORY + type(self.module).__name__, None)


def usual_attacks(budget: str = "quick") -> list[dict[str, Any]]:
    """The attacks of an evaluation that names none: a careless attacker and a careful one."""
    return [{"name": "fgsm"}, {"name": "detector-aware", "budget": budget, "n": FEW}]


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, and how it takes its images.

    features    name of the layer whose output is the features; None = the input of the last layer
    mean, std   one value, or one a channel: the model is given (image - mean) / std; None = images as they are
    """

    model: Bringing
    features: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            given, other, usual = ("std", "mean", "0") if self.mean is None else ("mean", "std", "1")
            raise BadSetting(
                f"{given} is given without {other}; the model is given (image - mean) / std, so write {other} = "
                f"{usual} where it changes nothing"
            )


class Evaluation(Study):
    """A study of one supplied model.

    Calibration is the part given as such, else half of the test part, never images that the model may have seen.
    `usual` says that the attacks are the default ones, which take no more images than there are, and `usual_fpr` that
    the false-positive rate of their thresholds is too: it grows where calibration is small, and where that cannot fix
    any, the attacks that want a threshold are left out.
    """

    def __init__(
        self,
        spec: Spec,
        place: Place,
        subject: Subject,
        *,
        data: Splits | None = None,
        usual: bool = False,
        usual_fpr: bool = True,
    ) -> None:
        super().__init__(spec, place, weights=())
        for name in spec.detectors:
            detector = catalog.load("detector", name)
            if detector.fitted_on == "head":  # refused by itself, before anything is attacked
                detector().fit(None, Outputs(torch.empty(0, 1), torch.empty(0, 2)), torch.empty(0, dtype=torch.long))
        if any(isinstance(choice.attack, FromSurrogate) for choice in spec.attacks):
            raise BadSetting(NO_SURROGATE)
        self.subject = subject
        self.data = data
        self.usual = usual
        self.usual_fpr = usual and usual_fpr

    def _loaded(self) -> Splits:
        splits = for_supplied(super()._loaded()) if self.data is None else self.data
        aimed = [choice.detector for choice in self.spec.attacks if choice.fpr is not None]
        for name in dict.fromkeys((*self.spec.detectors, *(name for name in aimed if name is not None))):
            guards.check_fittable(name, len(splits.train))
        if self.usual_fpr and any(choice.fpr is not None for choice in self.spec.attacks):
            self._say_what_calibration_fixes(len(splits.calibration))
        return splits

    def _say_what_calibration_fixes(self, n: int) -> None:
        fpr = guards.usual_fpr(n)
        if fpr is None:
            self.place.progress.say(
                f"{n} calibration images are too few to fix a threshold: the attacks that know a detector are left "
                f"out; {math.ceil(10 / guards.FPRS[-1])} or more allow them, and twice as many the usual threshold"
            )
        elif fpr != FPR:
            self.place.progress.say(
                f"{n} calibration images are too few for a threshold at {FPR:.0%} false positives; the attacks that "
                f"know a detector are run at {fpr:.0%}"
            )

    def attacks_for(self, splits: Splits) -> list[AttackChoice]:
        """The attacks of the spec; the default ones as the parts allow them."""
        found = super().attacks_for(splits)
        if self.usual:
            few = len(splits.test) < FEW
            found = [replace(c, n=None) if few and c.n == FEW and c.detector is not None else c for c in found]
        if self.usual_fpr:
            fpr = guards.usual_fpr(len(splits.calibration))
            found = [c if c.fpr is None else replace(c, fpr=fpr) for c in found if c.fpr is None or fpr is not None]
        return found

    @cached_property
    def _brought(self) -> tuple[Supplied, dict[str, Any]]:
        own, splits = self.subject, self.splits
        module, identity = own.model.bring(splits)
        sample = splits.test.take(slice(SAMPLE)).images
        return tap(module, sample, features=own.features, mean=own.mean, std=own.std), identity

    def models(self) -> Sequence[Model | SuppliedModel]:
        """The one model."""
        supplied, identity = self._brought
        own = {k: v for k in ("features", "mean", "std") if (v := getattr(self.subject, k)) is not None}
        own = {k: v if isinstance(v, str) else [float(x) for x in v] for k, v in own.items()}
        tapped = f"{'input' if supplied.at_input else 'output'} of {supplied.layer}"
        name = label(self.spec.dataset) if self.data is None else self.data.test.name
        return [SuppliedModel(name, identity | own | {"tapped": tapped}, self.spec.image_size)]

    def _victim(self, run: Run, model: Model | SuppliedModel) -> Victim:  # noqa: ARG002
        splits, place = self.splits, self.place
        return Victim(
            self._brought[0],
            shape=splits.test.shape,
            classes=len(splits.test.classes),
            device=place.device,
            batch_size=place.batch_size,
            reuse_gradients=True,
            say=place.progress.say,
        )

    def _ensure_ready(self, run: Run, model: Model | SuppliedModel) -> None:
        """The model let in at the door, and its outputs stored."""
        if not run.has("door"):
            run.write("door", {}, info={"findings": [asdict(finding) for finding in self._at_the_door()]})
        for finding in run.info("door")["findings"]:
            self.place.progress.say(f"{finding['severity']}: {finding['text']}")
        splits = self.splits
        parts = {"train": splits.train, "calibration": splits.calibration, "test": splits.test}
        fitting.ensure_outputs(run, parts, lambda: self._victim(run, model), splits, self.place.progress)

    def _at_the_door(self) -> Sequence[Finding]:
        """What is doubtful about the model, on calibration images; raises BadSetting for what is wrong."""
        some = self.splits.calibration
        some = some.take(torch.linspace(0, len(some) - 1, min(len(some), MOST_IMAGES)).long())
        classes = len(some.classes)
        return enforce(inspect(self._brought[0], some.images, some.labels, classes, gradients=self._needs_gradients))

    @property
    def _needs_gradients(self) -> bool:
        return any(choice.attack.differentiates for choice in self.spec.attacks)
