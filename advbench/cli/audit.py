"""`advbench audit`: findings as rows; `--complete` runs the commands that close gaps."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from advbench import runs
from advbench.audit import Finding
from advbench.audit.protocol import audit
from advbench.cli.output import filled, filled_text, pasteable
from advbench.data import fingerprint, for_supplied
from advbench.data.sources import label, option, source
from advbench.errors import BadData, BadRun, BadSetting, FailedCheck, UnknownName, printable
from advbench.runs import Run, SuppliedRecord
from advbench.study import selection
from advbench.study.command_lines import Line
from advbench.study.options import Audit, Output
from advbench.study.selection import lacking_for_model
from advbench.study.workspace import Workspace
from advbench.types import ImageSet

SMALL = 100  # images of an attack that --complete runs, unless its command names a number up to
ENOUGH = 200
RUN_HERE = ("attack", "selftest", "verify")  # the commands that --complete runs


def findings_of(name: str, workspace: Workspace, dataset: str | None = None) -> list[Finding]:
    """The audit's findings on the run of that name.

    `dataset` is where the run's data lie, as `--dataset` takes it; without it a folder or file is not found.
    """
    run = selection.by_name(workspace.runs_dir, name)
    if not run.has("outputs"):
        raise BadRun(
            f"{run.folder} holds no trained model, or not its outputs; make them with: advbench train, and attack it"
        )
    others = runs.find(run.folder.parent, workspace.progress.say)
    if lacking_for_model(run.model) is not None:
        raise BadRun(selection.left_out(run)[0])
    for line in (line for other in others for line in selection.left_out(other)):
        workspace.progress.say(line)
    return audit(run, others, images=_images(run, workspace, dataset))


def rows_of(findings: Sequence[Finding]) -> list[dict[str, str | None]]:
    """The findings as JSON, a command as text."""
    return [vars(f) | {"command": None if f.command is None else str(f.command)} for f in findings]


def _images(run: Run, workspace: Workspace, dataset: str | None = None) -> ImageSet | None:
    """The clean test images where the data are at hand and those of the run.

    Raises BadSetting where `dataset` is recorded under another name.
    """
    recorded = run.model.dataset
    if dataset is not None and label(dataset) != recorded:
        raise BadSetting(f"--dataset {dataset} is recorded as {label(dataset)}, this run's data as {recorded}")
    name = dataset or option(recorded)
    try:
        if dataset is None and ":" in name:
            raise BadData(f"the run's record says of its data {recorded}; --dataset names where they lie")
        splits = source(name, run.model.image_size).load(workspace.data_dir)
        splits = for_supplied(splits) if isinstance(run.model, SuppliedRecord) else splits
    except (BadData, UnknownName) as error:
        workspace.progress.say(f"checked against the few clean images that the run keeps: {error}")
        return None
    return splits.test if fingerprint(splits) == run.model.data_sha256 else None


def show_audit(findings: Sequence[Finding], options: Output) -> None:
    """Print the findings for a terminal of 80 columns; command lines stay whole, to be copied."""
    indent = " " * 6
    for f in findings:
        print(f"{f.requirement:4}  {f.state.upper() if f.state != 'met' else 'met'}: {f.title}")
        print(filled_text(f.evidence, indent, indent))
        if f.command:
            print(f"{indent}$ {printable(pasteable(f.command, options))}")
    states = Counter(f.state for f in findings)
    print(f"\n{len(findings)} checks: {', '.join(f'{n} {state}' for state, n in states.items())}")


def complete(
    name: str, workspace: Workspace, command_line: Callable[[Sequence[str]], object], dataset: str | None = None
) -> None:
    """Run the commands of each check that was not run, in this place, on few images.

    What a command leaves is kept, so that a second call goes on. A command that cannot be run here is told and left.
    """
    done: set[tuple[str, ...]] = set()
    while missing := [
        (f"{f.requirement} {f.name}", words)
        for f in findings_of(name, workspace, dataset)
        for words in (f.command.commands if f.command and f.state == "not run" else ())
        if words[0] != "audit" and words not in done
    ]:
        for check, words in missing:
            done.add(words)
            workspace.progress.say(f"{check}: {Line.of(*words)}")
            if words[0] not in RUN_HERE:  # `evaluate`: a run's record names that code, and a record runs none
                workspace.progress.say("left out: it runs the code of the model, which only its user may name")
                continue
            told, left = filled(words, Audit(run=name, dataset=dataset))
            if left:
                workspace.progress.say(f"left out: --dataset names where {', '.join(left)} lies")
                continue
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    command_line([*told, *_workspace_words(workspace, told)])
            except (BadSetting, BadData, FailedCheck) as error:
                workspace.progress.say(f"left out: {error}")


def _workspace_words(workspace: Workspace, words: Sequence[str]) -> list[str]:
    """What makes a command of a check run in this place, on few images."""
    more = ["--runs-dir", str(workspace.runs_dir)]
    if words[0] == "selftest":
        return more
    more += ["--reports-dir", str(workspace.reports_dir)]
    if words[0] == "attack":
        few = "--n" in words and int(words[list(words).index("--n") + 1]) <= ENOUGH
        more += [] if few else ["--n", str(SMALL)]
        more += ["--device", str(workspace.device), "--batch-size", str(workspace.batch_size)]
        more += [] if workspace.data_dir is None else ["--data-dir", str(workspace.data_dir)]
    return more
