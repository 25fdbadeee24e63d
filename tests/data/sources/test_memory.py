"""Data against the memory there is: nothing is unpacked that does not fit, and want of memory loses no picture."""

import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advbench import device
from advbench.data import fingerprint, for_supplied
from advbench.data.sources import decoding, source
from advbench.device import memory_left
from advbench.errors import BadData
from advbench.supplied import weights
from tests.helpers.command_line import advbench, assert_refused
from tests.helpers.memory import Largest


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of memory is left."""
    monkeypatch.setattr(device, "memory_left", lambda: 10**6)


def arrays(n: int = 64, side: int = 32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * n, 3, side, side), dtype=np.uint8)
    labels = np.arange(2 * n) % 4
    return {
        "test_images": images[:n], "test_labels": labels[:n], "train_images": images[n:], "train_labels": labels[n:]
    }  # fmt: skip


@pytest.mark.usefixtures("little")
def test_an_npz_bomb_is_refused_before_it_is_unpacked_and_the_same_array_in_place_is_read(tmp_path: Path) -> None:
    held: dict[str, Any] = {"images": np.full((2000, 1, 32, 32), 200, np.uint8), "labels": np.arange(2000) % 2}
    np.savez_compressed(tmp_path / "bomb.npz", **held)
    np.savez(tmp_path / "flat.npz", **held)
    with pytest.raises(BadData, match=r"bomb.npz, unpacked, needs 0.0 GB .* are left; numpy.savez .* folder:PATH"):
        source(f"npz:{tmp_path / 'bomb.npz'}").load(None)
    assert len(source(f"npz:{tmp_path / 'flat.npz'}").load(None).train) > 0


@pytest.mark.usefixtures("little")
def test_a_weights_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data/0", bytes(10**7))
    with pytest.raises(BadData, match=r"w.pt, unpacked, needs .* are left; save the weights alone"):
        weights.read(tmp_path / "w.pt")


def test_a_header_that_claims_a_terabyte_is_no_file(tmp_path: Path) -> None:
    claim = b'{"images":{"dtype":"U8","shape":[1099511627776,1,1,1],"data_offsets":[0,1099511627776]}}'
    (tmp_path / "x.safetensors").write_bytes(len(claim).to_bytes(8, "little") + claim + bytes(100))
    with pytest.raises(BadData, match="cannot be read as safetensors"):
        source(f"safetensors:{tmp_path / 'x.safetensors'}").load(None)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_of_a_file_stay_bytes_until_a_batch_is_made(tmp_path: Path, save: Callable[..., None]) -> None:
    held = arrays()
    save(tmp_path / "x.npz", **held)
    splits = for_supplied(source(f"npz:{tmp_path / 'x.npz'}").load(None))
    with Largest() as seen:
        few = splits.test.pixels[:4]
    assert few.dtype == torch.float32
    assert seen.bytes <= 4 * 3 * 32 * 32 * 4
    both = torch.cat([splits.test.load_all(), splits.calibration.load_all()]) * 255
    assert sorted(map(bytes, both.round().byte().numpy())) == sorted(map(bytes, held["test_images"]))


def test_images_by_any_way_have_one_fingerprint(tmp_path: Path) -> None:
    held = arrays()
    np.savez(tmp_path / "a.npz", **held)
    np.savez_compressed(tmp_path / "b.npz", **held)
    np.savez(
        tmp_path / "c.npz", **held | {k: held[k].astype(np.float32) / 255 for k in ("test_images", "train_images")}
    )
    found = {fingerprint(source(f"npz:{tmp_path / name}.npz").load(None)) for name in "abc"}
    assert len(found) == 1


def test_a_damaged_array_in_place_is_no_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays())
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(BadData, match="cannot be read as npz"):
        source(f"npz:{tmp_path / 'x.npz'}").load(None)


# -- pictures ----------------------------------------------------------------------------------------------------


def pictures(folder: Path, n: int, side: int) -> list[Path]:
    paths = []
    for i in range(n):
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (i, 0, 0)).save(buffer, "PNG")
        path = folder / "ab"[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(buffer.getvalue())
        paths.append(path)
    return paths


def test_few_decoded_pictures_wait_and_they_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side, real = 64, decoding.decode
    threads, seen = list[str](), list[int]()

    def decode(path: Path, image_size: int | None = None) -> object:
        threads.append(threading.current_thread().name)
        return real(path, image_size)

    def take(row: int, made: object) -> None:
        assert isinstance(made, np.ndarray)
        seen.append(int(made[0, 0, 0]))
        assert row == len(seen) - 1

    monkeypatch.setattr(decoding, "MOST_WAITING", 5 * 3 * side * side)
    monkeypatch.setattr(decoding, "decode", decode)
    decoding.decode_all(pictures(tmp_path, 90, side), None, take)
    assert seen == list(range(90))
    assert threads.count(threading.current_thread().name) == 90 - 2 * 5  # the others at their turn, here


def test_want_of_memory_is_no_fault_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 20, 8)
    real, calls = decoding._pixels, list[int]()

    def short(image: Image.Image, size: int | None) -> object:
        calls.append(0)
        if len(calls) == 11:
            raise MemoryError
        return real(image, size)

    monkeypatch.setattr(decoding, "_pixels", short)
    said = assert_refused(
        advbench("train", "--dataset", f"folder:{tmp_path}", "--runs-dir", tmp_path / "runs"), after_progress=True
    )
    assert "memory ran out" in said
    assert "--batch-size" in said


@pytest.mark.usefixtures("little")
def test_a_picture_larger_than_memory_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, 4, 2100)
    with pytest.raises(BadData, match=r"\d+.png needs 0.0 GB of memory and 0.0 GB are left"):
        source(f"folder:{tmp_path}").load(None)


def test_the_memory_left_heeds_limits_of_the_process() -> None:
    import resource

    before, limits = memory_left(), resource.getrlimit(resource.RLIMIT_DATA)
    taken = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line
    )
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * taken + 2**24, limits[1]))
    try:
        assert memory_left() <= 2**24 < before
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.mark.parametrize("kind", ["", "memory"])
def test_the_memory_left_heeds_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kind else ("memory.max", "memory.current")
    inner = tmp_path / kind / "jobs" / "one"
    inner.mkdir(parents=True)
    for folder, most, taken in ((inner.parent, 9000, 5000), (inner, 10**12, 100)):
        for name, value in zip(names, (most, taken), strict=True):
            (folder / name).write_text(f"{value}\n")
    (inner.parent / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    (tmp_path / "cgroup").write_text(f"3:{kind}:/jobs/one\n1:cpu:/other\n")
    monkeypatch.setattr(device, "CGROUPS", (tmp_path / "cgroup", tmp_path))
    assert memory_left() == 9000 - 5000 + 300
