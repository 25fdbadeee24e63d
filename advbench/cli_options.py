"""The options of the command line, in groups that commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from advbench.settings import number, whole

Options = Mapping[str, Any]
Group = dict[str, Any]


def _option(kind: type, *names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002
    read = {int: whole, float: number}.get(kind)
    if read is not None:  # our own words for what is no number
        more |= {
            "parser": lambda text: read(text, names[0].strip("-").replace("-", "_")),
            "metavar": "N" if kind is int else "X",
        }
    return Annotated[kind | None, typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)]


_MODEL = "Model"
_TRAINING = "Training (defaults: the data set's own)"
_REGIME = "Adversarial training (each of these turns it on; defaults: the data set's own)"
_ATTACK = "Attack"
_MACHINE = "Machine"
_PLACE = "Folders and output"

LOSS: Group = {
    "alpha": _option(float, "--alpha", help="L-GM: margin (default 1).", panel=_MODEL),
    "lam": _option(float, "--lam", help="L-GM: weight of the likelihood term (default 0.1).", panel=_MODEL),
    "covariance": _option(str, "--covariance", help="L-GM: identity (default) or diagonal.", panel=_MODEL),
    "log_var_floor": _option(float, "--log-var-floor", help="L-GM: least log-variance (default -4).", panel=_MODEL),
    "weight": _option(float, "--weight", help="Center: weight of the centre distance (default 0.01).", panel=_MODEL),
    "centre_step": _option(float, "--centre-step", help="Center: step of the centres (default 0.5).", panel=_MODEL),
    "margin": _option(int, "--margin", help="L-Softmax: angles count this many times (default 4).", panel=_MODEL),
    "start": _option(
        float, "--start", help="L-Softmax: first weight of the plain logit (default 1000).", panel=_MODEL
    ),
    "anneal": _option(
        float, "--anneal", help="L-Softmax: share of training until its least weight (default 0.5).", panel=_MODEL
    ),
    "floor": _option(float, "--floor", help="L-Softmax: that least weight (default 0.5).", panel=_MODEL),
}
TRAINING: Group = {
    "epochs": _option(int, "--epochs", help="Passes over the training part.", panel=_TRAINING),
    "train_batch_size": _option(int, "--train-batch-size", help="Images a training step.", panel=_TRAINING),
    "learning_rate": _option(float, "--learning-rate", help="Peak learning rate.", panel=_TRAINING),
    "momentum": _option(float, "--momentum", help="Nesterov momentum.", panel=_TRAINING),
    "weight_decay": _option(float, "--weight-decay", help="Weight decay.", panel=_TRAINING),
    "warmup": _option(float, "--warmup", help="Epochs of linear warm-up.", panel=_TRAINING),
    "max_gradient_norm": _option(
        float, "--max-gradient-norm", help="Longer gradients are shortened.", panel=_TRAINING
    ),
    "precision": _option(
        str, "--precision", help="fp32, or bf16 (autocast) where the device has it.", panel=_TRAINING
    ),
    "augmentation": _option(
        str, "--augmentation", help="none, or mirror-crop: mirrored and shifted at random.", panel=_TRAINING
    ),
    "full_train": _option(
        bool, "--full-train/--no-full-train", help="Join validation to the training part.", panel=_TRAINING
    ),
}
REGIME: Group = {
    "adversarial": _option(
        bool, "--adversarial/--no-adversarial", help="Train on attacked images (positive control).", panel=_REGIME
    ),
    "adversarial_eps": _option(float, "--adversarial-eps", help="L-inf radius of their attack.", panel=_REGIME),
    "adversarial_steps": _option(
        int, "--adversarial-steps", help="Gradients it takes (default 1, from a random start).", panel=_REGIME
    ),
    "adversarial_step": _option(
        float, "--adversarial-step", help="Size of a step (default 1.25 eps, or 2.5 eps / steps).", panel=_REGIME
    ),
    "adversarial_ramp": _option(
        float, "--adversarial-ramp", help="Share of the training in which its eps rises from 0.", panel=_REGIME
    ),
}
DATA: Group = {
    "dataset": _option(
        str,
        "--dataset",
        help="digits (default), another of `advbench list datasets`, or folder:PATH, npz:PATH, safetensors:PATH.",
        panel=_MODEL,
    ),
    "image_size": _option(
        int, "--image-size", help="Image folder: shorter side scaled to N, middle square taken.", panel=_MODEL
    ),
}
MODEL: Group = {
    **DATA,
    "loss": _option(
        str, "--loss", help="softmax (default), center, l-softmax, lgm; `run` takes a list", panel=_MODEL
    ),
    "seed": _option(str, "--seed", help="Seed of weights and batches (default 0); `run` takes a list.", panel=_MODEL),
    "network": _option(str, "--network", help="Network; `advbench list networks`.", panel=_MODEL),
    "feature_dim": _option(str, "--feature-dim", help="2 or 100 (default).", panel=_MODEL),
    **LOSS,
    **TRAINING,
    **REGIME,
}
ATTACK: Group = {
    "attack": _option(str, "--attack", help="`advbench list attacks` names them; one or a list.", panel=_ATTACK),
    "eps": _option(str, "--eps", help="0.3, 8/255, or a list: 0.1,0.2,0.3; in L-inf at most 1.", panel=_ATTACK),
    "n": _option(int, "--n", help="The first N test images (default: all).", panel=_ATTACK),
    "clip": _option(bool, "--clip/--no-clip", help="Keep images inside [0, 1] (default).", panel=_ATTACK),
    "exact_gradient": _option(
        bool,
        "--exact-gradient/--no-exact-gradient",
        help="Take the logit gradient in float64, where float32 would round it to zero.",
        panel=_ATTACK,
    ),
    "set": Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            rich_help_panel=_ATTACK,
            show_default=False,
            help="A setting of the attack, such as steps=40; may be repeated.",
        ),
    ],
}
AWARE: Group = {
    "detector": _option(
        str,
        "--detector",
        help="The detector an adaptive attack evades; a list, or none for no detector.",
        panel=_ATTACK,
    ),
    "fpr": _option(
        str, "--fpr", help="False-positive rate of its threshold (default 0.05); or a list.", panel=_ATTACK
    ),
    "budget": _option(
        str,
        "--budget",
        help="detector-aware: quick, standard (default) or thorough: 200, 2,000, 10,000 gradients.",
        panel=_ATTACK,
    ),
}
SUPPLIED: Group = {
    "model": _option(
        str,
        "--model",
        help="m.py:build, package.module:build, timm:NAME or archive.pt2: runs that code.",
        panel=_MODEL,
    ),
    "weights": _option(
        str, "--weights", help="Its weights: x.safetensors, or x.pt read as data alone.", panel=_MODEL
    ),
    "features": _option(
        str, "--features", help="Layer whose output is the features (default: the last layer's input).", panel=_MODEL
    ),
    "mean": _option(str, "--mean", help="It is given (image - mean) / std: 0.5, or one a channel.", panel=_MODEL),
    "std": _option(str, "--std", help="The std of that.", panel=_MODEL),
    "trust": Annotated[
        bool,
        typer.Option("--trust", help="Open a torch.export archive, which is code.", rich_help_panel=_MODEL),
    ],
}
NAMED: Group = {
    "name": _option(str, "--name", help="Name of the study and its report's folder.", panel=_PLACE),
    "title": _option(str, "--title", help="What stands over the report's page (default: the name).", panel=_PLACE),
}
PLURAL: Group = {
    **NAMED,
    "detector": _option(str, "--detector", help="Detectors, separated by commas.", panel=_MODEL),
}
REPRODUCE: Group = {
    "cell": _option(
        str, "--cell", help="Only these models, such as lgm1.0-100d-seed0; separate with commas.", panel=_MODEL
    ),
    "check": Annotated[
        bool, typer.Option("--check", help="Derive Table 6 and the EERs from the kept weights, and compare.")
    ],
    "security": Annotated[
        bool, typer.Option("--security", help="Only the attacks that know a detector, on what has weights.")
    ],
    "no_train": Annotated[bool, typer.Option("--no-train", help="Evaluate what has weights; train nothing.")],
}
AUDIT: Group = {
    "complete": Annotated[
        bool, typer.Option("--complete", help="Run what is missing first, on few images; a second call goes on.")
    ],
    "dataset": _option(
        str,
        "--dataset",
        help="Where the run's data lie, if they are a folder or file of yours: folder:PATH.",
        panel=_MODEL,
    ),
}
DOCTOR: Group = {
    "mend": Annotated[
        bool,
        typer.Option("--mend", help="Forget what is broken, so that the next call makes it again; delete leftovers."),
    ]
}
SELECT: Group = {
    key: _option(str, f"--{key}", help=f"Only {text}; separate several with commas.", panel="Selection")
    for key, text in {
        "dataset": "these data sets",
        "loss": "these losses",
        "alpha": "these margins",
        "lam": "these weights of the likelihood term",
        "covariance": "this covariance",
        "seed": "these seeds",
        "training": "this regime: standard or adversarial",
        "attack": "these attacks",
        "eps": "these eps",
        "detector": "these detectors",
    }.items()
}
MACHINE: Group = {
    "device": _option(str, "--device", help="cpu, cuda, cuda:1 (default: cuda if there is one).", panel=_MACHINE),
    "batch_size": _option(int, "--batch-size", help="Evaluation batch (default 256).", panel=_MACHINE),
    "threads": _option(int, "--threads", help="CPU threads (default: torch's).", panel=_MACHINE),
    "data_dir": _option(
        str, "--data-dir", help="The folder that holds MNIST/raw/ and the like.", panel=_PLACE, envvar="ADVBENCH_DATA"
    ),
    "download": _option(bool, "--download", help="Fetch missing data into the data folder.", panel=_PLACE),
}
GRID: Group = {
    "on": _option(
        str,
        "--on",
        help="Perform the cells (a model, an attack on it) on local = processes of this machine, ray, or slurm.",
        panel=_MACHINE,
    ),
    "jobs": _option(int, "--jobs", help="How many at once (default: one a core of this machine).", panel=_MACHINE),
    "gpus_per_job": _option(
        float, "--gpus-per-job", help="ray, slurm: GPUs of each; in Ray a fraction shares one.", panel=_MACHINE
    ),
    "address": _option(
        str, "--address", help="ray: of a cluster, or auto (default: one started on this machine).", panel=_MACHINE
    ),
    "cells_per_job": _option(
        int, "--cells-per-job", help="slurm: cells of one model in a job (default 8).", panel=_MACHINE
    ),
    "slurm": Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            rich_help_panel=_MACHINE,
            show_default=False,
            help="What a job asks for, such as partition=gpu or timeout_min=240; may be repeated.",
        ),
    ],
}
SHARD: Group = {
    "shard": _option(
        str,
        "--shard",
        help="Only part i of n of the images: 1/4; auto = from torchrun's RANK and WORLD_SIZE.",
        panel=_MACHINE,
    )
}
PLACE: Group = {
    "runs_dir": Annotated[
        str, typer.Option("--runs-dir", envvar="ADVBENCH_RUNS", help="Where models and results are kept.",
                          rich_help_panel=_PLACE)
    ],
    "reports_dir": Annotated[
        str, typer.Option("--reports-dir", help="Where pages are written.", rich_help_panel=_PLACE)
    ],
}  # fmt: skip
RUNS: Group = {k: v for k, v in PLACE.items() if k == "runs_dir"}
JSON: Group = {
    "json": Annotated[
        bool, typer.Option("--json", help="Rows as JSON on stdout, and nothing else.", rich_help_panel=_PLACE)
    ]
}
_DEFAULTS = {"runs_dir": "runs", "reports_dir": "reports", "json": False}
_DEFAULTS |= dict.fromkeys(("check", "no_train", "security", "complete", "trust", "mend"), False)


def takes(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command every option of these groups, handed over as one mapping; None = not given.

    Parameters that the command names itself (arguments) stay its own.
    """
    options = {name: kind for group in groups for name, kind in group.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]
        added = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(n), annotation=k)
            for n, k in options.items()
        ]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            function({n: given[n] for n in options}, **{p.name: given[p.name] for p in own})

        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        del command.__wrapped__
        return command

    return decorate
