"""Rows about runs that are on disk: their training, their detectors' scores, and the page of them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advbench import artifacts, disk, guards, locks, scoring
from advbench.place import Place
from advbench.progress import Progress
from advbench.runs import Run
from advbench.scoring import Row
from advbench.selection import Found


def training_row(run: Run) -> Row:
    """A model's row: settings, size of the training part, and its errors on validation and test."""
    test = artifacts.read_part(run, "test")
    wrong = test.outputs.predictions != test.labels
    info = run.info("train")
    return scoring.model_row(run) | {
        "network": run.model["network"],
        "feature_dim": run.model["feature_dim"],
        "epochs": run.model["training"]["epochs"],
        "n_train": info["n_train"],
        "validation_error_rate": info["validation_error"],
        "n": len(test),
        "clean_error_rate": float(wrong.double().mean()),
        "seconds": run.steps["train"]["seconds"],
    }


def verify_run(run: Run, attacks: Sequence[str], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of one run, saying so where something has to be computed, or where a detector does not apply."""
    able = guards.applicable(run, detectors)
    if len(able) < len(detectors):
        left = ", ".join(d for d in detectors if d not in able)
        progress.say(f"{run.name}: without {left}, which this run has nothing to fit on")
    detectors = able
    progress.say(f"{run.name}: {len(attacks)} attacks x {len(detectors)} detectors")
    return scoring.verify(run, attacks, detectors, progress)


def verify_found(found: Sequence[Found], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of runs found on disk."""
    rows = []
    for one in found:
        with locks.hold(one.run.folder):
            rows += verify_run(one.run, one.attacks, detectors, progress)
    return rows


def report(
    name: str,
    found: Sequence[Found],
    detectors: Sequence[str],
    place: Place,
    *,
    page: Path | None = None,
    title: str | None = None,
) -> tuple[Path, list[Row]]:
    """Write the page of these runs, verifying what is missing; its path and the rows on it.

    `page` None = `<name>/index.html` under the place's reports folder; `title` None = the name.
    """
    from advbench.audit import audit
    from advbench.report.page import render

    page = place.reports_dir / name / "index.html" if page is None else page
    disk.check_folder(page.parent)
    rows = verify_found(found, detectors, place.progress)
    reported = [one.run for one in found]
    audits = {}
    with place.progress.bar(f"audit of {len(reported)} models", len(reported)) as advance:
        for done, run in enumerate(reported, start=1):
            audits[run.name] = audit(run, reported)
            advance(done, run.name)
    disk.write_whole(page, render(title or name, found, rows, audits).encode())
    return page, rows
