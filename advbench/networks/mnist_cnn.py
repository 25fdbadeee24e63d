"""The paper's MNIST network: six 5x5 convolutions and one fully connected layer ("LeNet++")."""

from torch import Tensor, nn

from advbench.networks import Network, feature_layer


class MNISTCNN(Network):
    """(conv 5x5, PReLU) x2 at 32, 64 and 128 channels, max-pool 2 after each pair, fully connected.

    Wen et al. 2016, table 1 (LeNets++); Wan et al. 2018, sec. 4.1.
    """

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.feature_dim = feature_dim
        layers: list[nn.Module] = []
        for out in (32, 64, 128):
            for inputs in (channels, out):
                layers += [nn.Conv2d(inputs, out, 5, padding=2), nn.PReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = out
        head = feature_layer(128 * (height // 8) * (width // 8), feature_dim)
        self.layers = nn.Sequential(*layers, nn.Flatten(), head)

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d]; pixels are scaled from [0, 1] to [-1, 1] here."""
        features: Tensor = self.layers(images * 2 - 1)
        return features
