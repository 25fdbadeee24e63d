"""Any evasion attack of ART by name (`art:CarliniL2Method`), as a class with the settings of its constructor.

Images go in one at a time, with every random generator that ART may use set from the image's own seed: ART draws
from global streams, so that in a batch an image's result would depend on its neighbours.
"""

import dataclasses
import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from advbench.device import gpus_in_use
from advbench.errors import BadSetting, MissingLibrary, UnknownName
from advbench.evasion.ball import Norm, generator
from advbench.evasion.base import Attack
from advbench.types import Perturbed
from advbench.victim import Victim

PREFIX = "art:"
OTHER_DATA = "it is not an attack that a PyTorch model, an image and its label are enough for"
BROKEN = {
    "AutoAttack": "ART's class of that name is not the published ensemble; use autoattack",
    "AutoConjugateGradient": "it left 95 % of images robust where APGD left 17 %; use apgd",
    "GeoDA": "it ends in an IndexError at small query budgets",
    "SimBA": "it demands probabilities where the model gives logits",
    "VirtualAdversarialMethod": "it demands probabilities where the model gives logits",
    "Wasserstein": "it overflows",
    "UniversalPerturbation": "one perturbation for all images: a result would depend on the batch",
    "TargetedUniversalPerturbation": "one perturbation for all images: a result would depend on the batch",
    **dict.fromkeys(
        (
            "AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch", "AdversarialPatchTensorFlowV2",
            "AdversarialTexturePyTorch", "CarliniWagnerASR", "CompositeAdversarialAttackPyTorch", "DPatch",
            "DecisionTreeAttack", "FeatureAdversariesNumpy", "FeatureAdversariesPyTorch",
            "FeatureAdversariesTensorFlowV2", "FrameSaliencyAttack", "GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch",
            "HighConfidenceLowUncertainty", "ImperceptibleASR", "ImperceptibleASRPyTorch", "LaserAttack",
            "LowProFool", "MalwareGDTensorFlow", "OverTheAirFlickeringPyTorch", "OverloadPyTorch",
            "ProjectedGradientDescentTensorFlowV2", "RescalingAutoConjugateGradient", "RobustDPatch", "SNAL",
            "ShapeShifter",
        ),
        OTHER_DATA,
    ),
}  # fmt: skip
# these ask for many decisions about one image: their batch_size changes no result, only the time
BY_DECISION = ("BoundaryAttack", "HopSkipJump", "SignOPTAttack")
DECISIONS = 64
# settings that are ours to give, or that say how ART prints
OURS = (
    "estimator", "classifier", "eps", "norm", "batch_size", "verbose", "summary_writer", "targeted", "y",
    "tensor_board",
)  # fmt: skip
# the norm that attacks without a setting for it keep small; the last five count or move pixels, and are held to L2
NORMS: dict[str, Norm] = {
    "CarliniLInfMethod": "linf", "ThresholdAttack": "linf", "BoundaryAttack": "l2", "CarliniL2Method": "l2",
    "DeepFool": "l2", "ElasticNet": "l2", "NewtonFool": "l2", "SignOPTAttack": "l2", "ZooAttack": "l2",
    "CarliniL0Method": "l2", "PixelAttack": "l2", "SaliencyMapMethod": "l2", "ShadowAttack": "l2",
    "SpatialTransformation": "l2",
}  # fmt: skip


class Counted(nn.Module):
    """A model in float32, with the forward and backward passes it was put through, in images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """The logits; ART's decision-based attacks ask for them with float64 images."""
        logits: Tensor = self.model(images.float())
        self.forwards += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """NumPy's, torch's and Python's global streams set from an image's seed, and put back after.

    Meanwhile a RandomState that is asked for without a seed starts from it too: HopSkipJump makes such ones.
    """
    start = generator(seed, 0).initial_seed() % 2**32
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=gpus_in_use()):
        torch.manual_seed(start)
        np.random.seed(start)  # noqa: NPY002
        random.seed(start)
        try:
            with patch.object(np.random, "RandomState", partial(np.random.RandomState, start)):
                yield
        finally:
            np.random.set_state(kept[0])  # noqa: NPY002
            random.setstate(kept[1])


