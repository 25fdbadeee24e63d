"""A cell's record: everything its model contributes to the page's figures, in one JSON file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from advbench.errors import BadRun
from advbench.report.likelihood_axis import LOW, SURE, LikelihoodAxis
from advbench.reproduce.cells import Cell
from advbench.runs import AttackRow, Run, VerifyRow, artifacts, as_json
from advbench.study.selection import attack_rows

Record = dict[str, Any]
SCHEMA = 1


def record_of(cell: Cell, run: Run, verify: list[VerifyRow], weights: dict[str, Any]) -> Record:
    """The record of an evaluated run. `weights` says which file was evaluated (name, sha256, bytes)."""
    test = artifacts.read_part(run, "test")
    wrong = (test.outputs.predictions != test.labels).nonzero().squeeze(1).tolist()
    attacks = attack_rows(run)
    return {
        "schema": SCHEMA,
        "cell": {"loss": cell.loss, "dim": cell.dim, "seed": cell.seed},
        "weights": weights,
        "model": as_json(run.model),
        "history": [json.loads(line) for line in run.read("training.jsonl").decode().splitlines()],
        "seconds": run.seconds("train"),
        "environment": as_json(run.environment),
        "n": len(test),
        "wrong": wrong,
        "within_variance": within_variance(artifacts.read_part(run, "train")),
        "attacks": as_json(list(attacks.values())),
        "verify": [as_json(row) for row in verify if row.population == "all"],
        "shares": shares(run, attacks) if attacks else [],
    }


def within_variance(part: artifacts.Part) -> float:
    """Share of the features' variance that lies within classes: 0 = each class one point, 1 = no clusters."""
    x, z = part.outputs.features.double(), part.labels
    means = x.new_zeros(int(z.max()) + 1, x.shape[1]).index_add_(0, z, x) / z.bincount()[:, None]
    within = (x - means[z]).square().sum()
    return float(within / (x - x.mean(dim=0)).square().sum())


def shares(run: Run, attacks: dict[str, AttackRow]) -> list[dict[str, Any]]:
    """For each attack: shares of clean and attacked images with a low likelihood and with a large p_max."""
    table, found = artifacts.read_scores(run), []
    for name, row in attacks.items():
        axis = LikelihoodAxis.of_run(run, table, name)
        low = {"low_clean": float((axis.clean < LOW).mean()), "low_attacked": float((axis.attacked < LOW).mean())}
        p_max = [np.exp(-artifacts.scores_of(table, "max-posterior", s)[: row.n]) for s in ("test", name)]
        sure = {k: float((p > SURE).mean()) for k, p in zip(("sure_clean", "sure_attacked"), p_max, strict=True)}
        found.append({"attack": row.attack, "eps": row.eps, "settings": row.settings, "n": row.n} | low | sure)
    return found


def read(path: Path) -> Record:
    """A record; raises BadRun where the file is not one."""
    try:
        record: Record = json.loads(path.read_bytes())
        cell = record["cell"]
        sound = record["schema"] == SCHEMA and path.stem == Cell(cell["loss"], cell["dim"], cell["seed"]).name
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRun(f"{path} cannot be read ({type(error).__name__}: {error}); restore or delete it") from error
    if not sound:
        raise BadRun(f"{path} is no record of schema {SCHEMA} of the cell it is named after; restore or delete it")
    return record
