"""Rows about runs that are on disk: their training, their detectors' scores, and the page of them all."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from advbench import artifacts, disk, guards, locks, scoring, seals, selection
from advbench.errors import BadSetting
from advbench.place import Place
from advbench.progress import Progress
from advbench.runs import Run
from advbench.scoring import Row
from advbench.selection import Found

RUN_ON_PAGE = re.compile('<meta name="advbench.run" content="(.*?)">')


def training_row(run: Run) -> Row:
    """A model's row: settings, size of the training part, and its errors on validation and test."""
    test = artifacts.read_part(run, "test")
    wrong = test.outputs.predictions != test.labels
    info = run.info("train")
    return scoring.model_row(run) | {
        **{key: run.model[key] for key in ("network", "feature_dim")},
        "epochs": run.model["training"]["epochs"],
        "n_train": info["n_train"],
        "validation_error_rate": info["validation_error"],
        "n": len(test),
        "clean_error_rate": float(wrong.double().mean()),
        "seconds": run.steps["train"]["seconds"],
    }


def verify_run(run: Run, attacks: Sequence[str], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of one run, saying so where something has to be computed, or where a detector does not apply."""
    for line in selection.left_out(run):
        progress.say(line)
    able = guards.applicable(run, detectors)
    if len(able) < len(detectors):
        left = ", ".join(d for d in detectors if d not in able)
        progress.say(f"{run.name}: without {left}, which this run has nothing to fit on")
    progress.say(f"{run.name}: {len(attacks)} attacks x {len(able)} detectors")
    # beside attacks on the same model, which it hinders no more than they do it
    with locks.hold(run.folder, step="verify", writes=not scoring.is_verified(run, attacks, able)):
        return scoring.verify(run, attacks, able, progress)


def verify_found(found: Sequence[Found], detectors: Sequence[str], progress: Progress) -> list[Row]:
    """Verify rows of runs found on disk."""
    return [row for one in found for row in verify_run(one.run, one.attacks, detectors, progress)]


def page_at(page: Path, runs: Collection[str], place: Place) -> Path:
    """Where the page over `runs` is written: to `page`, unless what lies there would be lost.

    A page is replaced by one over all its runs. What becomes of another file is the place's to say (`Place.others`);
    raises BadSetting where the page is refused.
    """
    disk.check_folder(page.parent)
    before = {html.unescape(name) for name in RUN_ON_PAGE.findall(disk.text_of(page))}
    if place.others == "replaced" or not page.exists() or (before and before <= set(runs)):
        return page
    if place.others == "refused":
        raise BadSetting(
            f"{page} would be lost, which is over other models or not of this advbench; give the new page another "
            "name, or --overwrite (in Python: another path, or overwrite=True)"
        )
    own = page.parent.with_name(min(runs) if len(runs) == 1 else f"{page.parent.name}-{seals.digest(sorted(runs))}")
    place.progress.say(f"{page} is not over these models alone and stays; their page is written to {own}")
    return page_at(own / page.name, runs, replace(place, others="refused"))


def report(
    name: str,
    found: Sequence[Found],
    detectors: Sequence[str],
    place: Place,
    *,
    page: Path | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, list[Row]]:
    """Write the page of these runs, verifying what is missing; its path and the rows on it.

    `page` None = `<name>/index.html` under the place's reports folder; `title` None = the name. Raises BadSetting
    where a page over other runs lies there and `overwrite` is not set.
    """
    from advbench.audit import audit
    from advbench.report.page import render

    page = place.reports_dir / name / "index.html" if page is None else page
    page = page_at(page, [o.run.name for o in found], replace(place, others="replaced") if overwrite else place)
    rows = verify_found(found, detectors, place.progress)
    reported = [one.run for one in found]
    audits = {}
    with place.progress.bar(f"audit of {len(reported)} models", len(reported)) as advance:
        for done, run in enumerate(reported, start=1):
            audits[run.name] = audit(run, reported)
            advance(done, run.name)
    disk.write_whole(page, render(title or name, found, rows, audits).encode())
    return page, rows
