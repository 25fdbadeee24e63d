"""ResNet-20's training against a plain script, in time for the same images: noise, as times do not care."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from advbench.device import computes_bf16
from advbench.recipes import Training
from advbench.training.loop import Trainer
from advbench.types import ImageSet
from advbench.victim import build
from tests.bench.timing import ratio, row

SHAPE, CLASSES = (3, 32, 32), 10
BATCH = 128
SETTINGS: dict[str, Any] = {"batch_size": BATCH, "precision": "bf16", "augmentation": "mirror-crop", "warmup": 0.0}
Work = Callable[[], object]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images [n h w c] as torchvision's CIFAR10 keeps and gives them: bytes, each a PIL image when asked for."""

    def __init__(
        self, images: NDArray[np.uint8], labels: list[int], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def noise(n: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Random pictures and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(n, 32, 32, 3), dtype=np.uint8), rng.integers(CLASSES, size=n).tolist()


def model() -> tuple[Any, Any]:
    """Network and head at their first weights."""
    return build("resnet20", 100, "softmax", {}, shape=SHAPE, classes=CLASSES, seed=0)


def ours(n: int, device: torch.device) -> Work:
    """An epoch of the toolkit's loop over n images, but for its validation, which sees one."""
    pictures, labels = noise(n)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
    train = ImageSet("noise", images, torch.tensor(labels), tuple("0123456789"))
    one = train.take(slice(1))

    def epoch() -> None:
        Trainer(*model(), train, one, Training(epochs=1, **SETTINGS), seed=0, device=device).run()

    return epoch


def plain(n: int, device: torch.device, workers: int) -> Work:
    """The same epoch as anybody would type it in: float32, NCHW, image after image, a shuffling DataLoader."""
    augmented = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ])  # fmt: skip
    data = Pictures(*noise(n), augmented)

    def epoch() -> None:
        network, head = model()
        # Normalize does what the network does before its layers
        module = nn.Sequential(network.layers, head).to(device)
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers)
        rate = Training().learning_rate
        optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
        module.train()
        loss_sum, right = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            logits = module(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(labels)
            right += int((logits.argmax(dim=1) == labels).sum())

    return epoch


def over_plain(n: int, device: torch.device, repeats: int) -> float:
    """Our time over that of the plain script with no or two loading processes, whichever is faster here."""
    return max(ratio(ours(n, device), plain(n, device, workers), repeats) for workers in (0, 2))


@row("resnet20-step-over-plain-script", 1 / 1.7)
def on_cpu() -> float:
    """A ResNet-20 training step over a plain script's on the CPU, in time for each image."""
    device = torch.device("cpu")
    if not computes_bf16(device):
        sys.stderr.write("resnet20-step-over-plain-script: this CPU has no bf16; both sides compute in float32\n")
    return over_plain(8 * BATCH, device, 2)


@row("resnet20-gpu-step-over-plain-script", 1 / 3)
def on_gpu() -> float | None:
    """The same on a CUDA GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return over_plain(200 * BATCH, torch.device("cuda"), 2)
