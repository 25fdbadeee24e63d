"""Records as a run's manifest holds them, for tests that make runs without training a model."""

from typing import Any

MODEL: dict[str, Any] = {
    "dataset": "digits", "data_sha256": "0" * 64, "network": "digits-cnn", "feature_dim": 100,
    "loss": {"name": "softmax"}, "regime": "standard", "training": {"epochs": 1}, "seed": 0,
}  # fmt: skip
MADE_WITH: dict[str, Any] = {"versions": {}, "commit": None, "dirty": None, "device": "cpu", "system": "Linux"}
TRAINED: dict[str, Any] = {"n_train": 3, "validation_error": 0.5}
EPOCH = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "validation_error": 0.5, "learning_rate": 0.1, "seconds": 1.0}
ROW: dict[str, Any] = {
    "attack": "fgsm", "settings": {}, "norm": "linf", "eps": 0.1, "n": 3, "clean_error_rate": 0.0, "error_rate": 1.0,
    "success_rate": 1.0, "target_rate": None, "zero_gradients": 0, "saturated": 0,
}  # fmt: skip
