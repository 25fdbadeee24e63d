"""The same with five convolutions, as the example has it where it is not commented out."""

from advbench.networks._lenet import LeNet


class LeNetPlusFive(LeNet):
    """conv 5x5 and 3x3 (32), 3x3 twice (64), 3x3 once (128), PReLU after each pooling; features without ReLU."""

    last = 1
