"""The commands: each parses, makes one call, and prints one table or JSON object."""

import contextlib
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from typer.exceptions import TyperException

import advbench
from advbench.cli.context import detectors_of, found_by, study_of, workspace_of
from advbench.cli.limits import check_limits, refused
from advbench.cli.output import emit
from advbench.cli.takes import takes
from advbench.errors import AdvbenchError, BadSetting, FailedCheck, one_line
from advbench.study import options as records

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
INTERRUPTED = 130
R = TypeVar("R")
OWN, MADE = "Evaluate a model of your own", "Train and attack models here"
RESULTS, CHECKS = "Look at results", "Check runs, and advbench itself"


def command(panel: str, *examples: str, name: str | None = None) -> Callable[[Callable[[R], None]], object]:
    """Register a command: its options are its record's, its examples stand below them."""
    epilog = "\n\n".join(("For example:", *(f"advbench {words}" for words in examples)))
    return lambda function: app.command(name, epilog=epilog, rich_help_panel=panel)(takes(function))


def _version(asked: bool) -> None:
    if asked:
        print(f"advbench {advbench.__version__}")
        raise typer.Exit


@app.callback()
def _advbench(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """How far can an image classifier and its adversarial-example detector be trusted?"""


@command(OWN, "evaluate --model m.py:build --weights w.pt --dataset folder:photos")
def evaluate(options: records.Evaluate) -> None:
    """Attack and score a model of your own, on data of your own, and write its report."""
    from advbench.report import write
    from advbench.study.evaluation import evaluating

    if options.model is None:
        raise BadSetting(
            "no model is named; write for example --model m.py:build, where build() in m.py returns a torch.nn.Module"
        )
    said = contextlib.redirect_stdout(sys.stderr)  # whatever the user's model prints as it runs
    with said, evaluating(options, workspace_of(options)) as study:
        page, rows = write.run(study)
    emit("evaluate", rows, options, page)


@command(MADE, "run", "run --loss softmax,lgm --attack fgsm,joint --eps 0.1,0.3 --seed 0,1")
def run(options: records.Run) -> None:
    """Train, attack, verify and report: a whole study."""
    from advbench.report import write
    from advbench.study.parsing import read, read_toml
    from advbench.study.request import study_table

    spec = read({} if options.spec is None else read_toml(Path(options.spec)))
    study = study_of(study_table(options, spec), options)
    if options.on is not None or options.jobs is not None:
        from advbench.cli.grid import go_through

        go_through(study, options)
    page, rows = write.run(study)
    emit("run", rows, replace(options, dataset=study.spec.dataset), page)


@command(MADE, "train --dataset digits --loss lgm --alpha 0.3")
def train(options: records.Train) -> None:
    """Train one model, or find it trained."""
    from advbench.study.request import model_table

    emit("train", study_of(model_table(options), options).train(), options)


@command(MADE, "attack --loss lgm --attack pgd --eps 0.1,0.2 --set steps=20 --n 100")
def attack(options: records.Attack) -> None:
    """Attack one model at one eps or several; it is trained first where it does not exist yet."""
    from advbench.study.request import model_table

    table = model_table(options)
    if options.shard is None:
        rows = study_of(table, options).attack()
    else:
        from advbench.cli.shards import attack_shard

        rows = attack_shard(table, options.shard, options)
    emit("attack", rows, options)


@command(MADE, "attack --loss lgm --shard 1/2", "merge digits-lgm-seed0-3d539bf4")
def merge(options: records.Merge) -> None:
    """Join the shards of a run's attacks, once every image is in one of them."""
    from advbench.cli.shards import merge_shards

    emit("attack", merge_shards(options), options)


@command(RESULTS, "verify --loss softmax,lgm --eps 0.3")
def verify(options: records.Verify) -> None:
    """EERs of the detectors on every attacked model found, or on those selected."""
    from advbench.study.verify import verify_found

    workspace = workspace_of(options)
    found = found_by(options, workspace)
    emit("verify", verify_found(found, detectors_of(options, found), workspace.progress), options)


@command(RESULTS, "report --loss softmax,lgm --name compared")
def report(options: records.Report) -> None:
    """Write an HTML page about every attacked model found, or about those selected."""
    from advbench.data.sources import slug
    from advbench.report import write
    from advbench.study.parsing import folder_name

    workspace = workspace_of(options)
    found = found_by(options, workspace)
    datasets = {f.run.model.dataset for f in found}
    default = f"{slug(datasets.pop()).lstrip('.')}-study" if len(datasets) == 1 else "all-data-sets"
    name = folder_name(default if options.name is None else options.name)
    page, rows = write.report(name, found, detectors_of(options, found), workspace, title=options.title)
    emit("report", rows, options, page)


@command(CHECKS, "reproduce mnist --data-dir data --check")
def reproduce(options: records.Reproduce) -> None:
    """Reproduce a paper's experiments cell by cell, or check a reproduction against its kept weights."""
    from advbench.cli.grid import device_of, engine_of
    from advbench.reproduce.experiment import load
    from advbench.reproduce.run import check, complete

    experiment = load(options.what)
    if options.check and (options.on is not None or options.jobs is not None):
        raise BadSetting("--check computes in this process; leave --on and --jobs out")
    workspace, names = workspace_of(options), options.cell
    if options.check:
        found = check(experiment, workspace, names)
        emit("reproduce", found, options)
        if missed := sum(not row.met for row in found):
            raise FailedCheck(f"{missed} of {len(found)} figures differ from the committed ones by more than allowed")
        return
    train, cells = not options.no_train, not options.security
    engine, device = engine_of(options), device_of(options, str(workspace.device))
    page, rows = complete(experiment, workspace, names, train=train, cells=cells, engine=engine, device=device)
    emit("reproduce", rows, options, page)


@command(RESULTS, "audit digits-lgm-seed0-3d539bf4 --complete")
def audit(options: records.Audit) -> None:
    """Which requirements of the protocol a run meets, with the evidence, and the command that closes each gap."""
    from advbench.cli.audit import complete, findings_of, rows_of, show_audit

    workspace = workspace_of(options)
    if options.complete:
        command_line = functools.partial(app, prog_name="advbench", standalone_mode=False)
        complete(options.run, workspace, command_line, options.dataset)
    findings = findings_of(options.run, workspace, options.dataset)
    if options.json:
        emit("audit", rows_of(findings), options)
    else:
        show_audit(findings, options)


@command(CHECKS, "selftest")
def selftest(options: records.Output) -> None:
    """Evaluate models and detectors made to fool an evaluation, and see whether it finds out."""
    from advbench.audit.canaries.selftest import selftest as found_in
    from advbench.progress import Terminal

    rows = found_in(Path(options.runs_dir), Terminal())
    emit("selftest", rows, options)
    if missed := [row for row in rows if not row.met]:
        raise FailedCheck(
            f"{len(missed)} of {len(rows)} expectations were missed, the first: {missed[0].canary}, expected "
            f"{missed[0].expected}, found {missed[0].found}; trust no audit of this installation"
        )


@command(CHECKS, "doctor --mend")
def doctor(options: records.Doctor) -> None:
    """What of a runs folder is whole, what is not, and what would be done again."""
    from advbench.runs import locks
    from advbench.study.doctor import examine

    locks.in_use = not options.no_locks
    rows = examine(Path(options.runs_dir), mend=options.mend)
    emit("doctor", rows, options)
    if broken := [r.run for r in rows if r.state == "unread" or (r.broken and not r.mended)]:
        raise FailedCheck(
            f"{len(broken)} of {len(rows)} runs hold files that are broken or cannot be read, the first: "
            f"{broken[0]}; restore them, or let advbench doctor --mend forget the broken ones, so that the next call "
            "makes them again"
        )


@command(RESULTS, "list", "list attacks --long", "list runs", name="list")
def list_(options: records.Listed) -> None:
    """What there is: losses, attacks, detectors, networks, data sets, runs."""
    from advbench.cli import listing

    what = None if options.what is None else listing.meant(options.what)
    if what is None:
        emit("list", listing.kinds(), options)
    elif what == listing.RUNS:
        from advbench.progress import Terminal
        from advbench.study import selection

        emit("list", selection.listing(Path(options.runs_dir), Terminal().say), options)
    elif options.long and not options.json:
        listing.show(listing.rows_of(what, long=True))
    else:
        emit("list", listing.rows_of(what, long=options.long), options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the process's exit status."""
    # tiny kernels on busy cores: spinning threads cost more than they save (read when torch is imported)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.pop("MPLBACKEND", None)  # a page needs none, and a wrong one ends the import of matplotlib
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # faults of a matplotlibrc, which changes no page
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal can write every name
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if not {"-h", "--help", "--version"} & {*words} and (
            words[0] != "list" or {"runs", "run", "--long"} & {*words}
        ):
            check_limits()  # the others import no torch
        # without standalone mode typer hands over its errors; Ctrl-C it turns into a result of 130
        code = app(words, prog_name="advbench", standalone_mode=False) or 0
    except AdvbenchError as error:
        return _tell(str(error), error.exit_code)
    except (OSError, MemoryError, RuntimeError) as error:
        if not (why := refused(error)):
            raise
        return _tell(why)
    except TyperException as error:
        said = " ".join(error.format_message().split()).rstrip(".")
        return _tell(f"{said}; --help lists what there is")
    if code == INTERRUPTED:
        _tell("stopped; the same command goes on from the last whole epoch or step")
    return int(code)


def _tell(text: str, exit_code: int = 2) -> int:
    """One line on stderr; the exit status."""
    sys.stderr.write(f"advbench: {one_line(text)}\n")
    return exit_code
