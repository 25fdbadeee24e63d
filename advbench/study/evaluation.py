"""Evaluate a supplied model: a study's steps, with the model brought along."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from advbench import catalog
from advbench.data import SHARES, duplicates, for_supplied, missing_classes
from advbench.data.sources import label
from advbench.detection import DEFAULT_FPR, calibration
from advbench.errors import BadRun, BadSetting
from advbench.evasion import FromSurrogate
from advbench.metrics import least_calibration
from advbench.runs import Row, Run, artifacts
from advbench.runs.repair import Say
from advbench.study import train
from advbench.study.attack_rows import weakness
from advbench.study.selection import attack_rows
from advbench.study.spec import NO_SURROGATE, AttackChoice, Model, Spec, SuppliedModel
from advbench.study.study import READY, Study
from advbench.study.workspace import Workspace
from advbench.supplied.features import NoFeatures, Supplied, tap
from advbench.supplied.inspection import MOST_IMAGES, gradient_at, inspect, same
from advbench.supplied.isolation import borrowed, own_state
from advbench.supplied.loading import code_file_of, identity_of, load_model, refuse_meta
from advbench.types import Diagnostic, Outputs, Splits, enforce, warn
from advbench.victim import Meter, Victim

EPS = 8 / 255  # unless an attack is given another: the usual one of colour pictures
FEW = 200  # images of the ensemble that knows the detector
DETECTORS = ("max-posterior", "energy", "mahalanobis")
SAMPLE = 4  # images by which the features are found
PASSES = 50  # about, of the inspection
IN_MEMORY = "python:"  # before the type of a model that was handed over as an object


class Bringing(Protocol):
    """How a model gets here."""

    def bring(self, splits: Splits, say: Say) -> tuple[nn.Module, dict[str, Any]]:
        """The model, and what tells it from others (see `supplied.loading.identity_of`)."""


@dataclass(frozen=True)
class Named:
    """A model by its name on a command line, which may run the code it names."""

    source: str
    weights: Path | None = None
    trust: bool = False

    def bring(self, splits: Splits, say: Say) -> tuple[nn.Module, dict[str, Any]]:
        """Loaded for the data set's classes and shape; raises BadSetting or BadData."""
        shape, classes = splits.test.shape, len(splits.test.classes)
        module = load_model(
            self.source, weights=self.weights, trust=self.trust, classes=classes, shape=shape, say=say
        )
        identity = identity_of(module, self.source, code_file_of(self.source))
        return module, identity | ({} if self.weights is None else {"weights": self.weights.name})


@dataclass(frozen=True)
class Given:
    """A model in memory."""

    module: nn.Module

    def bring(self, splits: Splits, say: Say) -> tuple[nn.Module, dict[str, Any]]:  # noqa: ARG002
        """Itself, of a compiled one what was compiled; raises BadSetting where it has no weights yet."""
        module = getattr(self.module, "_orig_mod", self.module)
        source = IN_MEMORY + type(module).__name__
        refuse_meta(module, source)
        if any(is_lazy(t) for t in (*module.parameters(), *module.buffers())):
            raise BadSetting(
                f"{source}: the model has lazy layers that have no weights yet; run it on one image and train it, or "
                "load its weights, before it is evaluated"
            )
        return module, identity_of(module, source, None)


def usual_attacks(budget: str = "quick") -> list[dict[str, Any]]:
    """The attacks of an evaluation that names none: a careless attacker and a careful one."""
    return [{"name": "fgsm"}, {"name": "detector-aware", "budget": budget, "n": FEW}]


