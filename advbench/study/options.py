"""What a command, a spec or a call in Python asks for: records, a line an option, declared once for all three.

`advbench.cli.takes` makes the command line of them. None = not given.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any, dataclass_transform

from advbench.errors import BadSetting
from advbench.recipes import AdversarialTraining, Training
from advbench.settings import setting

Entry = str | Mapping[str, Any]  # a loss or an attack: its name, or a table with its name and settings
Names = tuple[str, ...]
Numbers = tuple[float, ...]


def _option(panel: str | None, text: str, usual: str | None = None, default: object = None, **more: object) -> Any:
    return setting(default, text, panel=panel, usual=usual, **more)


REGIME = "Adversarial training (each turns it on; defaults: the data set's own)"
TRAINING = "Training (defaults: the data set's own)"
PANELS = (None, "Model", TRAINING, REGIME, "Attack", "Selection (default: all)", "Machine", "Folders and output")
_plain, _model, _training, _regime, _attack, _only, _machine, _place = (partial(_option, p) for p in PANELS)

ATTACKS, EPS = "One of `advbench list attacks`, or several.", "0.3, 8/255, or several; in L-inf at most 1."
AIMED = "What an adaptive attack evades, or none; one or several."
MANY: dict[str, Any] = {"default": (), "metavar": "KEY=VALUE"}
# settings of losses that had an option of their own before --set gave them
OLD = ("log_var_floor", "weight", "centre_step", "margin", "start", "anneal", "floor")
LOSS_TOO = MANY | {"aliases": OLD}
SPEC = "the spec's, or the digits study's"
NO_LOCKS = "Lock nothing, where a file system has no locks; one process a run."
PATHS = "folder:PATH, npz:PATH, safetensors:PATH"


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the records, each a frozen dataclass with keyword-only fields."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def given(self, group: "type[Options]") -> dict[str, Any]:
        """The fields of `group` that are given here."""
        found = {f.name: getattr(self, f.name, None) for f in fields(group)}
        return {name: value for name, value in found.items() if value not in (None, ())}


class Data(Options):
    """Images."""

    dataset: str | None = _model(f"One of `advbench list datasets`, or {PATHS}.", "digits")
    image_size: int | None = _model("Image folder: shorter side scaled to N, middle square taken.")


class Recipe(Options):
    """How models are trained; what is left out is the data set's own."""

    network: str | None = _model("One of `advbench list networks`.", "the data set's own")
    feature_dim: int | None = _model("2 or 100.", "100")
    training: Mapping[str, Any] | None = _training("", of=Training)


class LossSettings(Options):
    """Settings of losses with an option of their own."""

    alpha: float | None = _model("L-GM: margin.", "1")
    lam: float | None = _model("L-GM: weight of the likelihood term.", "0.1")
    covariance: str | None = _model("L-GM: identity or diagonal.", "identity")


class Hardening(Options):
    """Whether models are trained adversarially, and how."""

    adversarial: bool | None = _regime("Train on attacked images (positive control).")
    adversarial_settings: Mapping[str, Any] | None = _regime("", of=AdversarialTraining, prefix="adversarial_")

    @property
    def hardening(self) -> bool | Mapping[str, Any] | None:
        """`adversarial` of a loss's table; None where nothing is said of it."""
        own = self.adversarial_settings
        if own and self.adversarial is False:
            raise BadSetting(
                f"--no-adversarial and --adversarial-{next(iter(own))} contradict each other; leave one of them out"
            )
        return own or self.adversarial


class Attacked(Options):
    """Attacks, and how many images they are made on."""

    attacks: tuple[Entry, ...] | None = _attack(ATTACKS, "fgsm", flag="attack")
    n: int | None = _attack("The first N test images.", "all")


class Kept(Options):
    """What is kept of attacks."""

    keep_images: str | None = _place("How many attacked images are kept, the first N; no figure changes.", "all")


