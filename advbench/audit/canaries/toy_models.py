"""The canaries' small models and detectors, and an honest one."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench import catalog
from advbench.detection import FittedDetector
from advbench.device import CPU
from advbench.losses import Head
from advbench.losses.softmax import Softmax
from advbench.networks import Network, feature_layer
from advbench.recipes import AdversarialTraining, Training
from advbench.training.loop import Trainer
from advbench.types import Outputs, Splits
from advbench.victim import Composed, Victim

SHAPE, CLASSES, FEATURES = (1, 8, 8), 10, 16
TOUCHED = 1e-4  # distance of features beyond the float noise of another batch


class Dense(Network):
    """One hidden layer: learns the digits in a fraction of a second."""

    def __init__(self, shape: tuple[int, int, int] = SHAPE, feature_dim: int = FEATURES) -> None:
        super().__init__()
        c, h, w = shape
        self.feature_dim = feature_dim
        hidden = nn.Linear(c * h * w, 32)
        self.layers = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), feature_layer(32, feature_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d]."""
        features: Tensor = self.layers(images * 2 - 1)
        return features


def trained(splits: Splits, loss: str, *, seed: int = 0, adversarial: float | None = None, **own: Any) -> Victim:
    """A dense network trained on the digits with that loss and its own settings; `adversarial`: at that eps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, head = Dense(), catalog.load("loss", loss)(FEATURES, CLASSES, **own)
    hardened = None if adversarial is None else AdversarialTraining(eps=adversarial)
    settings = Training(epochs=12, batch_size=50, learning_rate=0.1)
    Trainer(
        network, head, splits.train, splits.validation, settings, seed=seed, device=CPU, adversarial=hardened
    ).run()
    return victim_of(network, head)


def victim_of(network: Network, head: Head) -> Victim:
    """On the CPU, for the digits."""
    return Victim(Composed(network, head), shape=SHAPE, classes=CLASSES, device=CPU)


class Stepped(Network):
    """Features of a trained network in steps: as right as before, and every gradient exactly zero."""

    def __init__(self, network: Network, step: float = 0.25) -> None:
        super().__init__()
        self.feature_dim, self.network, self.step = network.feature_dim, network, step

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d], multiples of the step."""
        features: Tensor = self.network(images)
        return (features / self.step).round() * self.step


class WithGrain(Network):
    """Features of a trained network, and one more: how far the pixels lie from the digits' 17 grey levels."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.feature_dim, self.network = network.feature_dim + 1, network

    def forward(self, images: Tensor) -> Tensor:
        """Features [b d + 1]; the last is the mean distance to the nearest level, in levels: 0 for a clean image."""
        levels = 16 * images
        grain = (levels - levels.round()).abs().flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([self.network(images), grain], dim=1)


def blind_to_the_last(head: Softmax) -> Softmax:
    """The same head for features with one more, which has no weight."""
    wider = Softmax(FEATURES + 1, CLASSES)
    wider.linear.weight.data = F.pad(head.linear.weight.data, (0, 1))
    wider.linear.bias.data = head.linear.bias.data
    return wider


@dataclass(frozen=True)
class Grain(FittedDetector):
    """Grainy images are suspicious: a detector of noise."""

    def score(self, outputs: Outputs) -> Tensor:
        """The last feature [n]."""
        return outputs.features[:, -1].double()


@dataclass(frozen=True)
class Random(FittedDetector):
    """A number that has nothing to do with the image; quasi-random: a coin would miss its interval now and then."""

    def score(self, outputs: Outputs) -> Tensor:
        """Multiples of the golden ratio in [0, 1) [n], evenly spread; where they start depends on the predictions."""
        place = torch.arange(len(outputs)) + int(outputs.predictions.sum())
        return (place.double() * ((5**0.5 - 1) / 2)).frac()


@dataclass(frozen=True)
class Oracle(FittedDetector):
    """Knows the features [m d] of the clean images, those it is tested on among them: any change is suspicious."""

    known: Tensor

    def score(self, outputs: Outputs) -> Tensor:
        """Distance to the nearest clean image [n]; exactly 0 for a clean one."""
        distance = (outputs.features.double()[:, None] - self.known[None]).square().sum(dim=2).min(dim=1).values
        return torch.where(distance < TOUCHED**2, torch.zeros_like(distance), distance)
