"""CIFAR-100: 60,000 colour pictures of 32x32 in a hundred classes, read from pickles through torchvision."""

from advbench.data import COLOUR
from advbench.data._torchvision import CIFAR


class CIFAR100(CIFAR):
    """CIFAR-100 (Krizhevsky 2009) from `<folder>/cifar-100-python/`, pickles opened only where their MD5 is right.

    Fine labels. Of the official 50,000, 41,668 train / 4,166 validation / 4,166 calibration; test = the official
    10,000.
    """

    recipe = COLOUR
    name = "cifar100"
    title = "CIFAR-100"
    place = "cifar-100-python"
    files = dict.fromkeys(("train", "test", "meta"))