class AttackSettings(Options):
    """Settings of attacks with an option of their own."""

    eps: Numbers | None = _attack(EPS, "the attack's own, mostly 0.3", example="0.1,0.2")
    clip: bool | None = _attack("Keep images inside [0, 1].", "on")
    exact_gradient: bool | None = _attack("Logit gradient in float64, where float32 would round it to zero.", "off")


class Set(Options):
    """Any other setting."""

    set: Names = _attack("A setting of the attacks, such as steps=40; may be repeated.", **MANY)


class Aimed(Options):
    """What adaptive attacks are aimed at."""

    detectors: Names | None = _attack(AIMED, flag="detector")
    fpr: Numbers | None = _attack("False-positive rate of its threshold, or several.", "0.05")
    budget: str | None = _attack(
        "detector-aware: quick, standard or thorough: 200, 2,000, 10,000 gradients.", "standard; `evaluate`: quick"
    )


class Output(Options):
    """Where runs lie, and what is printed: of all commands."""

    runs_dir: str = _place("Where models and results are kept.", "runs", "runs", env="ADVBENCH_RUNS")
    json: bool = _place("Rows as JSON on stdout, and nothing else.", default=False)


class Place(Output):
    """Folders, and whether runs are locked."""

    reports_dir: str = _place("Where pages are written.", "reports", "reports")
    no_locks: bool = _place(NO_LOCKS, default=False)


class Machine(Place):
    """What computes, and where the data lie."""

    device: str | None = _machine("cpu, cuda, cuda:1.", "cuda if there is one")
    batch_size: int | None = _machine("Images an evaluation batch.", "256")
    threads: int | None = _machine("CPU threads.", "torch's")
    data_dir: str | None = _place("The folder that holds MNIST/raw/ and the like.", env="ADVBENCH_DATA")
    download: bool = _place("Fetch missing data into the data folder.", default=False)


class Grid(Machine):
    """Who performs a study's cells."""

    on: str | None = _machine("Where cells (a model, an attack on it) are performed: local, ray or slurm.")
    jobs: int | None = _machine("How many at once.", "one a core of this machine")
    gpus_per_job: float | None = _machine("ray, slurm: GPUs of each; in Ray a fraction shares one.")
    address: str | None = _machine("ray: of a cluster, or auto.", "one started on this machine")
    cells_per_job: int | None = _machine("slurm: cells of one model in a job.", "8")
    slurm: Names = _machine("What a job asks for: partition=gpu, timeout_min=240; may be repeated.", **MANY)


class Titled(Options):
    """A study's page."""

    name: str | None = _place("Name of the study and its report's folder.", "after the data, or model and data")
    title: str | None = _place("What stands over the report's page.", "the name")


class Named(Titled):
    """A page to write."""

    overwrite: bool = _place("Replace a page over other models in its place.", default=False)


class Table(Data, Recipe, Attacked, Titled):
    """A study as it is asked for: the keys of a spec, of which None takes the digits study's."""

    losses: tuple[Entry, ...] | None = _model("One of `advbench list losses`, or several.", SPEC, flag="loss")
    seeds: tuple[int, ...] | None = _model("Of weights and batches; or several.", SPEC, flag="seed", example="0,1")
    attacks: tuple[Entry, ...] | None = _attack(ATTACKS, SPEC, flag="attack")
    detectors: Names | None = _model("One of `advbench list detectors`, or several.", SPEC, flag="detector")


class Train(Data, Recipe, LossSettings, Hardening, Set, Machine):
    """`advbench train`."""

    set: Names = _attack("A setting of the loss, such as loss.margin=2; may be repeated.", **LOSS_TOO)
    loss: str | None = _model("One of `advbench list losses`.", "softmax")
    seed: int | None = _model("Of weights and batches.", "0")


class Attack(Train, Attacked, AttackSettings, Aimed, Kept):
    """`advbench attack`."""

    set: Names = _attack("A setting of the attacks or the loss, such as steps=40; may be repeated.", **LOSS_TOO)
    shard: str | None = _machine("Only part i of n of the images: 1/4; auto = torchrun's RANK and WORLD_SIZE.")


