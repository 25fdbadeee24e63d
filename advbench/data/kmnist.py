"""KMNIST: 70,000 handwritten Japanese characters, 28x28 grey levels, read from IDX files through torchvision."""

from advbench.data._torchvision import GREY, IDXSet


class KMNIST(IDXSet):
    """Kuzushiji-MNIST (Clanuwat et al. 2018, arXiv:1812.01718) from `<folder>/KMNIST/raw/*-ubyte`.

    Of the official 60,000, 50,000 train / 5,000 validation / 5,000 calibration; test = the official 10,000.
    """

    recipe = GREY
    name = "kmnist"
    title = "KMNIST"
    place = "KMNIST/raw"
