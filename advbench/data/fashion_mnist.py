"""Fashion-MNIST: 70,000 pictures of clothes, 28x28 grey levels, read from IDX files through torchvision."""

from advbench.data._torchvision import GREY, IDXSet


class FashionMNIST(IDXSet):
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) from `<folder>/FashionMNIST/raw/*-ubyte`.

    Of the official 60,000, 50,000 train / 5,000 validation / 5,000 calibration; test = the official 10,000.
    """

    recipe = GREY
    name = "fashion-mnist"
    title = "FashionMNIST"
    place = "FashionMNIST/raw"
