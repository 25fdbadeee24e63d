"""The six-convolution network of the published MNIST example of Wan et al. 2018 ("LeNet+")."""

from advbench.networks._lenet import LeNet


class LeNetPlus(LeNet):
    """conv 5x5 and 3x3 (32), 3x3 twice (64), 3x3 twice (128), PReLU after each pooling; features without ReLU."""

    last = 2
