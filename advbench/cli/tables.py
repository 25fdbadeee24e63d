"""Rows as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advbench.errors import printable
from advbench.formatting import as_text
from advbench.runs import AdaptiveRow, Attacked, AttackRow, ModelRow, TrainingRow, VerifyRow
from advbench.runs.rows import DoctorRow, RunRow

if TYPE_CHECKING:
    from advbench.audit import CanaryRow
    from advbench.cli.listing import PluginRow
    from advbench.report.adaptive import Shown
    from advbench.reproduce.records import ReproductionRow
    from advbench.reproduce.run import CheckRow

R = TypeVar("R")
Column = tuple[str, Callable[[R], str]]


def percent(value: float | None) -> str:
    """A rate in per cent, without the sign that the column's head has; undefined is n/a."""
    return "n/a" if value is None else f"{value:.1%}".removesuffix("%")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A rate and its 95 % interval, in per cent."""
    return "n/a" if value is None else f"{percent(value)} [{percent(low)}, {percent(high)}]"


def undetected(row: AdaptiveRow) -> str:
    """The undetected errors, with their interval."""
    return interval(row.undetected_error_rate, row.undetected_error_low, row.undetected_error_high)


def model(row: ModelRow) -> str:
    """Data set, regime unless standard, loss and its settings, seed, and the run's folder."""
    if row.loss is None:
        return f"{row.dataset}, supplied model: {row.run}"
    settings = [f"{k} {v:g}" for k, v in (("alpha", row.alpha), ("lam", row.lam)) if v is not None]
    settings += ["diagonal covariance"] if row.covariance == "diagonal" else []
    loss = f"{row.loss} ({', '.join(settings)})" if settings else row.loss
    regime = "" if row.training == "standard" else f"{row.training} "
    return f"{row.dataset}, {regime}{loss}, seed {row.seed}: {row.run}"


def attack(row: Attacked) -> str:
    """Name, eps, and the settings that are not the default, without the detector that an adaptive attack knows."""
    return f"{row.attack} {as_text(row.eps)}" + "".join(f" {k}={v}" for k, v in row.own_settings.items())


def _figure(value: float) -> str:
    return f"{value:.0f} images" if value >= 1 or value == 0 else f"{100 * value:.2f} %"


# heads are broken by hand: the figures, not the words, set the widths
VERIFY: list[Column[VerifyRow]] = [
    ("attack", attack),
    ("detector", lambda r: r.detector),
    ("EER %\n[95 %]", lambda r: interval(r.eer, r.eer_low, r.eer_high)),
    ("AUROC\n%", lambda r: percent(r.auroc)),
    ("TPR %\n@5 %", lambda r: percent(r.tpr_at_fpr05)),
    ("n", lambda r: f"{r.n_clean}+{r.n_attacked}"),
]
TRAINED: list[Column[TrainingRow]] = [
    ("epochs", lambda r: str(r.epochs)),
    ("validation\nerror %", lambda r: percent(r.validation_error_rate)),
    ("test\nerror %", lambda r: percent(r.clean_error_rate)),
    ("n test", lambda r: str(r.n)),
]
ATTACK: list[Column[AttackRow]] = [
    ("attack", attack),
    ("n", lambda r: str(r.n)),
    ("clean\nerror %", lambda r: percent(r.clean_error_rate)),
    ("error\n%", lambda r: percent(r.error_rate)),
    ("success\n%", lambda r: percent(r.success_rate)),
    ("target\n%", lambda r: "-" if r.target_rate is None else percent(r.target_rate)),
    ("zero\ngradients", lambda r: "-" if r.zero_gradients is None else str(r.zero_gradients)),
    ("saturated", lambda r: str(r.saturated)),
]
EVASION: list[Column[AdaptiveRow]] = [
    ("attack", lambda r: attack(r).replace(" ", "\n")),
    ("detector", lambda r: r.detector if r.fpr is None else f"{r.detector}\nat {100 * r.fpr:g} %"),
    ("n", lambda r: str(r.n)),
    ("undetected\nerror % [95 %]", lambda r: undetected(r).replace(" ", "\n", 1)),
    ("FGSM\n%", lambda r: percent(r.fgsm_undetected_error_rate)),
    ("error\n%", lambda r: percent(r.error_rate)),
    ("clean %\nerr./rej.", lambda r: f"{percent(r.clean_error_rate)}/{percent(r.clean_rejected)}"),
]
RUNS: list[Column[RunRow]] = [
    ("trained", lambda r: "yes" if r.trained else "no"),
    ("attacks", lambda r: "\n".join(r.attacks) or "-"),
]
DOCTOR: list[Column[DoctorRow]] = [
    ("state", lambda r: r.state + (", mended" if r.mended else "")),
    ("broken", lambda r: "\n".join(f"{b.file}: {b.why}" for b in r.broken) or "-"),
    ("done again", lambda r: "\n".join(r.redone) or "-"),
    ("needs", lambda r: "\n".join(r.needs) or "-"),
    ("left over", lambda r: "\n".join(r.left) or "-"),
]
SELFTEST: list[Column[CanaryRow]] = [
    ("canary", lambda r: r.canary),
    ("expected", lambda r: r.expected),
    ("found", lambda r: r.found.rpartition(": ")[2]),
    ("", lambda r: "ok" if r.met else "MISSED"),
]
LISTED: list[Column[PluginRow]] = [("name", lambda r: r.name), ("what it is", lambda r: r.summary)]
REPRODUCED: list[Column[ReproductionRow]] = [
    ("loss", lambda r: r.loss),
    ("setting", lambda r: r.setting),
    ("seeds", lambda r: str(len(r.seeds))),
    ("mean\n%", lambda r: "not run" if r.mean is None else f"{100 * r.mean:.2f}"),
    ("std", lambda r: "-" if r.std is None else f"{100 * r.std:.2f}"),
    ("paper\n%", lambda r: "-" if r.paper is None else f"{100 * r.paper:.2f}"),
]
CHECKED: list[Column[CheckRow]] = [
    ("figure", lambda r: r.figure),
    ("committed", lambda r: _figure(r.committed)),
    ("found", lambda r: _figure(r.found)),
    ("within", lambda r: "yes" if r.met else "NO"),
]
VERIFY_NOTE = (
    "EERs: zero-knowledge attacks, all attacked images against all clean ones. "
    "TPR @5 %: share of attacked images above the threshold that 5 % of the calibration images exceed. Intervals "
    "by bootstrap over images. Other populations and thresholds: --json, or the report."
)
ATTACK_NOTE = (
    "Success: of the images classified rightly before, those with a wrong label after; target: those with the "
    "target's. Saturated: true-class posterior exactly 1 in float32. Zero gradients: nothing to follow, see "
    "--exact-gradient."
)
EVASION_NOTE = (
    "Undetected error: of all images, those that are wrong and pass the detector that the attack knows, at a "
    "threshold fixed on clean calibration images; its interval resamples calibration and test images. Error: wrong, "
    "detected or not. FGSM knows no detector: the gap is what the detector owes to a careless attacker."
)


