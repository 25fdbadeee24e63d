"""Arrays in npz and safetensors files, and the mistakes in them: each has its own message."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from advbench.cli import main
from advbench.data import fingerprint, for_supplied
from advbench.data.sources import label, option, recipe_of, slug, source
from advbench.data.sources.arrays import check
from advbench.errors import BadData

Arrays = dict[str, Any]


def arrays(n: int = 48, **more: Any) -> Arrays:
    rng = np.random.default_rng(0)
    made = {"images": rng.random((n, 3, 4, 4), dtype=np.float32), "labels": np.arange(n) % 2}
    return made | more


def named(n: int = 48) -> Arrays:
    return {f"train_{k}": v for k, v in arrays(n).items()} | {f"test_{k}": v for k, v in arrays(10).items()}


def write(path: Path, made: Arrays) -> str:
    np.savez(path, **made)
    return f"npz:{path}"


# What is right


def test_images_and_labels_alone_are_split_10_1_1_2(tmp_path: Path) -> None:
    splits = source(write(tmp_path / "x.npz", arrays(56))).load(None)
    assert [len(p) for p in (splits.train, splits.validation, splits.calibration, splits.test)] == [40, 4, 4, 8]
    assert splits.train.classes == ("0", "1")


def test_named_parts_keep_the_order_of_the_file(tmp_path: Path) -> None:
    made = named() | {"calibration_images": arrays(6)["images"], "calibration_labels": arrays(6)["labels"]}
    splits = source(write(tmp_path / "x.npz", made | {"classes": np.array(["..", "<b>"])})).load(None)
    assert splits.calibration_given
    assert torch.equal(splits.test.load_all(), torch.from_numpy(made["test_images"]))
    assert torch.equal(splits.calibration.load_all(), torch.from_numpy(made["calibration_images"]))
    assert splits.test.classes == ("..", "<b>")


def test_safetensors_and_npz_of_the_same_arrays_are_the_same_data(tmp_path: Path) -> None:
    save_file(
        {k: torch.from_numpy(v) for k, v in named().items()},
        tmp_path / "x.safetensors",
        metadata={"classes": json.dumps(["猫", "x" * 300])},
    )
    ours = source(f"safetensors:{tmp_path / 'x.safetensors'}").load(None)
    assert fingerprint(ours) == fingerprint(source(write(tmp_path / "x.npz", named())).load(None))
    assert ours.train.classes == ("猫", "x" * 300)


def test_a_check_takes_lists_and_other_float_types(rng: np.random.Generator) -> None:
    values = rng.random((2, 1, 2, 2))
    made = check(values.tolist(), [0, 1])
    assert made.load_all().dtype == torch.float32
    assert torch.equal(made.load_all(), torch.from_numpy(values).float())
    assert check(torch.from_numpy(values).half(), torch.tensor([0, 4], dtype=torch.uint8), 5).classes == tuple(
        "01234"
    )


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3)])
def test_bytes_channels_last_and_label_columns_are_taken_and_said(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng, made = np.random.default_rng(0), {}
    for part, n in (("train", 48), ("val", 12), ("test", 10)):
        made[f"{part}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        made[f"{part}_labels"] = (np.arange(n, dtype=np.uint8) % 2)[:, None]
    splits = source(write(tmp_path / "x.npz", made)).load(None)
    wanted = made["val_images"].reshape(12, 8, 8, -1).transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(splits.validation.load_all(), wanted)
    assert splits.validation.load_all().is_contiguous()
    assert splits.test.labels.tolist() == [0, 1] * 5
    assert [f.name for f in splits.findings] == ["channels-last", "uint8-images"][len(shape) == 2 :]


def test_array_names_are_known_in_any_case_and_by_the_usual_aliases_and_others_are_named(tmp_path: Path) -> None:
    made = {f"{p}_{k}": v for p in ("TRAIN", "Valid", "calib", "testing") for k, v in arrays(24).items()}
    tensors = {k: torch.from_numpy(v) for k, v in (made | {"ids": np.arange(3)}).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    splits = source(f"safetensors:{tmp_path / 'x.safetensors'}").load(None)
    assert splits.given == ("train", "validation", "calibration", "test")
    assert splits.excluded == {"of another name ('ids')": 1}


def test_a_validation_part_alone_is_the_test_part_of_a_supplied_model_and_trains_none(tmp_path: Path) -> None:
    splits = source(write(tmp_path / "x.npz", {f"val_{k}": v for k, v in arrays(20).items()})).load(None)
    own = for_supplied(splits)
    assert [len(own.train), len(own.calibration), len(own.test), own.test_part] == [0, 10, 10, "validation"]
    assert "no class has a usable image under train" in splits.untrainable


# What is wrong


def nan(value: float) -> np.ndarray[Any, Any]:
    images: np.ndarray[Any, Any] = arrays()["images"]
    images[7, 1, 2, 3] = value
    return images


WRONG = [
    ({"labels": np.eye(2)[np.arange(48) % 2]}, r"one-hot rows have; give class numbers, labels.argmax\(1\)"),
    ({"labels": (np.arange(48) % 2).astype(np.float32)}, "labels are float32; class numbers are whole"),
    ({"labels": np.ones((48, 2, 2))}, "give one class number for each image"),
    ({"labels": np.arange(48 * 3).reshape(48, 3) % 5}, "row 0 with several classes; an image has one here"),
    ({"labels": np.arange(47) % 2}, "48 images and 47 labels"),
    ({"labels": np.arange(48) % 2 - 1}, "labels reach from -1 to 0 where there are 2 classes; they count from 0"),
    ({"labels": np.arange(48) % 2 + 1}, "labels start at 1; they count from 0, so subtract 1"),
    ({"labels": (np.arange(48) % 2) * 10**9}, "labels reach from 0 to 1000000000 where there are 65536 classes"),
    ({"labels": np.arange(48) % 3, "classes": np.array(["a", "b"])}, "from 0 to 2 where there are 2 classes"),
    ({"labels": np.zeros(48, dtype=np.int64)}, "images of one class; a classifier needs at least two"),
    ({"labels": np.array(["cat", "dog"] * 24)}, "labels are of type <U3, not numbers"),
    ({"labels": np.arange(48) % 2 + 1, "classes": np.array(["a", "b"])}, "are 2 classes; .* so subtract 1"),
    ({"images": np.ones((48, 3, 4, 4), dtype=np.uint8)}, "images are uint8; .* leave 0 and 1 as they are"),
    ({"images": np.zeros((48, 3, 4, 4), dtype=bool)}, "images are bool; .* leave 0 and 1 as they are"),
    ({"images": np.zeros((48, 3, 4, 4), dtype=np.int32)}, "images are int32; .* so scale them"),
    ({"images": np.zeros((48, 48), dtype=np.float32)}, r"images have 2 axes, shape \(48, 48\)"),
    ({"images": np.zeros((48, 3, 0, 4), dtype=np.float32)}, "and so no pixel"),
    ({"images": arrays()["images"] * 255}, "pixels reach from .* to 25.*; .* so divide by 255"),
    ({"images": arrays()["images"] * 4 - 2}, "pixels reach from -.* undo their normalisation"),
    ({"images": arrays()["images"] * 2 - 1}, r"pixels reach from -.* from -1 to 1, \(images \+ 1\) / 2"),
    ({"images": nan(np.nan)}, "image 7 has pixels that are NaN or infinite"),
    ({"images": nan(np.inf)}, "image 7 has pixels that are NaN or infinite"),
    ({"images": arrays(0)["images"], "labels": arrays(0)["labels"]}, "the set is empty"),
    ({"images": np.array([object()] * 48, dtype=object)}, "array of Python objects, which only pickle can read"),
    ({"classes": np.array([["a", "b"]])}, "must be a list of names"),
]


@pytest.mark.parametrize(("spoilt", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_each_mistake_in_an_npz_has_its_own_message(tmp_path: Path, spoilt: Arrays, said: str) -> None:
    with pytest.raises(BadData, match=said) as caught:
        source(write(tmp_path / "x.npz", arrays(**spoilt))).load(None)
    assert "\n" not in str(caught.value)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    made = named() | {"train_labels": np.eye(2)[np.arange(48) % 2], "testing_labels": np.arange(10) % 2}
    made |= {"train_images": arrays()["images"] * 255, "val_images": arrays()["images"], "test_labels": [0] * 9}
    with pytest.raises(BadData, match=r"^5 faults: \(1\) npz:x.npz: ") as caught:
        source(write(tmp_path / "x.npz", made)).load(None)
    words = ("are one part", "validation_labels missing", "one-hot", "divide by 255", "10 images and 9 labels")
    assert all(word in fault for word, fault in zip(words, caught.value.faults, strict=True))


def test_missing_arrays_are_named_beside_those_found(tmp_path: Path) -> None:
    made = {"x_train": np.zeros(3), "<b>": np.zeros(3)}
    with pytest.raises(BadData, match=r"train_images, train_labels missing, found '.*x_train.*; name the arrays"):
        source(write(tmp_path / "x.npz", made)).load(None)
    lacking = {k: v for k, v in named().items() if k != "test_labels"}
    with pytest.raises(BadData, match="test_labels missing, found 'train_images'"):
        source(write(tmp_path / "x.npz", lacking)).load(None)
    other = named() | {"test_images": np.zeros((10, 1, 4, 4), dtype=np.float32)}
    with pytest.raises(BadData, match=r"images of test have the shape \(1, 4, 4\) and those of train \(3, 4, 4\)"):
        source(write(tmp_path / "x.npz", other)).load(None)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escape.txt", "hello")


def lying(path: Path) -> None:
    """A header that promises 4 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def cut(path: Path) -> None:
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-2000])


