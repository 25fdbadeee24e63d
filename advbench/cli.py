"""The command line: parse, one pipeline call, one table or one JSON object."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advbench import catalog
from advbench.cli_options import ATTACK, JSON, MACHINE, MODEL, PLACE, PLURAL, SELECT, Options, takes
from advbench.errors import AdvbenchError, BadSetting, UnknownName

if TYPE_CHECKING:
    from advbench.pipeline import Place, Study
    from advbench.selection import Found, Selection

app = typer.Typer(
    help="How far can an image classifier and its adversarial-example detector be trusted?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Row = dict[str, Any]


@app.command()
@takes(MODEL, MACHINE, PLACE, JSON)
def train(options: Options) -> None:
    """Train one model, or find it trained."""
    emit("train", _study(_model_table(options), options).train(), options)


@app.command()
@takes(MODEL, ATTACK, MACHINE, PLACE, JSON)
def attack(options: Options) -> None:
    """Attack one model at one eps or several; it is trained first where it does not exist yet."""
    table = _model_table(options) | {"attacks": _attacks(options, ["fgsm"]), "n": options["n"]}
    emit("attack", _study(table, options).attack(), options)


@app.command()
@takes(SELECT, PLACE, JSON)
def verify(options: Options) -> None:
    """EERs of the detectors on every attacked model found, or on those selected."""
    from advbench import pipeline

    place = _place(options)
    rows = pipeline.verify_found(_found(options, place), _detectors(options), place.progress)
    emit("verify", rows, options)


@app.command()
@takes(SELECT, PLACE, {"name": PLURAL["name"]}, JSON)
def report(options: Options) -> None:
    """Write an HTML page about every attacked model found, or about those selected."""
    from advbench import pipeline
    from advbench.spec import folder_name

    place = _place(options)
    found = _found(options, place)
    datasets = {f.run.model["dataset"] for f in found}
    default = f"{datasets.pop()}-study" if len(datasets) == 1 else "all-data-sets"
    name = folder_name(default if options["name"] is None else options["name"])
    page, rows = pipeline.report(name, found, _detectors(options), place)
    emit("report", rows, options, page)


@app.command()
@takes(PLURAL, MODEL, ATTACK, MACHINE, PLACE, JSON)
def run(
    options: Options,
    spec: Annotated[Path | None, typer.Argument(help="A TOML file; options override what it says.")] = None,
) -> None:
    """Train, attack, verify and report: a whole study."""
    from advbench.spec import read_toml

    table = {} if spec is None else read_toml(spec)
    table |= {k: v for k, v in _plural_table(options, table).items() if v is not None}
    study = _study(table, options)
    page, rows = study.run()
    emit("run", rows, options, page)


@app.command("list")
@takes({k: v for k, v in PLACE.items() if k == "runs_dir"}, JSON)
def list_(
    options: Options,
    what: Annotated[str, typer.Argument(help="losses, attacks, detectors, networks, datasets or runs")],
) -> None:
    """What there is: losses, attacks, detectors, networks, data sets, runs."""
    kinds = {
        "losses": "loss", "attacks": "attack", "detectors": "detector", "networks": "network", "datasets": "data set",
    }  # fmt: skip
    if what == "runs":
        from advbench.selection import listing

        rows = listing(Path(options["runs_dir"]))
    elif what in kinds:
        rows = [{"name": n, "summary": catalog.summary(kinds[what], n)} for n in catalog.names(kinds[what])]
    else:
        raise UnknownName("list", what, [*kinds, "runs"])
    emit("list", rows, options, table="runs" if what == "runs" else "list")


# -- from options to records -------------------------------------------------------------------------------------


def _model_table(options: Options) -> dict[str, Any]:
    """The part of a spec that `train` and `attack` state: one loss, one seed."""
    table = _training_table(options, {})
    table["losses"] = [{"name": options["loss"] or "softmax", **_loss_settings(options)}]
    table["seeds"] = [0 if options["seed"] is None else whole(options["seed"], "seed")]
    return {k: v for k, v in table.items() if v is not None}


def _plural_table(options: Options, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What `run`'s options say beyond its spec: lists where the spec has lists."""
    from advbench.spec import DEFAULTS

    table = _training_table(options, spec)
    settings = _loss_settings(options)
    names = words(options["loss"], "loss")
    losses: Any = spec.get("losses", DEFAULTS["losses"]) if names is None else names
    if settings:
        losses = _with_settings(losses, settings)
    table["losses"] = losses if names is not None or settings else None
    table["seeds"] = (
        None if options["seed"] is None else [whole(s, "seed") for s in words(options["seed"], "seed") or []]
    )
    given = (options["attack"], options["eps"], options["clip"], options["exact_gradient"])
    if any(value is not None for value in given):
        entries = spec.get("attacks", DEFAULTS["attacks"])
        entries = [entries] if isinstance(entries, (str, Mapping)) else entries
        usual = [e["name"] if isinstance(e, Mapping) else e for e in entries]
        table["attacks"] = _attacks(options, usual)
    table["detectors"] = words(options["detector"], "detector")
    table["n"] = options["n"]
    table["name"] = options["name"]
    return table


