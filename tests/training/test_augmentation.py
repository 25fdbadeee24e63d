"""Augmentation: mirrored and shifted as torchvision would one by one, uniformly, reproducibly; records stay."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as one_by_one

from advbench import catalog
from advbench.networks import Network
from advbench.recipes import Training
from advbench.study.parsing import parse
from advbench.training.augmentation import mirror_crop
from advbench.training.loop import Trainer
from advbench.types import ImageSet, Splits

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 5, 9), (2, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_is_cropped_and_mirrored_as_torchvision_would_each_image(
    shape: tuple[int, int, int], layout: torch.memory_format
) -> None:
    images = torch.rand(40, *shape, generator=rng()).contiguous(memory_format=layout)
    before = images.clone()
    drawn = rng(3)
    places = torch.randint(9, (2, 40), generator=drawn)
    mirrored = torch.randint(2, (40,), generator=drawn, dtype=torch.bool)
    slow = []
    for image, down, across, flip in zip(images, *places.tolist(), mirrored.tolist(), strict=True):
        moved = one_by_one.crop(one_by_one.pad(image, 4), down, across, *shape[1:])
        slow.append(one_by_one.hflip(moved) if flip else moved)
    assert torch.equal(mirror_crop(images, rng(3)), torch.stack(slow))
    assert torch.equal(images, before)


def test_shape_range_and_memory_layout_are_those_of_training() -> None:
    images = torch.rand(7, 3, 32, 32, generator=rng())
    moved = mirror_crop(images, rng())
    assert moved.shape == images.shape
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


# -- in training -------------------------------------------------------------------------------------------------


def trainer_of(network: Network, train: ImageSet, **settings: Any) -> Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = catalog.load("loss", "softmax")(network.feature_dim, 10)
    training = Training(**{"epochs": 3, "batch_size": 32, **settings})
    return Trainer(network, head, train, train.take(slice(0, 20)), training, seed=0, device=CPU)


@pytest.fixture
def small(digits: Splits) -> ImageSet:
    return digits.train.take(slice(0, 96))


def drawn(trainer: Trainer, index: Tensor) -> tuple[Tensor, Tensor]:
    images, labels, _ = trainer._batch(index, 0)
    return images, labels


def test_training_sees_moved_images_under_their_own_labels(dense: type[Network], small: ImageSet) -> None:
    index = torch.arange(30)
    plain = drawn(trainer_of(dense((1, 8, 8), 16), small), index)
    moved = drawn(trainer_of(dense((1, 8, 8), 16), small, augmentation="mirror-crop"), index)
    assert torch.equal(plain[0], small.load_all()[:30])
    assert torch.equal(moved[0], mirror_crop(small.load_all()[:30], rng()))
    assert torch.equal(moved[1], plain[1])


def test_validation_sees_the_images_as_they_are(dense: type[Network], small: ImageSet) -> None:
    running = trainer_of(dense((1, 8, 8), 16), small, augmentation="mirror-crop")
    running.run()
    predictions = running.head(running.network(small.load_all()[:20])).argmax(dim=1)
    assert running.epochs[-1].validation_error == pytest.approx(np.mean((predictions != small.labels[:20]).numpy()))


# -- records -----------------------------------------------------------------------------------------------------


def test_a_record_names_augmentation_only_where_there_is_some() -> None:
    plain, moved = (parse({"training": t}).models()[0] for t in ({}, {"augmentation": "mirror-crop"}))
    assert "augmentation" not in plain.record("").training
    assert moved.record("").training == {**plain.record("").training, "augmentation": "mirror-crop"}
    assert parse({"training": {"augmentation": "none"}}).models()[0].run_name("") == plain.run_name("")
    assert moved.run_name("") != plain.run_name("")


@pytest.mark.parametrize(
    ("dataset", "entry", "name"),
    [  # as they were before there was augmentation
        ("digits", "softmax", "digits-softmax-seed0-cea5f9ce"),
        ("digits", "lgm", "digits-lgm-seed0-079d46b4"),
        ("digits", "center", "digits-center-seed0-596b7f4f"),
        ("digits", "l-softmax", "digits-l-softmax-seed0-ba52a792"),
        ("digits", {"name": "softmax", "adversarial": True}, "digits-softmax-adversarial-seed0-0df002a4"),
        ("mnist", "softmax", "mnist-softmax-seed0-87bcd3b1"),
        ("mnist", "lgm", "mnist-lgm-seed0-e6750f6e"),
    ],
)
def test_the_digests_of_models_without_augmentation_stay(dataset: str, entry: object, name: str) -> None:
    assert parse({"dataset": dataset, "losses": [entry]}).models()[0].run_name("x") == name
