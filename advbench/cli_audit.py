"""The audit of a run as rows, and the commands that close its gaps, one after the other."""

from __future__ import annotations

import contextlib
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from advbench import needs, runs, selection
from advbench.audit import audit
from advbench.cli_emit import filled, pasteable
from advbench.cli_takes import Options
from advbench.data import fingerprint, for_supplied
from advbench.errors import BadData, BadRun, BadSetting, FailedCheck, UnknownName
from advbench.guards import SUPPLIED
from advbench.place import Place
from advbench.runs import Run
from advbench.sources import label, source
from advbench.sources.naming import option
from advbench.types import ImageSet

Row = dict[str, Any]
SMALL = 100  # images of an attack that --complete runs, unless its command names a number up to
ENOUGH = 200


def rows_of(name: str, place: Place, dataset: str | None = None) -> list[Row]:
    """The audit's rows of the run of that name: requirement, name, title, state, evidence, command.

    `dataset` is where the run's data lie, as `--dataset` takes it; without it a folder or file is not found.
    """
    run = selection.by_name(place.runs_dir, name)
    if not run.has("outputs"):
        raise BadRun(
            f"{run.folder} holds no trained model, or not its outputs; make them with: advbench train, and attack it"
        )
    others = [selection.checked(other) for other in runs.find(run.folder.parent)]
    if needs.of_model(run.model) is not None:
        raise BadRun(selection.left_out(run)[0])
    for line in (line for other in others for line in selection.left_out(other)):
        place.progress.say(line)
    return [asdict(finding) for finding in audit(run, others, images=_images(run, place, dataset))]


def _images(run: Run, place: Place, dataset: str | None = None) -> ImageSet | None:
    """The clean test images where the data are at hand and those of the run."""
    name = _data_name(run, dataset)
    try:
        splits = source(name, run.model.get("image_size")).load(place.data_dir)
        splits = for_supplied(splits) if SUPPLIED in run.model else splits
    except (BadData, UnknownName) as error:
        place.progress.say(f"checked against the few clean images that the run keeps: {error}")
        return None
    return splits.test if fingerprint(splits) == run.model["data_sha256"] else None


def _data_name(run: Run, dataset: str | None) -> str:
    """What `--dataset` takes for the run's data; raises BadSetting where `dataset` is recorded under another name."""
    recorded = str(run.model["dataset"])
    if dataset is not None and label(dataset) != recorded:
        raise BadSetting(f"--dataset {dataset} is recorded as {label(dataset)}, this run's data as {recorded}")
    return dataset or option(recorded)


def show_audit(rows: Sequence[Row], options: Options) -> None:
    """Print the findings for a terminal of 80 columns; command lines stay whole, to be copied."""
    indent = " " * 6
    for row in rows:
        print(f"{row['requirement']:4}  {row['state'].upper() if row['state'] != 'met' else 'met'}: {row['title']}")
        print(textwrap.fill(row["evidence"], 80, initial_indent=indent, subsequent_indent=indent))
        if row["command"]:
            print(f"{indent}$ {pasteable(row['command'], options)}")
    states = Counter(row["state"] for row in rows)
    print(f"\n{len(rows)} checks: {', '.join(f'{n} {state}' for state, n in states.items())}")


def complete(
    name: str, place: Place, command_line: Callable[[Sequence[str]], object], dataset: str | None = None
) -> None:
    """Run the command of each check that was not run, in this place, on few images.

    What a command leaves is kept, so that a second call goes on. A command that cannot be run here is told and left.
    """
    done: set[str] = set()
    while missing := [pair for pair in _missing(name, place, dataset) if pair[1] not in done]:
        for check, command in missing:
            done.add(command)
            place.progress.say(f"{check}: {command}")
            if command.startswith("advbench evaluate"):  # a run's record names that code, and a record runs none
                place.progress.say("left out: it runs the code of the model, which only its user may name")
                continue
            words = filled(shlex.split(command), {"dataset": dataset})[0][1:]
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    command_line([*words, *_place_words(place, words)])
            except (BadSetting, BadData, FailedCheck) as error:
                place.progress.say(f"left out: {error}")


def _missing(name: str, place: Place, dataset: str | None) -> Iterator[tuple[str, str]]:
    """(check, command) of each check that was not run and that a command of ours could close."""
    for row in rows_of(name, place, dataset):
        for command in (row["command"] or "").split(" && ") if row["state"] == "not run" else ():
            if command.startswith("advbench ") and not command.startswith("advbench audit"):
                yield f"{row['requirement']} {row['name']}", command


def _place_words(place: Place, words: Sequence[str]) -> list[str]:
    """What makes a command of a check run in this place, on few images."""
    more = ["--runs-dir", str(place.runs_dir)]
    if words[0] == "selftest":
        return more
    more += ["--reports-dir", str(place.reports_dir)]
    if words[0] == "attack":
        few = "--n" in words and int(words[list(words).index("--n") + 1]) <= ENOUGH
        more += [] if few else ["--n", str(SMALL)]
        more += ["--device", str(place.device), "--batch-size", str(place.batch_size)]
        more += [] if place.data_dir is None else ["--data-dir", str(place.data_dir)]
    return more
