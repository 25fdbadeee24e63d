"""The options that say what to train, attack, score and report, in groups that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from advbench.cli_takes import Group, option

_MODEL = "Model"
_TRAINING = "Training (defaults: the data set's own)"
_REGIME = "Adversarial training (each of these turns it on; defaults: the data set's own)"
_ATTACK = "Attack"
_PLACE = "Folders and output"

LOSS: Group = {
    "alpha": option(float, "--alpha", help="L-GM: margin (default 1).", panel=_MODEL),
    "lam": option(float, "--lam", help="L-GM: weight of the likelihood term (default 0.1).", panel=_MODEL),
    "covariance": option(str, "--covariance", help="L-GM: identity (default) or diagonal.", panel=_MODEL),
    "log_var_floor": option(float, "--log-var-floor", help="L-GM: least log-variance (default -4).", panel=_MODEL),
    "weight": option(float, "--weight", help="Center: weight of the centre distance (default 0.01).", panel=_MODEL),
    "centre_step": option(float, "--centre-step", help="Center: step of the centres (default 0.5).", panel=_MODEL),
    "margin": option(int, "--margin", help="L-Softmax: angles count this many times (default 4).", panel=_MODEL),
    "start": option(
        float, "--start", help="L-Softmax: first weight of the plain logit (default 1000).", panel=_MODEL
    ),
    "anneal": option(
        float, "--anneal", help="L-Softmax: share of training until its least weight (default 0.5).", panel=_MODEL
    ),
    "floor": option(float, "--floor", help="L-Softmax: that least weight (default 0.5).", panel=_MODEL),
}
TRAINING: Group = {
    "epochs": option(int, "--epochs", help="Passes over the training part.", panel=_TRAINING),
    "train_batch_size": option(int, "--train-batch-size", help="Images a training step.", panel=_TRAINING),
    "learning_rate": option(float, "--learning-rate", help="Peak learning rate.", panel=_TRAINING),
    "momentum": option(float, "--momentum", help="Nesterov momentum.", panel=_TRAINING),
    "weight_decay": option(float, "--weight-decay", help="Weight decay.", panel=_TRAINING),
    "warmup": option(float, "--warmup", help="Epochs of linear warm-up.", panel=_TRAINING),
    "max_gradient_norm": option(
        float, "--max-gradient-norm", help="Longer gradients are shortened.", panel=_TRAINING
    ),
    "precision": option(
        str, "--precision", help="fp32, or bf16 (autocast) where the device has it.", panel=_TRAINING
    ),
    "augmentation": option(
        str, "--augmentation", help="none, or mirror-crop: mirrored and shifted at random.", panel=_TRAINING
    ),
    "full_train": option(
        bool, "--full-train/--no-full-train", help="Join validation to the training part.", panel=_TRAINING
    ),
}
REGIME: Group = {
    "adversarial": option(
        bool, "--adversarial/--no-adversarial", help="Train on attacked images (positive control).", panel=_REGIME
    ),
    "adversarial_eps": option(float, "--adversarial-eps", help="L-inf radius of their attack.", panel=_REGIME),
    "adversarial_steps": option(
        int, "--adversarial-steps", help="Gradients it takes (default 1, from a random start).", panel=_REGIME
    ),
    "adversarial_step": option(
        float, "--adversarial-step", help="Size of a step (default 1.25 eps, or 2.5 eps / steps).", panel=_REGIME
    ),
    "adversarial_ramp": option(
        float, "--adversarial-ramp", help="Share of the training in which its eps rises from 0.", panel=_REGIME
    ),
}
DATA: Group = {
    "dataset": option(
        str,
        "--dataset",
        help="digits (default), another of `advbench list datasets`, or folder:PATH, npz:PATH, safetensors:PATH.",
        panel=_MODEL,
    ),
    "image_size": option(
        int, "--image-size", help="Image folder: shorter side scaled to N, middle square taken.", panel=_MODEL
    ),
}
MODEL: Group = {
    **DATA,
    "loss": option(str, "--loss", help="softmax (default), center, l-softmax, lgm; `run` takes a list", panel=_MODEL),
    "seed": option(str, "--seed", help="Seed of weights and batches (default 0); `run` takes a list.", panel=_MODEL),
    "network": option(str, "--network", help="Network; `advbench list networks`.", panel=_MODEL),
    "feature_dim": option(str, "--feature-dim", help="2 or 100 (default).", panel=_MODEL),
    **LOSS,
    **TRAINING,
    **REGIME,
}
ATTACK: Group = {
    "attack": option(str, "--attack", help="`advbench list attacks` names them; one or a list.", panel=_ATTACK),
    "eps": option(str, "--eps", help="0.3, 8/255, or a list: 0.1,0.2,0.3; in L-inf at most 1.", panel=_ATTACK),
    "n": option(int, "--n", help="The first N test images (default: all).", panel=_ATTACK),
    "clip": option(bool, "--clip/--no-clip", help="Keep images inside [0, 1] (default).", panel=_ATTACK),
    "exact_gradient": option(
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
    "detector": option(
        str,
        "--detector",
        help="The detector an adaptive attack evades; a list, or none for no detector.",
        panel=_ATTACK,
    ),
    "fpr": option(
        str, "--fpr", help="False-positive rate of its threshold (default 0.05); or a list.", panel=_ATTACK
    ),
    "budget": option(
        str,
        "--budget",
        help="detector-aware: quick, standard (default) or thorough: 200, 2,000, 10,000 gradients.",
        panel=_ATTACK,
    ),
}
SUPPLIED: Group = {
    "model": option(
        str,
        "--model",
        help="m.py:build, package.module:build, timm:NAME or archive.pt2: runs that code.",
        panel=_MODEL,
    ),
    "weights": option(
        str, "--weights", help="Its weights, read as data; FILE:KEY for one set of several.", panel=_MODEL
    ),
    "features": option(
        str, "--features", help="Layer whose output is the features (default: the last layer's input).", panel=_MODEL
    ),
    "mean": option(str, "--mean", help="It is given (image - mean) / std: 0.5, or one a channel.", panel=_MODEL),
    "std": option(str, "--std", help="The std of that.", panel=_MODEL),
    "trust": Annotated[
        bool, typer.Option("--trust", help="Open a torch.export archive, which is code.", rich_help_panel=_MODEL)
    ],
}
NAMED: Group = {
    "name": option(str, "--name", help="Name of the study and its report's folder.", panel=_PLACE),
    "title": option(str, "--title", help="What stands over the report's page (default: the name).", panel=_PLACE),
    "overwrite": Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a page over other models in its place.", rich_help_panel=_PLACE),
    ],
}
PLURAL: Group = {**NAMED, "detector": option(str, "--detector", help="Detectors, separated by commas.", panel=_MODEL)}
REPRODUCE: Group = {
    "cell": option(
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
    "dataset": option(
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
    key: option(str, f"--{key}", help=f"Only {text}; separate several with commas.", panel="Selection")
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
