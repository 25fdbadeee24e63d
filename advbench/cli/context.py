"""Options to a workspace, a study, and the runs selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advbench import catalog
from advbench.cli.option_groups import Options
from advbench.cli.spec_table import words
from advbench.errors import BadSetting, UnknownName
from advbench.runs import locks
from advbench.settings import at_least, whole

MOST_THREADS = 1024  # beyond, the system refuses them in the middle of the work

if TYPE_CHECKING:
    from advbench.study.selection import Found, Selection
    from advbench.study.study import Study
    from advbench.study.workspace import Workspace


def study_of(table: Mapping[str, Any], options: Options) -> Study:
    """A study of a spec's table, in the workspace that options name."""
    from advbench.study.parsing import parse
    from advbench.study.study import Study

    spec, workspace = parse(table), workspace_of(options)
    data_dir = workspace.data_dir
    if table.get("dataset") is None and data_dir is not None and (data_dir / "MNIST" / "raw").is_dir():
        workspace.progress.say(f"data set {spec.dataset}; MNIST lies in {data_dir}: --dataset mnist takes it")
    return Study(spec, workspace)


def workspace_of(options: Options) -> Workspace:
    """Folders, device and batch that options name; sets this process up to compute."""
    from advbench.device import resolve_device
    from advbench.progress import Terminal
    from advbench.study.workspace import Workspace

    if options.get("threads") is not None:
        at_least("threads", options["threads"], 1)
        if options["threads"] > MOST_THREADS:
            raise BadSetting(
                f"threads = {options['threads']} is out of range; it must be at most {MOST_THREADS}, and more than "
                "there are cores gains nothing"
            )
        import torch

        torch.set_num_threads(options["threads"])
    for name in ("runs_dir", "reports_dir"):
        if name in options and not options[name].strip():
            raise BadSetting(f"{name} = {options[name]!r} names no folder; write . for the current one")
    locks.in_use = not options.get("no_locks")
    data_dir = options.get("data_dir")
    return Workspace(
        runs_dir=Path(options["runs_dir"]),
        reports_dir=Path(options["reports_dir"]),
        data_dir=None if data_dir is None else Path(data_dir),
        download=bool(options.get("download")),
        device=resolve_device(options.get("device")),
        batch_size=256 if options.get("batch_size") is None else options["batch_size"],
        others="replaced" if options.get("overwrite") else "beside" if options.get("name") is None else "refused",
        progress=Terminal(),
    )


def found_by(options: Options, workspace: Workspace) -> list[Found]:
    """The attacked models on disk that options select."""
    from advbench.study import selection

    return selection.find(workspace.runs_dir, selection_of(options), workspace.progress.say)


def selection_of(options: Options) -> Selection:
    """The values that options ask for, checked like those of a spec."""
    from advbench.data.sources import label
    from advbench.evasion import check_eps
    from advbench.recipes import REGIMES
    from advbench.settings import number
    from advbench.study.selection import Selection

    wanted: dict[str, tuple[Any, ...]] = {}
    if datasets := words(options["dataset"], "dataset"):
        wanted["dataset"] = tuple(map(label, datasets))
    for kind in ("loss", "attack"):
        if names := words(options[kind], kind):
            wanted[kind] = tuple(names)
        for name in wanted.get(kind, ()):
            catalog.load(kind, name)
    for field in ("eps", "alpha", "lam"):
        if values := words(options[field], field):
            wanted[field] = tuple(number(v, field) for v in values)
    for eps in wanted.get("eps", ()):
        check_eps(eps, "l2")  # what is selected may be of either norm
    if seeds := words(options["seed"], "seed"):
        wanted["seed"] = tuple(whole(s, "seed") for s in seeds)
    if options["covariance"] is not None:
        wanted["covariance"] = (options["covariance"],)
    if regimes := words(options["training"], "training"):
        for regime in set(regimes) - set(REGIMES):
            raise UnknownName("training regime", regime, REGIMES)
        wanted["training"] = tuple(regimes)
    return Selection(wanted)


def detectors_of(options: Options, found: Sequence[Found]) -> list[str]:
    """The detectors that options name; where none is named, those the runs were scored with, or the usual ones."""
    from advbench.study.parsing import DEFAULTS
    from advbench.study.verify import known

    named = words(options["detector"], "detector")
    names = named or [row["detector"] for one in found for row in known(one.run)] or DEFAULTS["detectors"]
    for name in names:
        catalog.load("detector", name)
    return list(dict.fromkeys(names))