class Run(Table, LossSettings, Hardening, AttackSettings, Set, Named, Grid, Kept):
    """`advbench run`: what a spec holds, and how it is altered."""

    set: Names = _attack("A setting of the attacks or losses, such as steps=40; may be repeated.", **LOSS_TOO)
    spec: str | None = _plain("A TOML file; options override what it says.", argument=True)


class Evaluate(Data, Attacked, AttackSettings, Set, Aimed, Named, Machine, Kept):
    """`advbench evaluate`, and `advbench.evaluate` in Python."""

    model: str | None = _model("m.py:build, package.module:build, timm:NAME or archive.pt2: runs that code.")
    weights: str | None = _model("Its weights, read as data; FILE:KEY for one set of several.")
    features: str | None = _model("Layer whose output is the features.", "the last layer's input")
    mean: Numbers | None = _model("It is given (image - mean) / std: 0.5, or one a channel.")
    std: Numbers | None = _model("The std of that.")
    trust: bool = _model("Open a torch.export archive, which is code.", default=False)
    attacks: tuple[Entry, ...] | None = _attack(ATTACKS, "fgsm, and detector-aware on 200 images", flag="attack")
    eps: Numbers | None = _attack(EPS, "8/255", example="0.1,0.2")
    detectors: Names | None = _attack(AIMED, "max-posterior, energy, mahalanobis", flag="detector")


class Selected(Options):
    """Which attacked models a command is about; each an option of one or several values."""

    dataset: Names | None = _only("Only these data sets.")
    loss: Names | None = _only("Only these losses.")
    alpha: Numbers | None = _only("Only these margins.", example="0.3,1")
    lam: Numbers | None = _only("Only these weights of the likelihood term.", example="0.1,1")
    covariance: Names | None = _only("Only these covariances.")
    seed: tuple[int, ...] | None = _only("Only these seeds.", example="0,1")
    training: Names | None = _only("Only these regimes: standard, adversarial.", example="standard,adversarial")
    attack: Names | None = _only("Only these attacks.")
    eps: Numbers | None = _only("Only these eps.", example="0.1,0.2")


class Verify(Selected, Place):
    """`advbench verify`."""

    detectors: Names | None = _only("Only these detectors.", "those that scored before", flag="detector")


class Report(Verify, Named):
    """`advbench report`."""


class Merge(Machine):
    """`advbench merge`."""

    run: str = _plain("A run's name (`advbench list runs`), or its folder.", default=MISSING, argument=True)
    dataset: str | None = _model("Where the run's data lie, if they are a folder or file of yours: folder:PATH.")


class Audit(Merge):
    """`advbench audit`."""

    complete: bool = _plain("Run what is missing first, on few images; a second call goes on.", default=False)


class Reproduce(Grid):
    """`advbench reproduce`."""

    what: str = _plain("An experiment: mnist, those of Wan et al. 2018 on MNIST.", default=MISSING, argument=True)
    cell: Names | None = _model("Only these models, such as lgm1.0-100d-seed0; one or several.")
    check: bool = _plain("Derive errors and EERs again from the kept weights, and compare.", default=False)
    security: bool = _plain("Only the attacks that know a detector, on what has weights.", default=False)
    no_train: bool = _plain("Evaluate what has weights; train nothing.", default=False)


class Doctor(Output):
    """`advbench doctor`."""

    no_locks: bool = _place(NO_LOCKS, default=False)
    mend: bool = _plain("Forget what is broken, for the next call to make again; delete leftovers.", default=False)


class Listed(Output):
    """`advbench list`."""

    what: str | None = _plain(
        "losses, attacks, detectors, networks, datasets, runs; left out: all names.", argument=True
    )
    long: bool = _plain("Norm, what the attacker knows, settings with defaults, and source of each.", default=False)
