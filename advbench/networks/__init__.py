"""Networks: one file each; images in [0, 1] go in, features come out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A feature extractor. Its constructor takes (shape=(c, h, w), feature_dim) and scales pixels itself.

    The last layer is linear.
    """

    feature_dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Features [b d] of images [b c h w] in [0, 1]."""

    def initialise(self, head: nn.Module) -> None:
        """First weights of the network and of the loss over it, where they are not to be torch's own."""

    def stand_in(self, images: Tensor) -> Tensor | None:  # noqa: ARG002
        """Features [b d] of a differentiable stand-in, for the gradient of attacks only (BPDA); None = none.

        For a network with a part that has no gradient; what it computes stays `forward`.
        """
        return None


def feature_layer(inputs: int, feature_dim: int) -> nn.Module:
    """A last layer: linear, with a ReLU where the features are not 2-D scatter plots (Wan et al. 2018, sec. 4.1)."""
    linear = nn.Linear(inputs, feature_dim)
    return linear if feature_dim == 2 else nn.Sequential(linear, nn.ReLU())
