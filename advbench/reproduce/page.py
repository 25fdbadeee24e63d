"""The page of the reproduction, and the files that leave with it: figures, tables, rows, manifest, model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advbench.formatting import percent
from advbench.report import plots
from advbench.report.page import environment, interval
from advbench.reproduce import paper, security_rows, tables, tuning
from advbench.reproduce.arranged import Rows
from advbench.reproduce.cells import SEEDS, Cell, chosen
from advbench.reproduce.drawings import drawings
from advbench.reproduce.grid import Grid
from advbench.reproduce.records import Record
from advbench.reproduce.rows import rows
from advbench.reproduce.security_drawings import security_drawings
from advbench.reproduce.verdict import verdict
from advbench.runs import Row, Run, to_json, write_whole
from advbench.runs.environment import describe


def all_rows(cells: Sequence[Record], security: Mapping[str, Record]) -> list[Row]:
    """The rows of results.json: the paper's experiments, then the attacks that know a detector."""
    return rows(cells) + security_rows.rows(security, cells)


def write_rows(grid: Grid) -> list[Row]:
    """results.json from the records there are; its rows."""
    found = all_rows(grid.records(), grid.security())
    write_whole(grid.home / "results.json", to_json({"schema": 1, "rows": found}))
    return found


@plots.own_style
def write_page(grid: Grid, evaluated: Mapping[str, Run]) -> Path:
    """index.html and all that lies beside it; figures of cells that are not here stay as they were drawn before."""
    found, kept = write_rows(grid), grid.records()
    arranged = tables.tables(found, kept)
    for key, table in arranged.items():
        write_whole(grid.home / "tables" / f"{key}.csv", tables.to_csv(table))
        write_whole(grid.home / "tables" / f"{key}.tex", tables.to_latex(table))
    for drawing in (*drawings(evaluated), *security_drawings(found)):
        svg = plots.to_svg(drawing.figure, drawing.label, drawing.key, sized=True)
        write_whole(grid.home / "figures" / f"{drawing.key}.svg", svg.encode())
        write_whole(grid.home / "figures" / f"{drawing.key}.pdf", plots.to_pdf(drawing.figure))
    manifest = _manifest(kept)
    write_whole(grid.home / "manifest.json", to_json(manifest))
    write_whole(grid.home / "weights" / "README.md", model_card(kept).encode())
    page = environment().get_template("reproduction.html.j2")
    html = page.render(
        tables=arranged,
        drawings=_drawn(grid.home / "figures"),
        ours=tables.ours,
        remark=tables.remark,
        interval=interval,
        percent=percent,
        labels=paper.LABELS,
        cells=_cells(kept),
        tuning=tuning.read(grid),
        rate_means=tuning.mean_errors(tuning.read(grid)),
        manifest=manifest,
        licence=paper.LICENCE,
        counts=_counts(found),
        findings=_findings(grid.home),
        verdict=verdict(Rows(found)),
        epochs=epochs_of(kept),
    )
    target = grid.home / "index.html"
    write_whole(target, html.encode())
    return target


def epochs_of(records: Sequence[Record]) -> str:
    """The numbers of epochs that models were trained for, as text."""
    return " or ".join(str(e) for e in sorted({len(r["history"]) for r in records})) or "no"


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


def _cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A line for every cell of the grid; `record` None where it has not run."""
    held = {Cell(**r["cell"]).name: r for r in records}
    return [{"cell": cell, "record": held.get(cell.name)} for cell in chosen(None)]


def _counts(found: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Shares of zero and saturated gradients by (loss + setting) of Table 6 and the targeted rows."""
    return {
        row["loss"] + row["setting"]: {k: row[k] for k in ("zero_gradients", "saturated")}
        for row in found
        if row.get("saturated") is not None
    }


def _manifest(records: Sequence[Record]) -> dict[str, Any]:
    """Settings and versions of the page and of each model; no host, user or path."""
    return {
        "schema": 1,
        "made_with": describe("cpu"),
        "seeds": list(SEEDS),
        "models": {
            Cell(**r["cell"]).name: {k: r[k] for k in ("model", "environment", "weights", "seconds")} for r in records
        },
        "licence": paper.LICENCE,
    }


def model_card(records: Sequence[Record]) -> str:
    """A model card for the folder of released weights."""
    lines = [
        "# Released weights: MNIST classifiers of `advbench reproduce mnist`",
        "",
        "Six 5x5 convolutions (32, 32, 64, 64, 128, 128 channels, PReLU, max-pool 2 after each pair) and one fully",
        "connected layer to 2-D or 100-D features (Wen et al. 2016; Wan et al. 2018, sec. 4.1), with the head of the",
        "loss in the file's name: softmax, softmax + center loss, L-Softmax, L-GM (its margin alpha in the name).",
        "",
        "- Format: safetensors, float16, read as float32; the metadata hold settings, history and versions.",
        "- Training: 50,000 of MNIST's 60,000 training images; 5,000 for settings, 5,000 for thresholds.",
        "- Input: 1 x 28 x 28, grey levels in [0, 1]; scaled inside the network.",
        "- Use: `advbench attack --dataset mnist --loss lgm --eps 0.3` finds them. They exist so that published",
        "  figures on detecting adversarial images can be checked. They are not robust: see `../index.html`.",
        "- Limits: one network, one data set; the EERs are zero-knowledge results.",
        "",
        "| file | test error | validation error | sha256 |",
        "|---|---|---|---|",
    ]
    for record in records:
        if record["weights"]["released"]:
            error, last = len(record["wrong"]) / record["n"], record["history"][-1]
            lines.append(
                f"| `{record['weights']['file']}` | {100 * error:.2f} % | {100 * last['validation_error']:.2f} % | "
                f"`{record['weights']['sha256'][:16]}` |"
            )
    return "\n".join([*lines, "", paper.LICENCE, "The weights are derived from it.", ""])
