"""MNIST: 70,000 handwritten digits, 28x28 grey levels, read from IDX files through torchvision."""

from dataclasses import replace

from advbench.data._torchvision import GREY, IDXSet


class MNIST(IDXSet):
    """MNIST (LeCun et al. 1998) from `<folder>/MNIST/raw/*-ubyte`.

    Of the official 60,000, 50,000 train / 5,000 validation / 5,000 calibration; test = the official 10,000.
    """

    # adversarial training: one step an image is what two cores can afford; it is learned too well (softmax, eps 0.3,
    # 200 validation images: FGSM errs 0.5 %, APGD 33 %), more steps are stronger and cost a pass each
    recipe = replace(GREY, adversarial={"eps": 0.3, "ramp": 0.3})
    name = "mnist"
    title = "MNIST"
    place = "MNIST/raw"
