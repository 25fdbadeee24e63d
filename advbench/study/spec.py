"""The spec of a study: models, attacks, detectors."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from advbench import catalog
from advbench.data.sources import label, recipe_of, slug
from advbench.errors import BadSetting, Diagnostic
from advbench.evasion import AdaptiveAttack, Attack, FromSurrogate
from advbench.recipes import ADVERSARIAL, STANDARD, AdversarialTraining, Training, words
from advbench.runs import Run, SuppliedRecord, TrainedRecord, digest
from advbench.runs.manifest import Identity
from advbench.settings import defaults
from advbench.victim import Victim


@dataclass(frozen=True)
class Choice:
    """A plug-in's catalog name and all its settings, defaults filled in."""

    name: str
    settings: Mapping[str, Any]

    def unusual(self, kind: str, *without: str) -> dict[str, Any]:
        """The settings that are not the default, less those named."""
        usual = defaults(catalog.load(kind, self.name))
        return {k: v for k, v in self.settings.items() if k not in without and v != usual.get(k)}

    def recorded(self) -> dict[str, Any]:
        """A loss's settings as a model's record holds them: the younger ones where they are not the default."""
        unused = catalog.load("loss", self.name).younger - self.unusual("loss").keys()
        return {k: v for k, v in self.settings.items() if k not in unused}


@dataclass(frozen=True)
class TrainedLoss(Choice):
    """A loss, and how models are trained with it: adversarially, or on clean images where None."""

    adversarial: AdversarialTraining | None = None


@dataclass(frozen=True)
class Model:
    """One model to train: what, together with the data, determines its weights. `dataset` is the data set's label."""

    dataset: str
    network: str
    feature_dim: int
    loss: Choice
    training: Training
    seed: int
    adversarial: AdversarialTraining | None = None
    image_size: int | None = None

    @property
    def regime(self) -> str:
        """Whether clean or adversarial images are trained on: `standard` or `adversarial`."""
        return STANDARD if self.adversarial is None else ADVERSARIAL

    def record(self, data_fingerprint: str) -> TrainedRecord:
        """As its run's manifest has it."""
        return TrainedRecord(
            dataset=self.dataset,
            data_sha256=data_fingerprint,
            network=self.network,
            feature_dim=self.feature_dim,
            loss={"name": self.loss.name, **self.loss.recorded()},
            regime=self.regime,
            training=self.training.record(),
            seed=self.seed,
            adversarial=None if self.adversarial is None else self.adversarial.record(),
            image_size=self.image_size,
        )

    def run_name(self, data_fingerprint: str) -> str:
        """Readable, and ending in a digest of the whole record: different settings never share a folder."""
        parts = [slug(self.dataset), self.loss.name]
        parts += [f"{k.replace('_', '-')}{v}" for k, v in self.loss.unusual("loss").items()]
        parts += ["2d"] if self.feature_dim == 2 else []
        parts += words(self.regime)
        return "-".join([*parts, f"seed{self.seed}", digest(self.record(data_fingerprint))])


@dataclass(frozen=True)
class SuppliedModel:
    """A model that was not trained here: what, together with the data, tells it from others."""

    dataset: str
    identity: Identity
    image_size: int | None = None

    def record(self, data_fingerprint: str) -> SuppliedRecord:
        """As its run's manifest has it."""
        own, size = self.identity, self.image_size
        return SuppliedRecord(dataset=self.dataset, data_sha256=data_fingerprint, supplied=own, image_size=size)

    def run_name(self, data_fingerprint: str) -> str:
        """Readable, and ending in a digest of the whole record."""
        words = (self.dataset, self.identity.source)
        readable = "-".join(re.sub(r"[^\w.]+", "-", slug(word)).strip("-.") for word in words)
        return f"{readable}-{digest(self.record(data_fingerprint))}"


