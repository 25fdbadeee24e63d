"""What `advbench reproduce mnist` does: bring the grid on, or check it against its kept weights."""

import tempfile
from dataclasses import replace
from pathlib import Path

from advbench.errors import BadSetting
from advbench.grid.engine import Engine
from advbench.reproduce import records, security, tuning
from advbench.reproduce.ahead import Ahead
from advbench.reproduce.cells import chosen
from advbench.reproduce.grid import Grid, compare
from advbench.reproduce.page import write_page, write_rows
from advbench.runs import Row
from advbench.study.workspace import Workspace


def complete(
    place: Workspace,
    names: list[str] | None,
    *,
    train: bool,
    cells: bool = True,
    engine: Engine | None = None,
    device: str = "cpu",
) -> tuple[Path, list[Row]]:
    """Every cell of these names finished and probed, its rows written as soon as they are, then the page.

    Returns the page's path and rows. Without `train`, cells that have no weights stay as they are, and trials that
    are missing stay so. Without `cells`, only the attacks that know a detector are run, on what has weights. An
    `engine` trains (on `device`) and attacks; without one, this process does.
    """
    grid = Grid(place)
    tunes = train and cells and names is None
    models = chosen(names) if cells else []
    if engine is not None:
        ahead = Ahead(grid, engine, device)
        if tunes:
            ahead.tune()
        ahead.train(models if train else [])
        ahead.evaluate(models)
        ahead.ask(names)
    else:
        if tunes:
            tuning.tune(grid)
        for model in models:
            if train or grid.weights(model).exists():
                place.progress.say(f"cell {model.name}")
                grid.finish(model)
                write_rows(grid)
        security.ask(grid, names, lambda: write_rows(grid))
    page = write_page(grid, grid.evaluated())
    return page, write_rows(grid)


def check(place: Workspace, names: list[str] | None) -> list[Row]:
    """Table 6 and the EERs, derived again from kept weights in a temporary folder, beside the committed figures."""
    committed = Grid(place)
    cells = [
        cell
        for cell in chosen(names)
        if cell.dim == 100
        and cell.attacked
        and committed.weights(cell).exists()
        and committed.record_file(cell).exists()
    ]
    if not cells:
        raise BadSetting(
            f"nothing to check: {committed.home} holds no 100-D weights with a record; name another --reports-dir"
        )
    found = []
    with tempfile.TemporaryDirectory(prefix="advbench-check-") as folder:
        grid = Grid(replace(place, runs_dir=Path(folder)))
        grid.splits = committed.splits
        for cell in cells:
            place.progress.say(f"cell {cell.name}")
            run, verify = grid.evaluate(cell, cell.attacks(core=True))
            found.append(records.record_of(cell, run, verify, {}))
    return compare(committed.records(), found)
