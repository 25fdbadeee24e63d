"""Settings of training and adversarial training, and each data set's defaults."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from advbench.errors import BadSetting
from advbench.settings import T, at_least, fill, setting, told


def _younger(default: T, text: str) -> T:
    return setting(default, text, younger=True, hidden=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training settings, the same for every loss; a loss's own settings are its constructor's.

    SGD with momentum, Nesterov's or (`nesterov` false) plain. The learning rate rises linearly for `warmup` epochs;
    then it falls to 0 by a half cosine, or, where `decay_every` is not 0, to `decay_factor` of itself every so many
    steps. `batch_size` images a step; a last batch of less than half of it is left out of the epoch. The training
    ends after `epochs` or, where `max_steps` is not 0, after so many steps, whichever comes first.
    A gradient longer than `max_gradient_norm` (Euclidean, all parameters together; 0 = no limit) is scaled down to
    it. The network's biases learn at `bias_rate` times the rate, and without weight decay where `bias_decay` is
    false; the loss's own parameters at `head_rate` times the rate.
    `precision` bf16 = autocast of the network (the head stays in float32) where the device computes bf16 natively,
    float32 elsewhere. `full_train` joins the validation part to the training part, `all_parts` the calibration part
    too, so that no image is left to fix a threshold on. `augmentation` mirror-crop = each training image mirrored or
    not and shifted by up to 4 pixels, at random (`advbench.training.augmentation`).
    """

    epochs: int = setting(30, "Passes over the training part.")
    batch_size: int = setting(64, "Images a training step.", flag="train_batch_size")
    learning_rate: float = setting(0.05, "Peak learning rate.")
    momentum: float = setting(0.9, "Nesterov momentum.")
    weight_decay: float = setting(5e-4, "Weight decay.")
    warmup: float = setting(1.0, "Epochs of linear warm-up.")
    max_gradient_norm: float = setting(2.0, "Longer gradients are shortened.")
    precision: Literal["fp32", "bf16"] = setting("fp32", "fp32, or bf16 (autocast) where the device has it.")
    full_train: bool = setting(False, "Join validation to the training part.")
    augmentation: Literal["none", "mirror-crop"] = setting(
        "none", "none, or mirror-crop: mirrored, shifted at random.", younger=True
    )
    nesterov: bool = _younger(True, "Nesterov's momentum, not plain.")
    decay_every: int = _younger(0, "Steps after each of which the rate falls (0: half a cosine).")
    decay_factor: float = _younger(0.1, "To this of itself.")
    max_steps: int = _younger(0, "Steps at most (0: all epochs).")
    bias_rate: float = _younger(1.0, "The network's biases learn at this times the rate.")
    bias_decay: bool = _younger(True, "Weight decay of the network's biases.")
    head_rate: float = _younger(1.0, "The loss's own parameters learn at this times the rate.")
    all_parts: bool = _younger(False, "Join validation and calibration to the training part.")

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("training batch_size", self.batch_size, 1)
        at_least("learning_rate", self.learning_rate, 0, above=True)
        at_least("momentum", self.momentum, 0)
        if self.momentum >= 1:
            raise BadSetting(f"momentum = {self.momentum:g} is out of range; it must be below 1")
        at_least("weight_decay", self.weight_decay, 0)
        at_least("warmup", self.warmup, 0)
        for name in ("max_gradient_norm", "decay_every", "decay_factor", "max_steps"):
            at_least(name, getattr(self, name), 0)
        for name in ("bias_rate", "head_rate"):
            at_least(name, getattr(self, name), 0, above=True)

    def record(self) -> dict[str, Any]:
        """As JSON; a setting that is younger than the first stored records only where it is not the default."""
        unused = {f.name for f in fields(self) if told(f).younger and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in unused}


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """Training on attacked images instead of clean ones; L-inf, eps and step in pixel units of [0, 1].

    Each batch is attacked from a uniformly random start in the ball of radius `eps`, by `steps` sign steps of size
    `step`. One step: 1.25 eps (Wong et al. 2020, arXiv:2001.03994, algorithm 3); more: 2.5 eps / steps each (Madry
    et al. 2018, arXiv:1706.06083) unless `step` says otherwise. eps rises linearly from 0 over the first `ramp` of
    all steps, a share: large networks may otherwise never leave chance level.
    """

    eps: float = setting(0.3, "L-inf radius of their attack.")
    steps: int = setting(1, "Gradients it takes, from a random start.")
    step: float | None = setting(None, "Size of a step (1.25 eps, or 2.5 eps / steps).")
    ramp: float = setting(0.0, "Share of the training in which its eps rises from 0.")

    def __post_init__(self) -> None:
        at_least("adversarial eps", self.eps, 0, above=True)
        if self.eps > 1:
            raise BadSetting(
                f"adversarial eps = {self.eps:g} is outside (0, 1]; images are scaled to [0, 1], so write 8/255 for "
                "eight grey levels"
            )
        at_least("adversarial steps", self.steps, 1)
        if self.step is not None:
            at_least("adversarial step", self.step, 0, above=True)
        at_least("adversarial ramp", self.ramp, 0)
        if self.ramp > 1:
            raise BadSetting(f"adversarial ramp = {self.ramp:g} is outside [0, 1]; it is a share of the training")

    @property
    def step_size(self) -> float:
        """The size of a step: `step`, or the default for that many steps."""
        usual = (1.25 if self.steps == 1 else 2.5 / self.steps) * self.eps
        return usual if self.step is None else self.step

    def record(self) -> dict[str, Any]:
        """As JSON, the step's size written out."""
        return {**asdict(self), "step": self.step_size}


@dataclass(frozen=True)
class Recipe:
    """What a data set is trained with unless told otherwise: a network's name and settings of the two regimes.

    hardened   training settings that adversarial training takes instead of those of `training`
    """

    network: str
    training: dict[str, Any]
    adversarial: dict[str, Any]
    hardened: dict[str, Any] = field(default_factory=dict)

    def training_of(self, adversarial: object) -> dict[str, Any]:
        """The training settings of a regime; `adversarial` is falsy for the standard one."""
        return self.training | (self.hardened if adversarial else {})


REGIMES = STANDARD, ADVERSARIAL = "standard", "adversarial"


def adversarial_training(given: object, usual: Mapping[str, Any]) -> AdversarialTraining | None:
    """From `true`, `false`, or a table of settings; those left out are `usual`, the data set's own.

    Raises BadSetting or UnknownName.
    """
    if given is False or given is None:
        return None
    if given is not True and not isinstance(given, Mapping):
        raise BadSetting(
            f"adversarial = {given!r} is of the wrong type; it must be true, false, or a table such as "
            "{ eps = 0.3, steps = 1 }"
        )
    table = {} if given is True else given
    return AdversarialTraining(**fill(AdversarialTraining, {**usual, **table}, "adversarial training"))


def words(regime: str) -> list[str]:
    """What tells an adversarially trained model from a standard one in a label."""
    return [] if regime == STANDARD else [regime]
