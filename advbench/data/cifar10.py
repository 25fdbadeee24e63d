"""CIFAR-10: 60,000 colour pictures of 32x32 in ten classes, read from pickles through torchvision."""

from advbench.data import COLOUR
from advbench.data._torchvision import CIFAR


class CIFAR10(CIFAR):
    """CIFAR-10 (Krizhevsky 2009) from `<folder>/cifar-10-batches-py/`, pickles opened only where their MD5 is right.

    Of the official 50,000, 41,668 train / 4,166 validation / 4,166 calibration; test = the official 10,000.
    """

    recipe = COLOUR
    name = "cifar10"
    title = "CIFAR-10"
    place = "cifar-10-batches-py"
    files = dict.fromkeys((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"))