def _with_settings(losses: Any, settings: Mapping[str, Any]) -> list[Any]:
    """Give each loss those of `settings` it has; a setting that none has is refused."""
    from advbench.settings import parameters

    entries = [{"name": e} if isinstance(e, str) else dict(e) for e in losses]
    unused = set(settings)
    for entry in entries:
        own = set(parameters(catalog.load("loss", entry["name"]))) & set(settings)
        entry |= {k: settings[k] for k in own}
        unused -= own
    if unused:
        names = ", ".join(e["name"] for e in entries)
        raise BadSetting(
            f"{', '.join(sorted(unused))} is no setting of {names}; leave it out or add a loss that has it"
        )
    return entries


def _loss_settings(options: Options) -> dict[str, Any]:
    keys = ("alpha", "lam", "covariance", "log_var_floor", "weight", "centre_step")
    return {k: options[k] for k in keys if options[k] is not None}


def _training_table(options: Options, spec: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("epochs", "learning_rate", "momentum", "weight_decay", "warmup", "precision", "full_train")
    training = {k: options[k] for k in keys if options[k] is not None}
    if options["train_batch_size"] is not None:
        training["batch_size"] = options["train_batch_size"]
    of_spec = spec.get("training", {})
    return {
        "dataset": options["dataset"],
        "network": options["network"],
        "feature_dim": None if options["feature_dim"] is None else whole(options["feature_dim"], "feature_dim"),
        "training": {**of_spec, **training} if training and isinstance(of_spec, Mapping) else spec.get("training"),
    }


def _attacks(options: Options, usual: Sequence[str]) -> list[Row]:
    shared = {k: options[k] for k in ("clip", "exact_gradient") if options[k] is not None}
    if options["eps"] is not None:
        shared["eps"] = words(options["eps"], "eps")
    return [{"name": name, **shared} for name in words(options["attack"], "attack") or usual]


def words(value: str | None, name: str) -> list[str] | None:
    """A comma-separated option as a list; None stays None, an empty entry is refused."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise BadSetting(f"{name} = {value!r} has an empty entry; write for example --{name} a,b")
    return parts


def whole(value: str, name: str) -> int:
    """A whole number from text."""
    try:
        return int(value)
    except ValueError:
        raise BadSetting(f"{name} = {value!r} is not a whole number; write for example --{name} 0") from None


def _study(table: Mapping[str, Any], options: Options) -> Study:
    from advbench.pipeline import Study
    from advbench.spec import parse

    return Study(parse(table), _place(options))


def _place(options: Options) -> Place:
    import torch

    from advbench.pipeline import Place
    from advbench.progress import Terminal
    from advbench.types import resolve_device

    if options.get("threads") is not None:
        if options["threads"] < 1:
            raise BadSetting(f"threads = {options['threads']} is out of range; it must be at least 1")
        torch.set_num_threads(options["threads"])
    data_dir = options.get("data_dir")
    return Place(
        runs_dir=Path(options["runs_dir"]),
        reports_dir=Path(options["reports_dir"]),
        data_dir=None if data_dir is None else Path(data_dir),
        download=bool(options.get("download")),
        device=resolve_device(options.get("device")),
        batch_size=256 if options.get("batch_size") is None else options["batch_size"],
        progress=Terminal(),
    )


def _found(options: Options, place: Place) -> list[Found]:
    from advbench import selection

    return selection.find(place.runs_dir, _selection(options))


def _selection(options: Options) -> Selection:
    from advbench.contracts import check_eps
    from advbench.selection import Selection
    from advbench.settings import number

    wanted: dict[str, tuple[Any, ...]] = {}
    for field, kind in (("dataset", "data set"), ("loss", "loss"), ("attack", "attack")):
        names = words(options[field], field)
        for name in names or []:
            catalog.load(kind, name)
        if names:
            wanted[field] = tuple(names)
    for field in ("eps", "alpha", "lam"):
        values = words(options[field], field)
        if values:
            wanted[field] = tuple(number(v, field) for v in values)
    for eps in wanted.get("eps", ()):
        check_eps(eps)
    if options["seed"] is not None:
        wanted["seed"] = tuple(whole(s, "seed") for s in words(options["seed"], "seed") or [])
    if options["covariance"] is not None:
        wanted["covariance"] = (options["covariance"],)
    return Selection(wanted)


def _detectors(options: Options) -> list[str]:
    names = words(options["detector"], "detector") or list(catalog.names("detector"))
    for name in names:
        catalog.load("detector", name)
    return list(dict.fromkeys(names))


# -- out ---------------------------------------------------------------------------------------------------------


def emit(
    command: str, rows: list[Row], options: Options, page: Path | None = None, table: str | None = None
) -> None:
    """Rows as JSON (and nothing else on stdout), or as a table (the command's own) and the page's path."""
    if options["json"]:
        sys.stdout.write(json.dumps({"schema": 1, "command": command, "rows": rows}, allow_nan=False) + "\n")
        if page is not None:
            sys.stderr.write(f"{page}\n")
        return
    from advbench.cli_tables import show

    show(table or command, rows)
    if page is not None:
        sys.stdout.write(f"{page}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the process's exit status."""
    # tiny kernels on busy cores: spinning threads cost more than they save (read when torch is imported)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command: Callable[..., Any] = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="advbench", standalone_mode=True)  # type: ignore[attr-defined]
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except AdvbenchError as error:
        sys.stderr.write(f"advbench: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("advbench: stopped; the same command goes on from the last whole epoch or step\n")
        return 130
    return 0
