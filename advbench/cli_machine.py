"""The options that say where to compute and where files lie."""

from __future__ import annotations

from typing import Annotated

import typer

from advbench.cli_takes import Group, option

_MACHINE = "Machine"
_PLACE = "Folders and output"

MACHINE: Group = {
    "device": option(str, "--device", help="cpu, cuda, cuda:1 (default: cuda if there is one).", panel=_MACHINE),
    "batch_size": option(int, "--batch-size", help="Evaluation batch (default 256).", panel=_MACHINE),
    "threads": option(int, "--threads", help="CPU threads (default: torch's).", panel=_MACHINE),
    "data_dir": option(
        str, "--data-dir", help="The folder that holds MNIST/raw/ and the like.", panel=_PLACE, envvar="ADVBENCH_DATA"
    ),
    "download": option(bool, "--download", help="Fetch missing data into the data folder.", panel=_PLACE),
}
GRID: Group = {
    "on": option(
        str,
        "--on",
        help="Perform the cells (a model, an attack on it) on local = processes of this machine, ray, or slurm.",
        panel=_MACHINE,
    ),
    "jobs": option(int, "--jobs", help="How many at once (default: one a core of this machine).", panel=_MACHINE),
    "gpus_per_job": option(
        float, "--gpus-per-job", help="ray, slurm: GPUs of each; in Ray a fraction shares one.", panel=_MACHINE
    ),
    "address": option(
        str, "--address", help="ray: of a cluster, or auto (default: one started on this machine).", panel=_MACHINE
    ),
    "cells_per_job": option(
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
    "shard": option(
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