def garbled(path: Path) -> None:
    np.savez(path, **arrays())
    data = bytearray(path.read_bytes())
    data[2000] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (zipped, "is a zip but no npz: it holds '../escape.txt'"),
        (lying, "cannot be read as npz"),
        (cut, "is no npz file"),
        (garbled, "cannot be read as npz"),
        (lambda path: path.write_bytes(b""), "is no npz file"),
        (one_array, "is no npz file"),
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder; for images write folder:PATH"),
    ],
)
def test_a_file_that_is_no_npz_ends_the_command_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], said: str
) -> None:
    spoil(tmp_path / "x.npz")
    place = ["--runs-dir", str(tmp_path / "runs"), "--json"]
    status = main(["train", "--dataset", f"npz:{tmp_path / 'x.npz'}", "--network", "digits-cnn", *place])
    streams = capsys.readouterr()
    assert (status, streams.out, streams.err.count("\n")) == (2, "", 1)
    assert said in streams.err
    assert {path.name for path in tmp_path.iterdir()} <= {"x.npz"}


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"\xff" * 8 + b"{}", b"\x10\x00\x00\x00\x00\x00\x00\x00{broken"]
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(BadData, match="cannot be read as safetensors"):
        source(f"safetensors:{tmp_path / 'x.safetensors'}").load(None)


# Names


def test_a_label_holds_no_path_and_is_its_own_label() -> None:
    assert label("folder:/data/cats/") == "folder:cats"
    assert label("npz:../x.npz") == label("npz:x.npz") == "npz:x.npz"
    assert label("folder:/") == "folder:root"
    assert label("digits") == "digits"


def test_a_slug_can_name_a_folder_and_stays_short() -> None:
    assert slug("folder:cats") == "folder-cats"
    assert slug("folder:" + "猫" * 100) == "folder-" + "猫" * 17
    assert slug("folder:a/b\\c*?<|>\n") == "folder-a-b-c------"


def test_a_command_leaves_the_path_to_fill_in() -> None:
    assert option("folder:cats") == "folder:PATH/cats"
    assert option("mnist") == "mnist"


def test_unknown_prefixes_and_empty_paths_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (("foldr:x", "Did you mean 'folder'"), ("folder:", "names no path"), ("mnits", "Did you mean")):
        assert main(["train", "--dataset", name]) == 2
        assert said in capsys.readouterr().err
    assert recipe_of("folder:x") == recipe_of("npz:y")