@dataclass(frozen=True)
class Layout:
    """How rows of one kind are printed: a table for each group, that of `title`, and a note below all of them."""

    columns: list[Column[Any]]
    title: Callable[[Any], str] = lambda row: ""
    note: str = ""
    words: bool = False  # instead of figures, which stand to the right


LAYOUTS = {  # by the row's class, in this order
    "TrainingRow": Layout(TRAINED, lambda r: r.model.run),
    "AttackRow": Layout(ATTACK, lambda r: model(r.model), ATTACK_NOTE),
    "AdaptiveRow": Layout(EVASION, lambda r: model(r.model), EVASION_NOTE),
    "VerifyRow": Layout(VERIFY, lambda r: model(r.model), VERIFY_NOTE),
    "RunRow": Layout(RUNS, lambda r: r.model.run),
    "PluginRow": Layout(LISTED, words=True),
    "ReproductionRow": Layout(REPRODUCED, lambda r: r.table),
    "CheckRow": Layout(CHECKED, lambda r: r.cell),
    "DoctorRow": Layout(DOCTOR, lambda r: r.run, words=True),
    "CanaryRow": Layout(SELFTEST, words=True),
}


def show(rows: Sequence[Any], aware: Mapping[str, tuple[Shown, str | None]] | None = None) -> None:
    """Print rows on stdout, a table for each model; of verify rows, the population `all`.

    Attacks that know a detector have a table of their own; `aware` holds it for verify rows, by run.
    """
    console = Console(highlight=False)
    for kind in sorted({type(row).__name__ for row in rows}, key=[*LAYOUTS].index):
        layout, groups = LAYOUTS[kind], dict[str, list[Any]]()
        for row in rows:
            if type(row).__name__ == kind and (not isinstance(row, VerifyRow) or row.population == "all"):
                groups.setdefault(layout.title(row), []).append(row)
        for head, members in groups.items():
            if head:
                console.print(Text(printable(head), "bold"), soft_wrap=True)
            if blind := [r for r in members if not (isinstance(r, VerifyRow) and r.is_adaptive)]:
                _print(console, layout, blind)
            if aware is not None and kind == "VerifyRow":
                known, command_line = aware[members[0].model.run]
                if known.rows:
                    _print(console, LAYOUTS["AdaptiveRow"], list(known.rows.values()))
                if known.missing:
                    left = f"detector-aware: not run against {', '.join(known.missing)}; {command_line}"
                    console.print(printable(left), markup=False, soft_wrap=True)
                    console.print()
        if groups and layout.note:
            console.print(layout.note, markup=False)
    if aware and any(known.rows for known, _ in aware.values()):
        console.print(EVASION_NOTE, markup=False)


def _print(console: Console, layout: Layout, rows: Sequence[Any]) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, (name, _) in enumerate(layout.columns):
        numeric = not layout.words and i > 0 and name not in ("detector", "attacks")
        whole = numeric or layout.columns is EVASION
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text("\n".join(map(printable, cell(row).split("\n")))) for _, cell in layout.columns))
    console.print(table)
    console.print()
