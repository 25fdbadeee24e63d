"""Select runs and attacks on disk, and say which need a plug-in that is missing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from advbench import catalog, runs
from advbench.data.sources import recipe_of
from advbench.detection import NO_DETECTOR, Detector
from advbench.errors import BadSetting, BrokenPlugin, Damaged, MissingLibrary, UnknownName
from advbench.runs import AdaptiveRow, AttackRow, ModelRecord, Run, TrainedRecord, as_json
from advbench.runs.artifacts import scored_cells
from advbench.runs.rows import RunRow
from advbench.study.options import Selected
from advbench.study.parsing import attack_choices, loss_choice
from advbench.study.spec import AttackChoice


@dataclass(frozen=True)
class Found:
    """A run and the file names of its selected attacks."""

    run: Run
    attacks: tuple[str, ...]


def attack_rows(run: Run) -> dict[str, AttackRow]:
    """The rows of the attacks that the plug-ins at hand can read, by file name, sorted by attack and eps."""
    rows = _stored(run) if lacking_for_model(run.model) is None else {}
    return {name: row for name, row in rows.items() if lacking_for_attack(row) is None}


def left_out(run: Run) -> list[str]:
    """A sentence for each plug-in that is missing, broken or changed: the parts of the run that need it."""
    own = lacking_for_model(run.model)
    parts = {"the whole run": own}
    if own is None:
        parts |= {f"attack {name}": lacking_for_attack(row) for name, row in _stored(run).items()}
        parts |= {f"scores of {name}": lacking_for_detector(name) for name in scored_by(run)}
    reasons = {why: [p for p in parts if parts[p] == why] for why in parts.values() if why is not None}
    return [
        f"{run.name}: {why}; left out: {', '.join(gone[:3])}{f' and {len(gone) - 3} more' * (len(gone) > 3)}; put "
        f"the plug-in back as it was, or delete {run.folder}"
        for why, gone in reasons.items()
    ]


def _stored(run: Run) -> dict[str, AttackRow]:
    """The row of every attack; none where the weights that were attacked are forgotten."""
    if "train" not in run.steps and isinstance(run.model, TrainedRecord):
        return {}
    rows = {name: run.attack_row(name) for name in run.attacks}
    return dict(sorted(rows.items(), key=lambda item: (item[1].attack, item[1].eps, item[0])))


def find(runs_dir: Path, selected: Selected, say: Callable[[str], object] = lambda line: None) -> list[Found]:
    """The attacked models that match: what is not given selects everything; raises BadSetting where there is none.

    `say` is told of those `left_out`, and of runs that cannot be read.
    """
    wanted = selected.given(Selected)

    def matches(row: AttackRow) -> bool:
        shown = as_json(row)
        return all(shown[key] in values for key, values in wanted.items())

    found, absent, unread = [], [], list[str]()
    for run in runs.find(runs_dir, unread.append):
        names = tuple(name for name, row in attack_rows(run).items() if matches(row))
        if names:
            found.append(Found(run, names))
        elif any(map(matches, _stored(run).values())):
            absent += left_out(run)
    for line in (*unread, *absent):
        say(line)
    if not found:
        said = ", ".join(f"{k} {' or '.join(map(str, v))}" for k, v in wanted.items()) or "anything"
        none = f"no attacked model under {runs_dir} matches {said}; make one, for example with: "
        needed = f"a plug-in of every model that matches is missing; {absent[0]}" if absent else "".join(unread[:1])
        raise BadSetting(f"nothing to verify: {needed or none + 'advbench attack --loss lgm --eps 0.3'}")
    return found


def listing(runs_dir: Path, say: Callable[[str], object]) -> list[RunRow]:
    """A row for every run: its model, whether it is trained, all its attacks."""
    return [
        RunRow(model=run.model_row, trained="train" in run.steps, attacks=list(_stored(run)))
        for run in runs.find(runs_dir, say)
    ]


def by_name(runs_dir: Path, name: str) -> Run:
    """The run of that name under `runs_dir`, or in the folder `name`; raises UnknownName with those there are."""
    for folder in (runs_dir / name, Path(name)):
        if (folder / runs.MANIFEST).exists():
            return runs.load(folder)
    raise UnknownName(f"run under {runs_dir}", name, [run.name for run in runs.find(runs_dir)])


def scored_by(run: Run) -> list[str]:
    """Every detector that a run holds scores of; none where these are damaged."""
    try:
        return list(dict.fromkeys(detector for _, detector in scored_cells(run)))
    except Damaged:
        return []


def lacking_for_model(model: ModelRecord) -> str | None:
    """What a run's own model lacks: its loss, network or data set; a supplied model brings its own. None: nothing."""
    if not isinstance(model, TrainedRecord):
        return None
    return (
        _lack("loss", model.loss_name, lambda: loss_choice(model.loss))
        or _lack("network", model.network, lambda: catalog.load("network", model.network))
        or _lack("data set", model.dataset, lambda: recipe_of(model.dataset))
    )


def choice_of(row: AttackRow) -> AttackChoice:
    """The attack that a row describes; raises BadSetting where that makes none."""
    aware = {"detector": NO_DETECTOR} if isinstance(row, AdaptiveRow) else {}
    (choice,) = attack_choices({"name": row.attack, "eps": row.eps, "n": row.n, **row.own_settings, **aware})
    return replace(choice, detector=row.detector, fpr=row.fpr) if isinstance(row, AdaptiveRow) else choice


def lacking_for_attack(row: AttackRow) -> str | None:
    """What the attack of a row lacks: its plug-in with these settings, or the detector that it knows."""
    own = None if ":" in row.attack else _lack("attack", row.attack, lambda: choice_of(row))
    return own or lacking_for_detector(row.detector if isinstance(row, AdaptiveRow) else NO_DETECTOR)


def lacking_for_detector(name: str) -> str | None:
    """What the scores of a detector lack: its plug-in, which takes no settings."""
    if name == NO_DETECTOR:
        return None
    return _lack("detector", name, lambda: isinstance(catalog.load("detector", name)(), Detector))


def _lack(kind: str, name: str, make: Callable[[], object]) -> str | None:
    """A clause about a plug-in that is not there, or of which `make` makes nothing."""
    if ":" not in name and name not in catalog.names(kind):
        return f"{kind} {name!r} is not here"
    try:
        return None if make() else f"{kind} {name!r} is not what it was"
    except MissingLibrary:
        return None  # which makes such results, and is not needed to read them
    except BrokenPlugin as error:
        return str(error).partition("; ")[0]
    except Exception as error:  # whatever a changed plug-in raises
        return f"{kind} {name!r} is not what it was ({' '.join(str(error).split()).partition('. ')[0]})"
