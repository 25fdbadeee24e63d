"""scikit-learn's 1,797 real handwritten digits, 8x8 grey levels; needs no file and no network."""

from pathlib import Path

import torch

from advbench.data import QUIET, DataSource, split
from advbench.progress import Progress
from advbench.recipes import Recipe
from advbench.types import ImageSet, Splits


class Digits(DataSource):
    """Optical recognition of handwritten digits (Alpaydin and Kaynak, UCI 1998), as scikit-learn ships it.

    17 grey levels, scaled from 0..16 to [0, 1]. Train / validation / calibration / test: 1000 / 200 / 297 / 300.
    """

    recipe = Recipe("digits-cnn", {}, {"eps": 0.1})

    def load(self, folder: Path | None, *, download: bool = False, progress: Progress = QUIET) -> Splits:  # noqa: ARG002
        """The four parts; `folder` and `download` are not needed."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
        labels = torch.from_numpy(bunch.target).long()
        whole = ImageSet("digits", images, labels, tuple(map(str, bunch.target_names)))
        return Splits(*split(whole, (1000, 200, 297, 300)), given=(), test_part="split")
