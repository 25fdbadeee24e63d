"""SVHN: 99,289 digits cut out of house numbers, colour, 32x32, read from MATLAB files through torchvision."""

from pathlib import Path

import torch

from advbench.data import COLOUR
from advbench.data._torchvision import OfficialSet, Part


class SVHN(OfficialSet):
    """Street View House Numbers, cropped (Netzer et al. 2011), from `<folder>/{train,test}_32x32.mat`, MD5 compared.

    Of the official 73,257, 61,049 train / 6,104 validation / 6,104 calibration; test = the official 26,032. The
    official extra part is not used.
    """

    recipe = COLOUR
    name = "svhn"
    title = "SVHN"
    place = ""
    files = dict.fromkeys(("train_32x32.mat", "test_32x32.mat"))
    shape = (3, 32, 32)
    counts = (73_257, 26_032)

    def parse(self, folder: Path, *, train: bool, download: bool) -> Part:
        """By torchvision's class, which calls the digit 0 class 0 (in the files it is 10)."""
        from torchvision import datasets

        part = datasets.SVHN(root=str(folder), split="train" if train else "test", download=download)
        return torch.from_numpy(part.data), torch.from_numpy(part.labels), "0123456789"
