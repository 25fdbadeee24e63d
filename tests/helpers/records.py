"""Records as a run's manifest holds them, for tests that make runs without training a model."""

from pathlib import Path
from typing import Any

from advbench import runs
from advbench.runs import AdaptiveRow, Environment, ModelRow, TrainedRecord, artifacts, as_json, sealed, to_json
from advbench.runs.growing.journal import JOURNAL
from advbench.types import Adversarials

MODEL = TrainedRecord(
    dataset="digits", data_sha256="0" * 64, network="digits-cnn", feature_dim=100, loss={"name": "softmax"},
    regime="standard", training={"epochs": 1}, seed=0,
)  # fmt: skip
MADE_WITH = Environment(versions={}, commit=None, dirty=None, device="cpu", system="Linux")
TRAINED: dict[str, Any] = {"n_train": 3, "validation_error": 0.5}
EPOCH = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "validation_error": 0.5, "learning_rate": 0.1, "seconds": 1.0}
ROW: dict[str, Any] = {
    "attack": "fgsm", "settings": {}, "norm": "linf", "eps": 0.1, "n": 3, "clean_error_rate": 0.0, "error_rate": 1.0,
    "success_rate": 1.0, "target_rate": None, "zero_gradients": 0, "saturated": 0,
}  # fmt: skip
MODEL_ROW = ModelRow(
    dataset="digits", loss="softmax", alpha=None, lam=None, covariance=None, seed=0, training="standard", run="one"
)
AWARE = AdaptiveRow(
    model=MODEL_ROW, attack="detector-aware", settings={"detector": "d", "fpr": 0.05}, norm="linf", eps=0.3, n=100,
    clean_error_rate=0.0, error_rate=1.0, success_rate=1.0, target_rate=None, zero_gradients=None, saturated=0,
    detector="d", fpr=0.05, threshold=1.0, undetected_error_rate=0.5, undetected_error_low=0.4,
    undetected_error_high=0.6, rejected_rate=0.0, clean_rejected=0.0, fgsm_undetected_error_rate=None,
)  # fmt: skip


def manifest_of(folder: Path) -> dict[str, Any]:
    """A run's manifest with the steps of its journal."""
    manifest: dict[str, Any] = as_json(runs.load(folder).manifest)
    return manifest


def forge(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace manifest and journal of a run by this manifest, sealed."""
    (folder / JOURNAL).unlink(missing_ok=True)
    (folder / runs.MANIFEST).write_bytes(to_json(sealed(manifest)))


def adversarials_of(folder: Path, data: bytes) -> Adversarials:
    """The attack in these bytes, read from a file in a folder."""
    (folder / ".made.part").write_bytes(data)
    return artifacts.adversarials_of(folder / ".made.part")
