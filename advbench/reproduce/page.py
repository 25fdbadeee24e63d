"""The page of the reproduction, and the files that leave with it: figures, tables, rows, manifest, model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advbench.formatting import percent
from advbench.report import plots
from advbench.report.page import environment, interval
from advbench.reproduce import search
from advbench.reproduce.charts import security_drawings
from advbench.reproduce.experiment import Experiment
from advbench.reproduce.models import Reproduction
from advbench.reproduce.records import PaperModel, Record, ReproductionRow
from advbench.reproduce.rows import rows
from advbench.reproduce.tables import arrange, by_key, ours, to_csv, to_latex
from advbench.reproduce.verdict import verdict
from advbench.runs import Run, to_json, write_whole
from advbench.runs.environment import describe


def write_rows(book: Reproduction) -> list[ReproductionRow]:
    """results.json from the records there are; its rows."""
    found = rows(book.experiment, book.records(), book.answered(), book.diverged())
    write_whole(book.home / "results.json", to_json({"schema": 1, "rows": found}))
    return found


@plots.own_style
def write_page(book: Reproduction, evaluated: Mapping[PaperModel, Run]) -> Path:
    """index.html and all that lies beside it; figures of models that are not here stay as they were drawn before."""
    experiment, home, found, kept = book.experiment, book.home, write_rows(book), book.records()
    arranged = {one.table.key: one for one in arrange(experiment.tables, found, kept)}
    for key, table in arranged.items():
        write_whole(home / "tables" / f"{key}.csv", to_csv(table))
        write_whole(home / "tables" / f"{key}.tex", to_latex(table, experiment))
    for drawing in (*experiment.drawings(evaluated, found), *security_drawings(experiment, found)):
        svg = plots.to_svg(drawing.picture, drawing.label, drawing.key, sized=True)
        write_whole(home / "figures" / f"{drawing.key}.svg", svg.encode())
        write_whole(home / "figures" / f"{drawing.key}.pdf", plots.to_pdf(drawing.picture))
    write_whole(home / "manifest.json", to_json(manifest := _manifest(experiment, kept)))
    write_whole(home / "weights" / "README.md", _rendered("weights.md", experiment, records=kept).encode())
    tried = search.rows_in(home / search.FILE)
    html = _rendered(
        "reproduction.html",
        experiment,
        tables=arranged,
        drawings=_drawn(home / "figures"),
        ours=ours,
        interval=interval,
        percent=percent,
        records={record.cell: record for record in kept},
        diverged={record.cell: record for record in book.diverged()},
        tuning=tried,
        rate_means=search.mean_errors(tried),
        manifest=manifest,
        findings=_findings(home),
        conclusions=list(experiment.conclusions(by_key(found))),
        verdict=verdict(experiment, by_key(found)),
    )
    write_whole(home / "index.html", html.encode())
    return home / "index.html"


def _rendered(name: str, experiment: Experiment, **given: Any) -> str:
    """The experiment's own words in the template, where there are any: `reproduction-mnist.html.j2`."""
    stem, ending = name.split(".")
    own = [f"{stem}-{experiment.name}.{ending}.j2", f"{name}.j2"]
    return environment().select_template(own).render(experiment=experiment, **given)


def _findings(home: Path) -> list[str]:
    """What people wrote about gaps to the paper, a paragraph each: findings.txt, shown as text."""
    file = home / "findings.txt"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def _drawn(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures in the folder by number (`fig1` ..., `security`), each as inline SVG with its label as text."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.svg")):
        svg = path.read_text(encoding="utf-8")
        label = svg[svg.index("<title>") + len("<title>") : svg.index("</title>")]
        files = {kind: f"figures/{path.stem}.{kind}" for kind in ("pdf", "svg")}
        shown = {"label": Markup(label), "picture": Markup(svg), "files": files}
        found.setdefault(path.stem.partition("-")[0], []).append(shown)
    return found


def _manifest(experiment: Experiment, records: Sequence[Record]) -> dict[str, Any]:
    """Settings and versions of the page and of each model; no host, user or path."""
    return {
        "schema": 1,
        "made_with": describe("cpu"),
        "seeds": sorted({model.seed for model in experiment.models}),
        "models": {
            r.cell.name: {"model": r.model, "environment": r.environment, "weights": r.weights, "seconds": r.seconds}
            for r in records
        },
        "licence": experiment.licence,
    }
