"""Write a study's or some runs' page, verifying what is missing."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from advbench.errors import BadSetting
from advbench.progress import Quiet
from advbench.runs import SuppliedRecord, VerifyRow, check_folder, load, sealed_json, text_of, write_whole
from advbench.study.selection import Found, attack_rows
from advbench.study.study import Study
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace

RUN_ON_PAGE = re.compile('<meta name="advbench.run" content="(.*?)">')


def page_at(page: Path, runs: Collection[str], workspace: Workspace) -> Path:
    """Where the page over `runs` is written; raises BadSetting where another file there is not to be lost."""
    check_folder(page.parent)
    before = {html.unescape(name) for name in RUN_ON_PAGE.findall(text_of(page))}
    if workspace.others == "replaced" or not page.exists() or (before and before <= set(runs)):
        return page
    if workspace.others == "refused":
        raise BadSetting(
            f"{page} would be lost, which is over other models or not of this advbench; give the new page another "
            "name, or --overwrite (in Python: another path, or overwrite=True)"
        )
    name = min(runs) if len(runs) == 1 else f"{page.parent.name}-{sealed_json.digest(sorted(runs))}"
    own = page.parent.with_name(name)
    workspace.progress.say(f"{page} is not over these models alone and stays; their page is written to {own}")
    return page_at(own / page.name, runs, replace(workspace, others="refused"))


def page_of(study: Study) -> Path:
    """Where a study's page is written; raises BadSetting as `page_at` does."""
    about = [model.run_name(study.fingerprint) for model in study.models()]
    return page_at(study.workspace.reports_dir / study.spec.name / "index.html", about, study.workspace)


def run(study: Study) -> tuple[Path, list[VerifyRow]]:
    """Attack what a study is about, verify it and write its page: the page's path, and the verify rows."""
    page = page_of(study)
    study.attack()
    names, spec, workspace = tuple(choice.file_name for choice in study.attacks), study.spec, study.workspace
    made = [load(workspace.runs_dir / model.run_name(study.fingerprint)) for model in study.models()]
    own = [Found(run, names) for run in made]
    # a supplied model's page has all attacks that its run holds: it is not narrowed by the next one
    shown = [Found(run, tuple(attack_rows(run)) if isinstance(run.model, SuppliedRecord) else names) for run in made]
    page, rows = report(spec.name, shown, spec.detectors, workspace, page=page, title=spec.title, overwrite=True)
    return page, rows if shown == own else verify_found(own, spec.detectors, Quiet())


def report(
    name: str,
    found: Sequence[Found],
    detectors: Sequence[str],
    workspace: Workspace,
    *,
    page: Path | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, list[VerifyRow]]:
    """Write the page of these runs, verifying what is missing; its path and the rows on it. Raises as `page_at`."""
    from advbench.audit.protocol import audits
    from advbench.report.page import render

    reported = [one.run for one in found]
    chosen = replace(workspace, others="replaced") if overwrite else workspace
    page = page_at(page or workspace.reports_dir / name / "index.html", [run.name for run in reported], chosen)
    rows = verify_found(found, detectors, workspace.progress)
    found_by = {}
    with workspace.progress.bar(f"audit of {len(reported)} models", len(reported)) as advance:
        for done, (run_name, findings) in enumerate(audits(reported), start=1):
            found_by[run_name] = findings
            advance(done, run_name)
    write_whole(page, render(title or name, found, rows, found_by).encode())
    return page, rows
