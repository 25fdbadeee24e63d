"""Rows: dictionaries of named figures, as the commands print them."""

from typing import Any

from advbench.runs.run import SUPPLIED, Run

Row = dict[str, Any]
ATTACK_KEYS = ("attack", "settings", "norm", "eps")


def attack_row(run: Run, file_name: str) -> Row:
    """The `attack` row of a done attack."""
    return {**model_row(run), **run.info(f"attack {file_name}")["row"]}


def model_row(run: Run) -> Row:
    """The fields that say which model a row is about; of a supplied one, those of a training are None."""
    model = run.model
    own: Row = dict.fromkeys(("loss", "alpha", "lam", "covariance", "seed", "training"))
    if SUPPLIED in model:  # None: older than the key
        own["test_part"] = run.info("door").get("test_part")
    else:
        own |= {key: model["loss"].get(key) for key in ("alpha", "lam", "covariance")}
        own |= {"loss": model["loss"]["name"], "seed": model["seed"], "training": model["regime"]}
    return {"dataset": model["dataset"], **own, "run": run.name}
