"""Models small enough to know everything about."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advbench.losses.softmax import Softmax
from advbench.networks import Network, feature_layer
from advbench.victim import Composed, Victim


class Function(Network):
    """Features [b k] by a function of the pixels [b p]; with an identity head they are the logits."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.flatten(1))


def identity_head(classes: int) -> Softmax:
    head = Softmax(classes, classes)
    head.linear.weight.data = torch.eye(classes)
    head.linear.bias.data.zero_()
    return head


def victim_of(network: nn.Module, classes: int, pixels: int) -> Victim:
    shape = (1, 1, pixels)
    head = identity_head(classes)
    return Victim(Composed(network, head), shape=shape, classes=classes, device=torch.device("cpu"))  # type: ignore[arg-type]


def margin_only(rise: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Two logits: 0 for the true class, `rise(x)` for the other one."""
    return lambda x: torch.stack([torch.zeros(len(x)), rise(x)], dim=1)


class Dense(Network):
    """One hidden layer: learns digits in a fraction of a second."""

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        c, h, w = shape
        self.feature_dim = feature_dim
        hidden = nn.Linear(c * h * w, 32)
        self.layers = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), feature_layer(32, feature_dim))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images * 2 - 1)
        return features


class Pixels(Network):
    """The pixels themselves as features, so that the model is linear."""

    def __init__(self, shape: tuple[int, int, int], feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        assert feature_dim == shape[0] * shape[1] * shape[2]

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)
