"""Splits: their sizes, strata and seed; and what becomes of data files that are missing, truncated or wrong."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor

from advbench import catalog
from advbench.data import WHOLE, duplicates, fingerprint, for_supplied, join, parts_of, split
from advbench.data.mnist import MNIST
from advbench.errors import BadData
from advbench.types import ImageSet, Splits

TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def parts(splits: Splits) -> tuple[ImageSet, ImageSet, ImageSet, ImageSet]:
    return splits.train, splits.validation, splits.calibration, splits.test


def numbered(labels: Tensor) -> ImageSet:
    """Images that carry their row number in their only pixel."""
    rows = torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1)
    return ImageSet("numbered", rows, labels, tuple("abc"))


@pytest.fixture
def whole(rng: np.random.Generator) -> ImageSet:
    return numbered(torch.from_numpy(rng.permutation(np.repeat([0, 1, 2], [200, 300, 500]))))


def numbers(part: ImageSet) -> list[int]:
    return part.load_all().flatten().int().tolist()


# Splits


def test_parts_have_the_sizes_asked_for_lose_no_image_and_keep_the_order_and_the_shares(whole: ImageSet) -> None:
    made = split(whole, (600, 100, 101, 199))
    assert [len(part) for part in made] == [600, 100, 101, 199]
    assert sorted(n for part in made for n in numbers(part)) == list(range(1000))
    for part in made:
        assert numbers(part) == sorted(numbers(part))
        assert torch.equal(part.labels, whole.labels[numbers(part)])
        assert (part.name, part.classes) == (whole.name, whole.classes)
        np.testing.assert_allclose(torch.bincount(part.labels), len(part) * np.array([0.2, 0.3, 0.5]), atol=1)


def test_splits_do_not_depend_on_any_global_seed(whole: ImageSet) -> None:
    first = [numbers(part) for part in split(whole, (600, 400))]
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert [numbers(part) for part in split(whole, (600, 400))] == first
    assert first[0] != list(range(600))


def test_joined_sets_stand_one_after_the_other(whole: ImageSet) -> None:
    first, second = split(whole, (600, 400))
    both = join(first, second)
    assert numbers(both) == numbers(first) + numbers(second)
    assert torch.equal(both.labels, whole.labels[numbers(both)])


def test_classes_of_one_image_and_parts_with_fewer_images_than_classes_are_split_evenly() -> None:
    labels = torch.randint(0, 400, (2000,), generator=torch.Generator().manual_seed(0))  # 1 to 14 of a class
    whole = ImageSet("many", torch.arange(2000.0).reshape(-1, 1, 1, 1), labels, tuple(map(str, range(400))))
    first, second = split(whole, (1000, 1000))
    assert sorted(numbers(first) + numbers(second)) == list(range(2000))
    both = torch.stack([torch.bincount(part.labels, minlength=400) for part in (first, second)])
    assert (both[0] - both[1]).abs().max() <= 2
    assert [len(part) for part in split(whole.take(slice(3)), (0, 2, 1))] == [0, 2, 1]


def test_a_class_without_training_images_forbids_training_and_nothing_else() -> None:
    labels = torch.tensor([0, 1] * 30)
    splits = parts_of({"train": numbered(labels), "test": numbered(torch.arange(12) % 3)})
    assert "class 'c' has no usable image under train" in splits.untrainable
    assert not for_supplied(splits).untrainable
    alone = parts_of({WHOLE: numbered(torch.tensor([*[0, 1] * 30, 2]))})
    assert bool(alone.untrainable) == (not (alone.train.labels == 2).any())


def test_images_that_two_parts_share_are_counted() -> None:
    images = torch.rand(3000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = ImageSet("x", images, torch.arange(3000) % 3, tuple("abc"))
    train, calibration, test = (whole.take(slice(*ends)) for ends in ((0, 2000), (1990, 2500), (2500, 3000)))
    test = join(test, train.take(slice(0, 7)))
    found = duplicates(Splits(train, whole.take(slice(0)), calibration, test))
    assert {f.name: f.text.partition(" are")[0] for f in found} == {
        "calibration-in-train": "10 of 510 calibration images",
        "test-in-train": "7 of 507 test images",
    }


# Digits


def test_digits_parts_together_are_scikit_learns_digits(digits: Splits) -> None:
    bunch = load_digits()
    original = Counter(
        (bytes((x * 1.0).astype(np.float32)), int(z)) for x, z in zip(bunch.images, bunch.target, strict=True)
    )
    ours = Counter(
        (bytes((x * 16).numpy()), int(z))
        for part in parts(digits)
        for x, z in zip(part.load_all(), part.labels, strict=True)
    )
    assert ours == original


def test_digits_are_1000_200_297_and_300_images_of_8_by_8(digits: Splits) -> None:
    assert [len(part) for part in parts(digits)] == [1000, 200, 297, 300]
    for part in parts(digits):
        assert part.shape == (1, 8, 8)
        assert (part.load_all().dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert part.classes == tuple("0123456789")


def test_digits_have_not_moved_since_results_were_first_compared_whatever_folder_or_seed(tmp_path: Path) -> None:
    torch.manual_seed(3)
    digits: Splits = catalog.load("data set", "digits")().load(tmp_path, download=True)
    assert not list(tmp_path.iterdir())
    assert fingerprint(digits) == "a255a53de5606955f114148c6e514b5ec0b9a50a13651fe263b1d0078036df98"


# Fingerprints


def changed(splits: Splits, which: str) -> Splits:
    train, validation, calibration, test = parts(splits)
    if which == "a pixel":
        images = test.load_all().clone()
        images[-1, 0, 7, 7] += 1 / 16
        test = ImageSet(test.name, images, test.labels, test.classes)
    elif which == "a label":
        labels = calibration.labels.clone()
        labels[0] = (labels[0] + 1) % 10
        calibration = ImageSet(calibration.name, calibration.load_all(), labels, calibration.classes)
    elif which == "the order":
        train = train.take(torch.arange(len(train)).flip(0))
    elif which == "an image's part":
        validation, calibration = validation.take(slice(0, 199)), join(validation.take(slice(199, 200)), calibration)
    elif which == "the shape":
        train = ImageSet(train.name, train.load_all().reshape(-1, 1, 4, 16), train.labels, train.classes)
    return Splits(train, validation, calibration, test)


@pytest.mark.parametrize("which", ["a pixel", "a label", "the order", "an image's part", "the shape"])
def test_a_fingerprint_changes_with_whatever_changes_the_data(digits: Splits, which: str) -> None:
    assert fingerprint(changed(digits, which)) != fingerprint(digits)
    assert fingerprint(changed(digits, "nothing")) == fingerprint(digits)


# MNIST


def write_idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """An IDX file of unsigned bytes: magic number 0, 0, 8, rank; sizes, big-endian; the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A test part of the official size, image i with i % 256 in its middle pixel, and one training image."""
    write_idx(tmp_path / "MNIST" / "raw" / TRAIN_FILES[0], np.zeros((1, 28, 28), dtype=np.uint8))
    write_idx(tmp_path / "MNIST" / "raw" / TRAIN_FILES[1], np.zeros(1, dtype=np.uint8))
    images = np.zeros((10_000, 28, 28), dtype=np.uint8)
    images[:, 14, 14] = np.arange(10_000) % 256
    write_idx(tmp_path / "MNIST" / "raw" / TEST_FILES[0], images)
    write_idx(tmp_path / "MNIST" / "raw" / TEST_FILES[1], (np.arange(10_000) % 10).astype(np.uint8))
    return tmp_path


def test_idx_files_are_read_in_order_and_scaled_to_one(made: Path) -> None:
    part = MNIST().read(made, train=False, download=False)
    assert part.shape == (1, 28, 28)
    np.testing.assert_allclose(part.load_all()[:300, 0, 14, 14], np.arange(300) % 256 / 255, rtol=1e-6)
    assert part.load_all().max() == 1
    assert part.labels.tolist() == [i % 10 for i in range(10_000)]
    assert part.labels.dtype == torch.int64


def test_a_missing_folder_is_named_with_the_files_that_belong_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"nowhere.*train-images-idx3-ubyte, train-labels-idx1-ubyte, .* missing"):
        catalog.load("data set", "mnist")().load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", [*TRAIN_FILES, *TEST_FILES])
def test_a_missing_file_is_named_and_those_present_are_not(made: Path, file: str) -> None:
    (made / "MNIST" / "raw" / file).unlink()
    with pytest.raises(BadData, match=rf": {file} missing; .*--download"):
        catalog.load("data set", "mnist")().load(made)


@pytest.mark.parametrize("kept", [0, 3, 10, 16, 5000, 7_839_999])
@pytest.mark.parametrize("file", TEST_FILES)
def test_a_truncated_file_is_refused(made: Path, file: str, kept: int) -> None:
    path = made / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[: min(kept, path.stat().st_size - 1)])
    with pytest.raises(BadData, match="MNIST/raw"):
        MNIST().read(made, train=False, download=False)


def test_a_truncated_file_is_named_with_its_size_and_the_size_it_should_have(made: Path) -> None:
    path = made / "MNIST" / "raw" / TEST_FILES[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadData, match=f"{TEST_FILES[1]} has 10,007 bytes where 10,008 belong"):
        MNIST().read(made, train=False, download=False)


def test_packed_files_are_told_apart_from_missing_ones(made: Path) -> None:
    path = made / "MNIST" / "raw" / TEST_FILES[0]
    path.rename(path.with_name(f"{path.name}.gz"))
    with pytest.raises(BadData, match=f"{TEST_FILES[0]} packed as .gz"):
        MNIST().read(made, train=False, download=False)


def test_a_download_that_fails_is_not_answered_with_the_advice_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    with pytest.raises(BadData, match="the download did not work") as caught:
        MNIST().read(tmp_path, train=True, download=True)
    assert "--download" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(made: Path) -> None:
    (made / "MNIST" / "raw" / TEST_FILES[0]).write_bytes(b"<!DOCTYPE html>" * 1000)
    with pytest.raises(BadData, match="unreadable, truncated"):
        MNIST().read(made, train=False, download=False)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        *(
            (TEST_FILES[0], np.zeros(shape), r"found images .* where \(10000, 1, 28, 28\)")
            for shape in ((10, 28, 28), (9_999, 28, 28), (10_001, 28, 28), (10_000, 32, 32))
        ),
        *((TEST_FILES[1], np.zeros(n), rf"labels \({n},\)") for n in (10, 9_999, 10_001)),
        (TEST_FILES[1], np.repeat([0, 10], 5_000), r"up to 10 where .* classes 0 to 9"),
    ],
)
def test_images_and_labels_of_another_number_or_size_are_refused(
    made: Path, file: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], said: str
) -> None:
    write_idx(made / "MNIST" / "raw" / file, values.astype(np.uint8))
    with pytest.raises(BadData, match=said):
        MNIST().read(made, train=False, download=False)


def test_training_files_of_another_size_are_refused(made: Path) -> None:
    with pytest.raises(BadData, match=r"found images \(1, 1, 28, 28\) .* where \(60000, 1, 28, 28\)"):
        catalog.load("data set", "mnist")().load(made)


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> Splits:
    splits: Splits = catalog.load("data set", "mnist")().load(mnist_dir)
    return splits


@pytest.mark.mnist
def test_mnist_is_50000_5000_5000_and_10000_images(mnist: Splits) -> None:
    assert [len(part) for part in parts(mnist)] == [50_000, 5_000, 5_000, 10_000]
    assert all(part.shape == (1, 28, 28) for part in parts(mnist))


@pytest.mark.mnist
def test_mnists_test_part_is_the_official_one_in_its_order(mnist: Splits, mnist_dir: Path) -> None:
    raw = [np.frombuffer((mnist_dir / "MNIST" / "raw" / file).read_bytes(), dtype=np.uint8) for file in TEST_FILES]
    np.testing.assert_array_equal(mnist.test.labels, raw[1][8:])
    np.testing.assert_array_equal((mnist.test.load_all() * 255).round().byte().flatten(), raw[0][16:])


@pytest.mark.mnist
def test_mnists_other_parts_together_are_the_official_training_images(mnist: Splits, mnist_dir: Path) -> None:
    raw = (mnist_dir / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    official = Counter(raw[i : i + 784] for i in range(0, len(raw), 784))
    ours: Counter[bytes] = Counter()
    for part in parts(mnist)[:3]:
        ours.update(bytes(row) for row in (part.load_all() * 255).round().byte().flatten(1).numpy())
    assert ours == official


@pytest.mark.mnist
def test_mnists_parts_are_stratified(mnist: Splits) -> None:
    per_class = torch.stack([torch.bincount(part.labels) for part in parts(mnist)[:3]]).double()
    assert per_class.sum(0).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_allclose(per_class[1] * 12, per_class.sum(0), atol=13)
    np.testing.assert_allclose(per_class[2] * 12, per_class.sum(0), atol=25)
