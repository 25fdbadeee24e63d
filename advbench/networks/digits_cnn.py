"""A small CNN for 8x8 digits: four 3x3 convolutions and one fully connected layer."""

from torch import Tensor, nn

from advbench.networks import Network, feature_layer


class DigitsCNN(Network):
    """(conv 3x3 32) x2, pool 2, (conv 3x3 64) x2, pool 2, fully connected; PReLU between."""

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.feature_dim = feature_dim
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.PReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.PReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2),
            nn.Flatten(), feature_layer(64 * (height // 4) * (width // 4), feature_dim),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d]; pixels are scaled from [0, 1] to [-1, 1] here."""
        features: Tensor = self.layers(images * 2 - 1)
        return features
