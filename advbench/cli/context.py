"""Options to a workspace, a study, and the runs selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from advbench import catalog
from advbench.errors import BadSetting, UnknownName
from advbench.settings import at_least
from advbench.study.options import Machine, Named, Place, Table, Verify

MOST_THREADS = 1024  # beyond, the system refuses them in the middle of the work

if TYPE_CHECKING:
    from advbench.study.selection import Found
    from advbench.study.study import Study
    from advbench.study.workspace import Workspace


def study_of(table: Table, options: Machine) -> Study:
    """A study of what is asked for, in the workspace that options name."""
    from advbench.study.parsing import parse
    from advbench.study.study import Study

    spec, workspace = parse(table), workspace_of(options)
    at = workspace.data_dir
    if table.dataset is None and at is not None and (at / "MNIST" / "raw").is_dir():
        workspace.progress.say(f"data set {spec.dataset}; MNIST lies in {at}: --dataset mnist takes it")
    return Study(spec, workspace)


def workspace_of(options: Place) -> Workspace:
    """Folders, device and batch that options name; sets this process up to compute."""
    from advbench.device import resolve_device
    from advbench.progress import Terminal
    from advbench.runs import locks
    from advbench.study.workspace import Workspace

    machine = options if isinstance(options, Machine) else Machine(**options.given(Place))
    if machine.threads is not None:
        at_least("threads", machine.threads, 1)
        if machine.threads > MOST_THREADS:
            raise BadSetting(
                f"threads = {machine.threads} is out of range; it must be at most {MOST_THREADS}, and more than "
                "there are cores gains nothing"
            )
        import torch

        torch.set_num_threads(machine.threads)
    for name, folder in (("runs_dir", machine.runs_dir), ("reports_dir", machine.reports_dir)):
        if not folder.strip():
            raise BadSetting(f"{name} = {folder!r} names no folder; write . for the current one")
    locks.in_use = not machine.no_locks
    named, overwrite = (options.name, options.overwrite) if isinstance(options, Named) else (None, False)
    return Workspace(
        runs_dir=Path(machine.runs_dir),
        reports_dir=Path(machine.reports_dir),
        data_dir=None if machine.data_dir is None else Path(machine.data_dir),
        download=machine.download,
        device=resolve_device(machine.device),
        batch_size=256 if machine.batch_size is None else machine.batch_size,
        keep_images=_kept(getattr(options, "keep_images", None)),
        others="replaced" if overwrite else "beside" if named is None else "refused",
        progress=Terminal(),
    )


def _kept(text: str | None) -> int | None:
    """How many images --keep-images says; None: all."""
    if text in (None, "all"):
        return None
    if not text.isdecimal():
        raise BadSetting(f"keep_images = {text!r} is no number of images; write 0 or more, or all")
    return int(text)


def found_by(options: Verify, workspace: Workspace) -> list[Found]:
    """The attacked models on disk that options select, whose values are checked like those of a spec."""
    from advbench.data.sources import label
    from advbench.evasion import check_eps
    from advbench.recipes import REGIMES
    from advbench.study import selection

    for kind, names in (("loss", options.loss), ("attack", options.attack)):
        for name in names or ():
            catalog.load(kind, name)
    for eps in options.eps or ():
        check_eps(eps, "l2")  # what is selected may be of either norm
    for regime in set(options.training or ()) - set(REGIMES):
        raise UnknownName("training regime", regime, REGIMES)
    datasets = None if options.dataset is None else tuple(map(label, options.dataset))
    return selection.find(workspace.runs_dir, replace(options, dataset=datasets), workspace.progress.say)


def detectors_of(options: Verify, found: Sequence[Found]) -> list[str]:
    """The detectors that options name; where none is named, those the runs were scored with, or the usual ones."""
    from advbench.study.parsing import USUAL
    from advbench.study.verify import known

    names = options.detectors or [row.detector for one in found for row in known(one.run)] or USUAL.detectors or ()
    for name in names:
        catalog.load("detector", name)
    return list(dict.fromkeys(names))
