"""The network of the MNIST example that the authors of the L-GM loss published, with five or six convolutions."""

import math
from typing import ClassVar

from torch import Tensor, nn

from advbench.networks import Network


class LeNet(Network):
    """Pairs of convolutions, each pair followed by max-pool 2 and one PReLU with a slope a channel; linear features.

    conv 5x5 without padding and 3x3 at 32 channels, 3x3 twice at 64, 3x3 `last` times at 128; no ReLU behind the
    features. As in `examples/` of the repository of Wan et al. 2018 (`train_test.prototxt`).
    """

    last: ClassVar[int]

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.feature_dim = feature_dim
        layers: list[nn.Module] = []
        for out, kernels in ((32, (5, 3)), (64, (3, 3)), (128, (3,) * self.last)):
            for kernel in kernels:
                layers.append(nn.Conv2d(channels, out, kernel, padding=1 if kernel == 3 else 0))
                channels = out
            layers += [nn.MaxPool2d(2), nn.PReLU(out)]
        linear = nn.Linear(128 * ((height - 4) // 8) * ((width - 4) // 8), feature_dim)
        self.layers = nn.Sequential(*layers, nn.Flatten(), linear)

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d]; pixels in [0, 1] are taken as 0 to 255, over 256."""
        features: Tensor = self.layers(images * (255 / 256))
        return features

    def initialise(self, head: nn.Module) -> None:
        """Caffe's "xavier" for weights, class means and centres: uniform, variance 1 / fan-in; biases 0."""
        for name, parameter in (*self.named_parameters(), *head.named_parameters()):
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() > 1 and name != "log_var":
                bound = math.sqrt(3 / parameter[0].numel())
                nn.init.uniform_(parameter, -bound, bound)