@dataclass(frozen=True)
class EvaluatedModel:
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
    any, the attacks that want a threshold are left out. `classes_open` says that classes may be missing among the
    labels: where the data name none and the model knows more, up to twice as many, those are the data's.
    """

    def __init__(
        self,
        spec: Spec,
        workspace: Workspace,
        subject: EvaluatedModel,
        *,
        data: Splits | None = None,
        usual: bool = False,
        usual_fpr: bool = True,
        classes_open: bool = False,
    ) -> None:
        super().__init__(spec, workspace, weights=())
        for name in spec.detectors:
            detector = catalog.load("detector", name)
            if detector.fitted_on == "head":  # refused by itself, before anything is attacked
                detector().fit(None, Outputs(torch.empty(0, 1), torch.empty(0, 2)), torch.empty(0, dtype=torch.long))
        if any(isinstance(choice.attack, FromSurrogate) for choice in spec.attacks):
            raise BadSetting(NO_SURROGATE)
        self.subject = subject
        self.findings: tuple[Diagnostic, ...] = ()
        self._until: ExitStack | None = None
        self.data = data
        self.usual = usual
        self.usual_fpr = usual and usual_fpr
        self.classes_open = classes_open

    def _loaded(self) -> Splits:
        splits = for_supplied(super()._loaded()) if self.data is None else self.data
        for name in self._detectors:
            calibration.check_fittable(name, len(splits.train))
        if self.usual_fpr and any(choice.fpr is not None for choice in self.spec.attacks):
            self._say_what_calibration_fixes(len(splits.calibration))
        return splits

    def _say_what_calibration_fixes(self, n: int) -> None:
        fpr = calibration.usual_fpr(n)
        if fpr is None:
            self.workspace.progress.say(
                f"{n} calibration images are too few to fix a threshold: the attacks that know a detector are left "
                f"out; {least_calibration(calibration.ATTACK_FPRS[-1])} or more allow them, and twice as many "
                "the usual threshold"
            )
        elif fpr != DEFAULT_FPR:
            self.workspace.progress.say(
                f"{n} calibration images are too few for a threshold at {DEFAULT_FPR:.0%} false positives; the "
                f"attacks that know a detector are run at {fpr:.0%}"
            )

    def attacks_for(self, splits: Splits) -> list[AttackChoice]:
        """The attacks of the spec; the default ones as the parts allow them."""
        found = super().attacks_for(splits)
        if self.usual:
            few = len(splits.test) < FEW
            found = [replace(c, n=None) if few and c.n == FEW and c.detector is not None else c for c in found]
        if self.usual_fpr:
            fpr = calibration.usual_fpr(len(splits.calibration))
            found = [c if c.fpr is None else replace(c, fpr=fpr) for c in found if c.fpr is None or fpr is not None]
        return found

    def attack(self) -> list[Row]:
        """A row for each attack; process and model come back as they were. `findings` then says what is doubtful."""
        with self.isolated():
            rows = super().attack()
            self.findings += tuple(warn("weak-attack", weak) for weak in filter(None, map(weakness, rows)))
            if not self._gives_what_is_stored(self._model):
                mixed = f"so the figures of {self._model.run_name(self.fingerprint)} mix several models"
                what = f"the model's outputs for the same images changed while it was attacked, {mixed}"
                raise BadSetting(f"{what}; let forward depend on its images alone")
            return rows

    def shown(self, run: Run, names: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG002
        """All that the run holds: the page of a model is not narrowed by the next attack on it."""
        return tuple(attack_rows(run))

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """As long as this lasts, the model may be borrowed; process and model then come back as they were."""
        with ExitStack() as until:
            if self._until is None:
                until.enter_context(own_state())
                until.callback(setattr, self, "_until", None)
                until.callback(self.__dict__.pop, "_brought", None)  # what was borrowed is given back
                self._until = until
            yield

    @cached_property
    def _brought(self) -> tuple[Supplied, dict[str, Any]]:
        own, splits, device = self.subject, self.splits, self.workspace.device
        module, identity = own.model.bring(splits, self.workspace.progress.say)
        kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()}
        if kinds - {"float32"}:
            text = f"the model's {', '.join(sorted(kinds))} weights are used as float32"
            self.findings += (warn("weights-type", text),)
        assert self._until is not None  # models are asked for while the evaluation runs
        self._until.enter_context(borrowed(module, device))
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):  # cudnn's have no gradient in this mode
            self._until.enter_context(torch.backends.cudnn.flags(enabled=False))
        sample = splits.test.take(slice(SAMPLE)).load_all().to(device)
        try:
            made = tap(module, sample, features=own.features, mean=own.mean, std=own.std)
        except NoFeatures as error:
            fitted_on = {catalog.load("detector", name).fitted_on for name in self._detectors}
            if own.features is not None or "outputs" in fitted_on:
                raise
            self.workspace.progress.say(f"the logits stand for the features, which no detector asks for: {error}")
            made = Supplied(module, None, mean=own.mean, std=own.std).to(device)
        self.workspace.progress.say(f"features: {made.tap}")
        if self.classes_open:
            self.splits = _with_classes(splits, made(sample).shape[1])
        return made, identity

    @property
    def _detectors(self) -> list[str]:
        """Those that score, and those that attacks are aimed at."""
        aimed = (choice.detector for choice in self.spec.attacks if choice.fpr is not None)
        return list(dict.fromkeys(name for name in (*self.spec.detectors, *aimed) if name is not None))

    def models(self) -> Sequence[Model | SuppliedModel]:
        """The one model."""
        return [self._model]

    @cached_property
    def _model(self) -> SuppliedModel:
        """Other code with the same weights is another model: where a run holds other outputs, the next is tried."""
        supplied, identity = self._brought
        own = {k: v for k in ("features", "mean", "std") if (v := getattr(self.subject, k)) is not None}
        own = {k: v if isinstance(v, str) else [float(x) for x in v] for k, v in own.items()}
        name = label(self.spec.dataset) if self.data is None else self.data.test.name
        record = identity | own | {"tapped": supplied.tap}
        for number in count(1):
            variant = {} if number == 1 else {"variant": number}
            model = SuppliedModel(name, record | variant, self.spec.image_size)
            if self._gives_what_is_stored(model):
                return model
            self.workspace.progress.say(
                f"{model.run_name(self.fingerprint)} is of a model of the same weights and other outputs: the code "
                "was changed, so this one gets a run of its own"
            )
        raise AssertionError

    def _gives_what_is_stored(self, model: SuppliedModel) -> bool:
        """Whether the run of that name is this model's, by its outputs on some test images; yes where it has none."""
        try:
            run = self.opened(model)
            stored = artifacts.read_part(run, "test").outputs if READY in run.steps else None
        except BadRun:
            return True  # what goes on from it says what is wrong
        if stored is None or len(stored) != len(self.splits.test):
            return True
        batch = slice(min(len(stored), self.workspace.batch_size))  # as it was stored: some models look at the batch
        victim, images = self._victim(run, model), self.splits.test.take(batch).load_all()
        now, again = victim.outputs(images), victim.outputs(images)
        own = torch.tensor(self._slopes)
        was = torch.tensor(run.info("door").get("slopes", self._slopes))
        near = len(was) == len(own) and bool((was - own).abs().max() <= 1e-2 * torch.cat([was, own]).abs().max())
        return (near and same(stored.take(batch), now)) or not same(now, again)  # noise of its own: nobody can tell

    @property
    def _slopes(self) -> list[float]:
        """How steep the model is at a few test images: a stand-in for a gradient changes no output."""
        few = self.splits.test.take(slice(SAMPLE)).load_all().to(self.workspace.device).requires_grad_()
        found = None
        with suppress(Exception):  # whatever a backward pass of the user's own raises: the inspection says it
            found = gradient_at(self._brought[0], few)
        direction = torch.randn(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
        slopes = direction.new_zeros(len(few)) if found is None else (found * direction).flatten(1).sum(dim=1)
        return slopes.nan_to_num(posinf=0, neginf=0).tolist()

    def _victim(self, run: Run, model: Model | SuppliedModel) -> Victim:  # noqa: ARG002
        return train.victim(self._brought[0], self.splits, self.workspace)

    def _ensure_ready(self, run: Run, model: Model | SuppliedModel) -> None:
        """The model inspected, and its outputs stored."""
        followed = run.has("door") and run.info("door").get("gradients", True)
        splits, progress = self.splits, self.workspace.progress
        if not run.has("door") or (self._needs_gradients and not followed):
            found = (*splits.findings, *duplicates(splits, progress), *self.findings, *self._inspected())
            info = {"findings": [asdict(one) for one in found], "gradients": self._needs_gradients}
            run.write("door", {}, info={**info, "test_part": splits.test_part, "slopes": self._slopes})
        self.findings = tuple(Diagnostic(**finding) for finding in run.info("door")["findings"])
        for finding in self.findings:
            progress.say(f"{finding.severity}: {finding.text}")
        parts = {"train": splits.train, "calibration": splits.calibration, "test": splits.test}
        train.ensure_outputs(run, parts, lambda: self._victim(run, model), splits, progress)

    def _inspected(self) -> Sequence[Diagnostic]:
        """What is doubtful about the model, on calibration images; raises BadSetting for what is wrong."""
        some = self.splits.calibration
        some = some.take(torch.linspace(0, len(some) - 1, min(len(some), MOST_IMAGES)).long())
        settings: dict[str, Any] = {"batch_size": self.workspace.batch_size, "gradients": self._needs_gradients}
        with self.workspace.progress.bar("check of the model", len(some)) as advance:
            told = Meter(self._brought[0], lambda done: advance(done, ""), PASSES)
            with told.batch(slice(0, len(some))):
                found = inspect(self._brought[0], some.load_all(), some.labels, len(some.classes), **settings)
        return enforce(found)

    @property
    def _needs_gradients(self) -> bool:
        return any(choice.attack.differentiates for choice in self.spec.attacks)


def _with_classes(splits: Splits, k: int) -> Splits:
    """The parts with k numbered classes, where they have fewer and at least half of that, without names."""
    have = len(splits.test.classes)
    if splits.test.classes != tuple(map(str, range(have))) or not have < k <= 2 * have:
        return splits
    parts = {name: replace(getattr(splits, name), classes=tuple(map(str, range(k)))) for name in SHARES}
    others = [finding for finding in splits.findings if finding.name != "missing-classes"]
    return replace(splits, **parts, findings=(*others, *missing_classes(parts["test"])))