class StudiedModel(ABC):
    """A model that a study is about, of either kind: trained here (`train.TrainedModel`), or supplied.

    findings   what is doubtful about it, once it is prepared
    """

    model: Model | SuppliedModel
    findings: tuple[Diagnostic, ...] = ()

    def run_name(self, data_fingerprint: str) -> str:
        """Of its run."""
        return self.model.run_name(data_fingerprint)

    @abstractmethod
    def prepare(self, run: Run) -> None:
        """Bring the model into its held run, where it is not, and store its outputs."""

    @abstractmethod
    def victim(self, run: Run) -> Victim:
        """The model, ready to be attacked."""

    @abstractmethod
    def surrogate(self, source: str) -> StudiedModel:
        """A model of loss `source` to attack in its place; raises BadSetting where there is none."""

    def confirm(self, run: Run) -> None:  # noqa: B027 - one that is trained here lies in its run
        """Raise BadSetting where it is not the model any more that its run holds the outputs of."""


@dataclass(frozen=True)
class AttackChoice:
    """An attack at one eps on the first `n` test images (None = all).

    An adaptive one has a detector and the false-positive rate of its threshold; `none` is no detector, with no rate.
    """

    choice: Choice
    n: int | None = None
    detector: str | None = None
    fpr: float | None = None

    @cached_property
    def attack(self) -> Attack | AdaptiveAttack | FromSurrogate:
        """The attack itself."""
        cls: type[Attack | AdaptiveAttack | FromSurrogate] = catalog.load("attack", self.choice.name)
        return cls(**self.choice.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings that are not the default, but for eps, which has a field of its own in every row.

        An adaptive attack's detector and fpr are settings too: they tell its rows apart.
        """
        against = {"detector": self.detector, "fpr": self.fpr}
        return self.choice.unusual("attack", "eps") | {k: v for k, v in against.items() if v is not None}

    @property
    def file_name(self) -> str:
        """Such as `fgsm-eps0.3`, plus a digest where another setting or n is not the default."""
        eps = self.attack.eps
        name = f"{self.choice.name.replace(':', '-')}-eps{eps:g}"
        other = self.settings | ({} if self.n is None else {"n": self.n})
        # %g shortens: two eps that print alike must not share a file
        other |= {} if float(f"{eps:g}") == eps else {"eps": eps}
        return f"{name}-{digest(other)}" if other else name


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A study: every combination of losses and seeds is trained, attacked and verified.

    `name` is that of the report's folder, `title` stands over its page (None = the name).
    `dataset` is as `--dataset` takes it, so that it may hold a path; a model and its run know its label alone.
    `training` and `network` hold what differs from the data set's own recipe; `image_size` is an image folder's.
    """

    name: str
    title: str | None = None
    dataset: str = "digits"
    image_size: int | None = None
    network: str | None = None
    feature_dim: int = 100
    losses: tuple[TrainedLoss, ...]
    seeds: tuple[int, ...] = (0,)
    attacks: tuple[AttackChoice, ...]
    detectors: tuple[str, ...]
    training: Mapping[str, Any] = field(default_factory=dict)

    def models(self) -> list[Model]:
        """Losses x seeds, with the data set's recipe filled in."""
        recipe = recipe_of(self.dataset)
        network = self.network or recipe.network
        return [
            Model(
                label(self.dataset),
                network,
                self.feature_dim,
                Choice(loss.name, loss.settings),
                Training(**{**recipe.training_of(loss.adversarial), **self.training}),
                seed,
                loss.adversarial,
                self.image_size,
            )
            for loss in self.losses
            for seed in self.seeds
        ]


def surrogate_of(model: Model, source: str) -> Model:
    """A model of loss `source` to attack in the place of `model`; raises BadSetting where it is `model` itself.

    It is trained on clean images: what the recipe changes for adversarial training is undone.
    """
    recipe, loss = recipe_of(model.dataset), Choice(source, defaults(catalog.load("loss", source)))
    hardened, usual = {} if model.adversarial is None else recipe.hardened, Training(**recipe.training)
    undone = {k: getattr(usual, k) for k, v in hardened.items() if getattr(model.training, k) == v}
    other = replace(model, loss=loss, training=replace(model.training, **undone), seed=0, adversarial=None)
    if other == model:
        raise BadSetting(
            f"source = {source!r} is the very model under attack, which makes no transfer attack; take another loss, "
            f"for example: --set source={'lgm' if source == 'softmax' else 'softmax'}"
        )
    return other
