"""`--on local|ray|slurm`: options to an engine, which performs a study's cells."""

from pathlib import Path

from advbench.cli.limits import check_limits
from advbench.errors import BadSetting, UnknownName
from advbench.grid.cells import cells_of, on_device
from advbench.grid.local import Local, cores
from advbench.grid.queue import Engine, go_through as through
from advbench.grid.slurm.resources import gpus_asked, resources
from advbench.report.write import page_of
from advbench.study.options import Grid
from advbench.study.study import Study

ENGINES = ("local", "ray", "slurm")
MOST_JOBS = 1024
ONLY = {"address": ("ray",), "gpus_per_job": ("ray", "slurm"), "cells_per_job": ("slurm",), "slurm": ("slurm",)}


def engine_of(options: Grid) -> Engine | None:
    """The engine that --on names (local where only --jobs is given); None where the options name none."""
    name = options.on if options.on is not None or options.jobs is None else "local"
    for key, engines in ONLY.items():
        if getattr(options, key) and name not in engines:
            raise BadSetting(f"--{key.replace('_', '-')} goes with --on {' or '.join(engines)}, not with --on {name}")
    if name is None:
        return None
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    threads = options.threads or 1
    jobs = max(1, cores() // threads) if options.jobs is None else options.jobs
    if not 1 <= jobs <= MOST_JOBS:
        raise BadSetting(f"jobs = {jobs} is out of range; it must be from 1 to {MOST_JOBS}, at best one a core")
    gpus = options.gpus_per_job or 0.0
    if name == "ray":
        from advbench.grid.ray_engine import Ray

        return Ray(jobs, threads, gpus=gpus, address=options.address)
    if name == "slurm":
        from advbench.grid.slurm.engine import Slurm

        cells = 8 if options.cells_per_job is None else options.cells_per_job
        folder, asked = Path(options.runs_dir) / ".slurm", resources(options.slurm)
        return Slurm(jobs, threads, gpus=gpus, cells=cells, folder=folder, asked=asked)
    check_limits(jobs)
    return Local(jobs, threads)


def device_of(options: Grid, here: str) -> str:
    """The workers' device: that of this machine, `here`, but on a cluster what its jobs ask for."""
    if options.on not in ("ray", "slurm"):
        # each worker has its own GPU
        return "cuda" if here != "cpu" and options.device in (None, "cuda") else here
    if options.device is not None:
        raise BadSetting(
            f"device = {options.device!r} is of this machine; with --on {options.on} a job computes on the "
            "CPU, or on its GPU with --gpus-per-job"
        )
    by_gres = gpus_asked(resources(options.slurm))  # a part of a GPU, such as shard:1
    return "cuda" if options.gpus_per_job or by_gres else "cpu"


def go_through(study: Study, options: Grid) -> None:
    """Perform the study's cells on the engine that the options name, if they do.

    Raises FailedCells where one could not be performed.
    """
    engine = engine_of(options)
    if engine is None:
        return
    page_of(study)
    device = device_of(options, str(study.workspace.device))
    cells = [on_device(cell, device) for cell in cells_of(study, study.spec.detectors)]
    through(cells, engine, study.workspace.progress)
