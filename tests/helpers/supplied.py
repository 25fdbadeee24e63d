"""A user's model for tests."""

import torch
from torch import Tensor, nn

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, mean=0.0, std=1.0, classes=10):
        super().__init__()
        self.mean, self.std = mean, std
        self.hidden = nn.Linear(64, 32)
        self.last = nn.Linear(32, classes)

    def logits(self, images):
        return self.last(torch.relu(self.hidden((images.flatten(1) - self.mean) / self.std)))

    forward = logits

def build():
    return Net()
"""


class Net(nn.Module):
    """What MODEL builds."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.hidden(images.flatten(1))))
        return logits


def weights_of(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Net after a few dozen steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
        steps = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            steps.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
            steps.step()
    return {k: v.detach() for k, v in net.state_dict().items()}