class ARTAttack(Attack):
    """Base of the classes that `load` makes; their other fields are the settings of ART's class."""

    art_class: ClassVar[Any]
    accepted: ClassVar[tuple[str, ...]]
    differentiates: ClassVar[bool]
    norm: Norm
    at_once = 8

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """ART's result for each image, drawn back into the ball where it left it.

        An image that is wrong as it stands and would be right after comes back as it was: some of ART's attacks
        (HopSkipJump, DeepFool) lead away from the prediction, whatever the label.
        """
        from advbench.victim.art_classifier import wrap

        counted, loss = Counted(victim.model).eval(), nn.CrossEntropyLoss()
        classifier = wrap(
            counted, loss, shape=victim.shape, classes=victim.classes, device=victim.device, clip=self.clip
        )
        moved, passes = list[Tensor](), list[tuple[int, int]]()
        for image, label, seed in zip(images[:, None], labels[:, None], seeds.tolist(), strict=True):
            victim.meter.begin(len(moved), len(images))
            counted.forwards = counted.backwards = 0
            with seeded(seed):
                made = self._made(classifier, image, label)
            moved.append(self._kept(counted, victim, image, self.ball.project(made, image), label))
            passes.append((counted.backwards, counted.forwards))
        gradients, forwards = torch.tensor(passes).T
        return Perturbed(
            images=torch.cat(moved),
            targets=None,
            gradients=gradients,
            forwards=forwards,
            zero_gradients=None,  # not seen from here
            first_success=torch.full((len(images),), -1),
        )

    @torch.no_grad()
    def _kept(self, model: nn.Module, victim: Victim, image: Tensor, made: Tensor, label: Tensor) -> Tensor:
        wrong, still = (model(x.to(victim.device)).argmax(dim=1).cpu() != label for x in (image, made))
        return image if bool(wrong & ~still) else made

    def _made(self, classifier: Any, image: Tensor, label: Tensor) -> Tensor:
        name, own = self.art_class.__name__, {k: v for k, v in vars(self).items() if k not in ("eps", "clip", "norm")}
        own |= {"eps": self.eps, "norm": np.inf if self.norm == "linf" else 2, "verbose": False}
        own["targeted"] = False  # two attacks are by default: they would take the labels for targets
        own["batch_size"] = DECISIONS if name in BY_DECISION else 1
        y = None if name == "SaliencyMapMethod" else label.numpy()  # it takes labels for targets, or draws its own
        try:
            attack = self.art_class(classifier, **{k: v for k, v in own.items() if k in self.accepted})
            return torch.from_numpy(attack.generate(image.numpy(), y=y)).float()
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            raise BadSetting(f"ART's {name} refuses its settings: {error}") from error


def names() -> list[str]:
    """ART's evasion attacks that are offered."""
    from art.attacks import evasion
    from art.attacks.attack import EvasionAttack

    classes = vars(evasion).items()
    return sorted(n for n, c in classes if inspect.isclass(c) and issubclass(c, EvasionAttack) and n not in BROKEN)


def load(name: str) -> type[ARTAttack]:
    """The class of ART's attack `name`, as a frozen dataclass; refuses those known to be broken, and says why."""
    from advbench.victim.art_classifier import MISSING

    if name in BROKEN:
        raise BadSetting(f"attack {PREFIX}{name} is not offered: {BROKEN[name]}")
    if MISSING:
        packages = "adversarial-robustness-toolbox multiprocess packaging"  # the latter undeclared by the first
        raise MissingLibrary(f"attack {PREFIX}{name}", "ART", MISSING, packages)
    from art.attacks import evasion

    if name not in names():
        raise UnknownName("attack of ART", name, names())
    art_class = getattr(evasion, name)
    given = inspect.signature(art_class.__init__).parameters
    usual = given["norm"].default if "norm" in given else np.inf if "eps" in given else NORMS.get(name)
    norm: Norm = "linf" if usual in (np.inf, "inf", "linf") else "l2"
    own: list[tuple[str, Any, Any]] = [("eps", float, 0.3 if norm == "linf" else 1.5), ("clip", bool, True)]
    own.append(("norm", Norm, norm))
    for key, parameter in given.items():
        kind = type(parameter.default)
        if key in OURS or key == "self" or kind not in (bool, int, float, str):
            continue
        if kind is int and "float" in str(parameter.annotation):
            kind = float
        own.append((key, kind, kind(parameter.default)))
    fields = [(key, kind, dataclasses.field(default=default)) for key, kind, default in own]
    held = {"art_class": art_class, "accepted": tuple(given), "differentiates": name not in BY_DECISION}
    held["__doc__"] = art_class.__doc__
    return dataclasses.make_dataclass(name, fields, bases=(ARTAttack,), frozen=True, kw_only=True, namespace=held)
