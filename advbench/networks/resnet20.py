"""ResNet-20 for small colour images: a stem, nine residual blocks in three stages, and one linear layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from advbench.errors import BadSetting
from advbench.networks import Network, feature_layer

BLOCKS = 3  # in each stage: 6 n + 2 = 20 weighted layers, with the last one ours


class ResNet20(Network):
    """3x3 stem, three stages of three blocks at 16, 32 and 64 channels, global average, fully connected.

    He et al. 2016 (arXiv:1512.03385, sec. 4.2): batch normalisation after each convolution, shortcuts without
    parameters (option A). Their classifier is two layers here: the features, and a head's logits. Images of any size;
    the second and third stage halve it.

    Ours alone is the batch normalisation of the averages. Those of different images are nearly equal at first: L-GM,
    which pulls features towards means near zero, moved all of them at once, until their ReLUs never opened again.
    """

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        width = 16
        layers: list[nn.Module] = [convolution(shape[0], width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        for out in (16, 32, 64):
            for _ in range(BLOCKS):
                layers.append(Block(width, out))
                width = out
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(width), feature_layer(width, feature_dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d]; pixels are scaled from [0, 1] to [-1, 1] here.

        Raises BadSetting for a single image in training mode, which has no variance.
        """
        if self.training and len(images) < 2:
            raise BadSetting(
                "resnet20 cannot train on a batch of 1 image, because batch normalisation needs several; use a "
                "larger --train-batch-size"
            )
        features: Tensor = self.layers(images * 2 - 1)
        return features


class Block(nn.Module):
    """`relu(shortcut(x) + f(x))`, f = conv 3x3, BN, ReLU, conv 3x3, BN; half the size where the channels grow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.grown = outputs - inputs
        self.residual = nn.Sequential(
            convolution(inputs, outputs, self.stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            convolution(outputs, outputs), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[b outputs h w], h and w halved (rounded up) with stride 2."""
        added: Tensor = self.residual(x)
        return F.relu(added.add_(self.shortcut(x)), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, or every second pixel of it with channels of zeros behind (option A)."""
        if not self.grown:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.grown))


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3x3, without the bias that batch normalisation would take away, at the first weights of He et al. 2015."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # arXiv:1502.01852, Eq. 10: variance 2 / fan-in
    return layer
