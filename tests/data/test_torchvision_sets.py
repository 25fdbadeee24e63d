"""Sets with official parts, read from tiny files in the published formats by torchvision itself."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from advbench import catalog
from advbench.data._torchvision import OfficialSet
from advbench.data.cifar10 import CIFAR10
from advbench.data.cifar100 import CIFAR100
from advbench.data.fashion_mnist import FashionMNIST
from advbench.data.kmnist import KMNIST
from advbench.data.svhn import SVHN
from advbench.errors import BadData

OFFICIAL = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def batch(path: Path, key: str, n: int, classes: int) -> list[str]:
    """A batch as published: rows of 3072 bytes, red, green and blue planes one after the other."""
    data = np.random.default_rng(n).integers(0, 256, (n, 3072), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": data, key: [i % classes for i in range(n)]}))
    return [path.name, md5(path)]


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[CIFAR10]:
    """CIFAR-10 of 240 and 20 images; their checksums stand in the place of the published ones."""
    folder = tmp_path / "cifar-10-batches-py"
    reader = torchvision.datasets.CIFAR10
    names = [f"data_batch_{i}" for i in range(1, 6)]
    monkeypatch.setattr(reader, "train_list", [batch(folder / n, "labels", 48, 10) for n in names])
    monkeypatch.setattr(reader, "test_list", [batch(folder / "test_batch", "labels", 20, 10)])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(folder / "batches.meta")})

    class Small(CIFAR10):
        counts = (240, 20)

    return Small


def test_cifar10_is_read_in_order_as_planes_and_split(cifar10: type[CIFAR10], tmp_path: Path) -> None:
    splits = cifar10().load(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.calibration, splits.test)] == [200, 20, 20, 20]
    raw = np.random.default_rng(20).integers(0, 256, (20, 3072), dtype=np.uint8).reshape(20, 3, 32, 32)
    torch.testing.assert_close(splits.test.load_all(), torch.from_numpy(raw) / 255)
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert splits.test.classes == tuple("abcdefghij")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


def test_a_cifar_pickle_of_another_checksum_is_refused_unread(
    cifar10: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadData, match=r"CIFAR-10 in .*cifar-10-batches-py: unreadable, truncated or altered"):
        cifar10().load(tmp_path)
    assert not Path("sprung").exists()


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reader = tmp_path / "cifar-100-python", torchvision.datasets.CIFAR100
    monkeypatch.setattr(reader, "train_list", [batch(folder / "train", "fine_labels", 1200, 100)])
    monkeypatch.setattr(reader, "test_list", [batch(folder / "test", "fine_labels", 100, 100)])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{i}" for i in range(100)]}))
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(folder / "meta")})
    monkeypatch.setattr(CIFAR100, "counts", (1200, 100))
    splits = CIFAR100().load(tmp_path)
    assert splits.test.labels.tolist() == list(range(100))
    assert torch.bincount(splits.calibration.labels).tolist() == [1] * 100
    assert splits.test.classes == tuple(f"fine{i}" for i in range(100))


def test_svhn_counts_the_digit_0_as_class_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    made = {}
    for part, n in (("train", 240), ("test", 20)):
        path = tmp_path / f"{part}_32x32.mat"
        data = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        scipy.io.savemat(path, {"X": data, "y": (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)})
        made[part] = ("", path.name, md5(path))
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", made)
    monkeypatch.setattr(SVHN, "counts", (240, 20))
    splits = SVHN().load(tmp_path)
    assert splits.test.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert splits.test.classes == tuple("0123456789")
    torch.testing.assert_close(
        splits.test.load_all()[3], torch.from_numpy(data[..., 3].transpose(2, 0, 1).copy()) / 255
    )


@pytest.mark.parametrize("cls", [FashionMNIST, KMNIST])
def test_sets_in_mnists_format_are_read_from_their_own_folders(
    cls: type[OfficialSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem, n in (("train", 240), ("t10k", 20)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
            path = tmp_path / cls.title / "raw" / f"{stem}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            sizes = np.array(values.shape, dtype=">u4").tobytes()
            path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())
    monkeypatch.setattr(cls, "counts", (240, 20))
    splits = cls().load(tmp_path)
    assert (len(splits.train), splits.train.name) == (200, catalog.load("data set", cls.name)().name)
    torch.testing.assert_close(splits.test.load_all()[:, 0], torch.from_numpy(images) / 255)
    assert splits.test.classes == tuple(getattr(torchvision.datasets, cls.title).classes)


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_missing_set_is_told_with_the_place_of_its_files_and_nothing_is_fetched(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"needs a data folder; name the one that holds .*--data-dir or ADVBENCH_DATA"):
        catalog.load("data set", name)().load(None)
    with pytest.raises(
        BadData, match=r"missing; put the original files there, or fetch them with --download"
    ) as caught:
        catalog.load("data set", name)().load(tmp_path)
    assert str(tmp_path / catalog.load("data set", name).place) in str(caught.value)
    assert not list(tmp_path.iterdir())
