"""Folders of images: layout, order, parts, pixels against Pillow's own, streaming, and files made to do harm."""

import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from advbench import runs
from advbench.cli import main
from advbench.data import fingerprint, for_supplied
from advbench.data.sources import source
from advbench.data.sources.folder import ImageFolder
from advbench.errors import BadData, BadSetting
from advbench.progress import Advance, Quiet
from advbench.recipes import Training
from advbench.types import ImageSet, Splits, Streamed
from advbench.victim import Composed, Victim

Bytes = NDArray[np.uint8]
Make = Callable[..., Path]


def picture(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def salt(where: str) -> int:
    return zlib.crc32(where.encode())


def save(path: Path, pixels: Bytes, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Fills a folder with n PNG files for each class under `where`, each with pixels of its own."""

    def made(where: str = "train", classes: tuple[str, ...] = ("cat", "dog"), n: int = 24) -> Path:
        for c, name in enumerate(classes):
            for i in range(n):
                save(tmp_path / "set" / where / name / f"{i:03d}.png", picture(salt(where) + 1000 * c + i))
        return tmp_path / "set"

    return made


def load(folder: Path, image_size: int | None = None) -> Splits:
    return source(f"folder:{folder}", image_size).load(None)


def parts(splits: Splits) -> list[ImageSet]:
    return [splits.train, splits.validation, splits.calibration, splits.test]


def pixels_of(part: ImageSet) -> set[bytes]:
    return {bytes(image) for image in (part.load_all() * 255).round().byte().numpy()}


# Layout


def test_train_gives_a_twelfth_each_to_validation_and_calibration_and_test_is_test(make: Make) -> None:
    make("test", n=5)
    splits = load(make())
    assert [len(part) for part in parts(splits)] == [40, 4, 4, 10]
    assert splits.test.classes == ("cat", "dog")
    assert len(set().union(*map(pixels_of, parts(splits)))) == 58
    assert all(torch.bincount(part.labels).tolist() == [len(part) // 2] * 2 for part in parts(splits))


def test_a_calibration_folder_is_the_calibration_part_of_a_supplied_model_too(make: Make) -> None:
    make("test", n=5)
    make("calibration", n=3)
    splits = load(make(n=22))
    assert [len(part) for part in parts(splits)] == [40, 4, 6, 10]
    assert splits.calibration_given
    expected = {
        bytes(picture(salt("calibration") + 1000 * c + i).transpose(2, 0, 1)) for c in (0, 1) for i in range(3)
    }
    assert pixels_of(splits.calibration) == expected
    assert [len(part) for part in parts(for_supplied(splits))] == [44, 0, 6, 10]


def test_the_first_images_are_of_all_classes_and_always_the_same(make: Make) -> None:
    make("test", n=30)
    folder = make()
    torch.manual_seed(5)
    first, again = load(folder).test, load(folder).test
    assert 5 < int(first.labels[:20].sum()) < 15
    assert torch.equal(first.load_all(), again.load_all())
    for image, label in zip(first.load_all()[:5], first.labels[:5], strict=True):
        own = {bytes(picture(salt("test") + 1000 * int(label) + i).transpose(2, 0, 1)) for i in range(30)}
        assert bytes((image * 255).round().byte().numpy()) in own


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(make: Make, tmp_path: Path) -> None:
    folder = make()
    before = fingerprint(load(folder))
    assert fingerprint(load(folder.rename(tmp_path / "elsewhere"))) == before


# The parts of a supplied model


def test_a_supplied_models_thresholds_come_from_half_of_test_and_never_from_train(make: Make) -> None:
    make("test", n=11)
    splits = load(make())
    own = for_supplied(splits)
    assert [len(part) for part in parts(own)] == [48, 0, 11, 11]
    assert pixels_of(own.train) == set().union(*map(pixels_of, parts(splits)[:3]))
    assert pixels_of(own.calibration) | pixels_of(own.test) == pixels_of(splits.test)
    assert abs(int(own.calibration.labels.sum()) * 2 - 11) == 1
    assert fingerprint(for_supplied(splits)) == fingerprint(own)


def test_classes_of_one_test_image_are_halved_but_not_one_image_in_all(make: Make, tmp_path: Path) -> None:
    make("test", n=1)
    own = for_supplied(load(make()))
    assert sorted([*own.calibration.labels.tolist(), *own.test.labels.tolist()]) == [0, 1]
    assert [(f.name, f.text[:14]) for f in own.findings] == [("missing-classes", "1 of 2 classes")]
    (tmp_path / "set" / "test" / "dog" / "000.png").unlink()
    with pytest.raises(
        BadData, match="1 test image; give at least two, half of which fix the thresholds, or a calib"
    ):
        for_supplied(load(tmp_path / "set"))


@pytest.mark.parametrize("names", ["train val", "Training VALID", "TRAIN dev"])
def test_a_validation_folder_is_the_test_part_of_a_supplied_model_that_has_no_other(make: Make, names: str) -> None:
    make(names.split()[0], n=24)
    splits = load(make(names.split()[1], n=6))
    own = for_supplied(splits)
    assert pixels_of(own.calibration) | pixels_of(own.test) == pixels_of(splits.validation)
    assert [len(part) for part in parts(own)] == [48, 0, 6, 6]
    assert (splits.test_part, own.test_part, splits.untrainable) == ("split", "validation", "")
    assert "no test part" in own.findings[0].text


def test_images_that_came_for_training_alone_are_not_measured_and_those_in_one_piece_are_marked(make: Make) -> None:
    make("eval", n=3)
    with pytest.raises(BadData, match=r"only train \(left out: 1 beside the parts \('eval'\)\); .* add test or val"):
        for_supplied(load(make()))
    own = for_supplied(load(make() / "train"))
    assert (own.test_part, "in one piece" in own.findings[0].text) == ("split", True)


def test_classes_directly_in_the_folder_are_split_10_1_1_2_even_with_names_of_parts(make: Make) -> None:
    splits = load(make("", ("bus", "train"), n=28))
    assert [len(part) for part in parts(splits)] == [40, 4, 4, 8]
    assert (splits.test.classes, splits.given) == (("bus", "train"), ())


@pytest.mark.parametrize(("depth", "said"), [("*", "no class"), ("*/*", "no usable image")])
def test_links_out_of_the_folder_are_counted_where_nothing_else_is_there(
    make: Make, tmp_path: Path, depth: str, said: str
) -> None:
    store = make() / "train"
    for target in store.glob(depth):
        link = tmp_path / "links" / "train" / target.relative_to(store)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    count = len(list(store.glob(depth)))
    with pytest.raises(BadData, match=rf"holds {said} \(left out: {count} a link that leaves the folder\)"):
        load(tmp_path / "links")


def test_all_faults_of_a_folder_are_told_at_once(make: Make) -> None:
    make("Test", ("cat", "ant"), n=5)
    make("test", n=5)
    save(make() / "train" / "dog" / "wide.png", picture(0, (8, 9, 3)))
    with pytest.raises(BadData, match=r"^3 faults") as caught:
        load(make())
    words = ("'Test' and 'test' are both test", "class 'ant' is under test and not under train", "one size")
    assert all(word in fault for word, fault in zip(words, caught.value.faults, strict=True))


def test_reading_is_reported_by_the_number_of_files(make: Make) -> None:
    seen: list[object] = []

    class Told(Quiet):
        @contextmanager
        def bar(self, label: str, total: int) -> Iterator[Advance]:
            seen.append((label, total))
            yield lambda done, note: seen.append(done)

    source(f"folder:{make(n=50)}").load(None, progress=Told())
    assert seen == [("reading images", 100), 0, 64]


# Pixels


def one(tmp_path: Path, path: Path) -> NDArray[np.float32]:
    """The pixels [c h w] that a folder of copies of one file gives."""
    for name in ("a", "b"):
        for i in range(14):
            target = tmp_path / "one" / name / f"{i}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    images: NDArray[np.float32] = load(tmp_path / "one").test.load_all()[0].numpy()
    return images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".ppm", ".PNG"])
def test_lossless_files_give_their_pixels_over_255(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"x{suffix}", picture(3))
    np.testing.assert_array_equal(
        one(tmp_path, tmp_path / f"x{suffix}"), picture(3).transpose(2, 0, 1) / np.float32(255)
    )


def test_grey_files_alone_have_one_channel_and_beside_colour_three(make: Make, tmp_path: Path) -> None:
    save(tmp_path / "x.png", picture(3, (8, 8)))
    np.testing.assert_array_equal(one(tmp_path, tmp_path / "x.png"), picture(3, (1, 8, 8)) / np.float32(255))
    save(make() / "train" / "cat" / "grey.png", picture(3, (8, 8)))
    images = load(tmp_path / "set").train.load_all()
    assert images.shape[1] == 3
    grey = torch.from_numpy(picture(3, (8, 8))).float() / 255
    assert any(torch.equal(image, grey.expand(3, 8, 8)) for image in torch.cat([images]))


def test_16_bits_of_grey_are_kept(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_allclose(one(tmp_path, tmp_path / "x.png")[0], deep / 65535, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".jfif", ".jpe", ".JPG", "", ".dat", ".gif", ".GIF"])
def test_a_file_is_known_by_its_content_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    name, kind = f"x{suffix}", {".gif": "GIF", ".webp": "WEBP"}.get(suffix.lower(), "JPEG")
    first, second = (Image.fromarray(picture(i)) for i in (3, 4))
    more = {"save_all": True, "append_images": [second]} if kind == "GIF" else {}
    (tmp_path / "in").mkdir()
    first.save(tmp_path / "in" / name, kind, **more)
    with Image.open(tmp_path / "in" / name) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(one(tmp_path, tmp_path / "in" / name), expected)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_are_what_pillow_makes_of_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture(3)).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(path)
    wanted = np.asarray(Image.open(path).convert("L" if mode in ("LA", "1") else "RGB")) / np.float32(255)
    np.testing.assert_array_equal(
        one(tmp_path, path), wanted[None] if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    )


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the first row is the right-hand side
    save(tmp_path / "x.png", picture(3), exif=exif)
    expected = np.rot90(picture(3), -1).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(one(tmp_path, tmp_path / "x.png"), expected)


def test_image_size_takes_the_middle_square_after_scaling_the_short_side(tmp_path: Path, make: Make) -> None:
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 200  # the middle square
    for i in range(14):
        save(make("", n=14) / "cat" / f"{i:03d}.png", wide)
    splits = load(tmp_path / "set", 4)
    assert splits.train.shape == (3, 4, 4)
    middle = splits.train.load_all()[splits.train.labels == 0][0]
    assert float(middle[:, :, 1:3].min()) == pytest.approx(200 / 255)
    assert splits.train.load_all().mean() > 0.4


def test_an_image_size_out_of_range_or_for_other_data_is_refused(make: Make) -> None:
    for size in (0, 5000):
        with pytest.raises(BadSetting, match="it must be from 1 to 1024"):
            load(make(), size)
    with pytest.raises(BadSetting, match="image_size = 8 is for image folders"):
        source("digits", 8)


# Streaming


@pytest.fixture
def both(make: Make) -> tuple[Splits, Splits]:
    make("test", n=30)
    folder = make(n=36)
    return ImageFolder(folder, "folder:set").load(None), ImageFolder(folder, "folder:set", limit=1000).load(None)


def test_a_streamed_folder_is_on_disk_and_has_the_same_images_labels_and_fingerprint(
    both: tuple[Splits, Splits],
) -> None:
    eager, streamed = both
    assert all(isinstance(part.pixels, Streamed) for part in parts(eager))
    assert all(isinstance(part.pixels, Streamed) for part in parts(streamed))
    for ours, theirs in zip(parts(streamed), parts(eager), strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours.load_all(), theirs.load_all())
        assert torch.equal(ours.labels, theirs.labels)
    assert fingerprint(streamed) == fingerprint(eager)
    assert fingerprint(for_supplied(streamed)) == fingerprint(for_supplied(eager))


def test_training_and_outputs_are_the_same_bits_from_disk(both: tuple[Splits, Splits]) -> None:
    from advbench.training.loop import Trainer
    from advbench.victim import build

    results = []
    for splits in both:
        body, head = build("digits-cnn", 2, "softmax", {}, shape=(3, 8, 8), classes=2, seed=0)
        cpu = torch.device("cpu")
        settings = Training(epochs=2, batch_size=16)
        trainer = Trainer(body, head, splits.train, splits.validation, settings, seed=0, device=cpu)
        trainer.run()
        victim = Victim(Composed(body, head), shape=(3, 8, 8), classes=2, device=cpu, batch_size=7)
        results.append(
            (trainer.epochs[-1].loss, trainer.epochs[-1].validation_error, victim.outputs(splits.test.pixels))
        )
    (loss, error, outputs), (loss2, error2, outputs2) = results
    assert (loss, error) == (loss2, error2)
    assert torch.equal(outputs.logits, outputs2.logits)


def test_a_file_that_vanishes_while_it_is_streamed_is_named(both: tuple[Splits, Splits], tmp_path: Path) -> None:
    for file in (tmp_path / "set" / "test" / "cat").iterdir():
        file.unlink()
    with pytest.raises(BadData, match=r"test/cat/.* changed while it was in use"):
        both[1].test.load_all()


# Bad input, through the command line


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, in a few kilobytes where they are packed."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, Path]]:
    """Trains on the folder for an epoch: exit status, what stderr says, and the run's folder."""

    def run(*more: str) -> tuple[int, str, Path]:
        words = ["train", "--dataset", f"folder:{tmp_path / 'set'}", "--network", "digits-cnn", "--epochs", "1"]
        words += ["--runs-dir", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports"), "--json", *more]
        status = main(words)
        made = list((tmp_path / "runs").iterdir()) if (tmp_path / "runs").exists() else []
        return status, capsys.readouterr().err, made[0] if made else tmp_path

    return run


Train = Callable[..., tuple[int, str, Path]]


def test_files_that_cannot_be_used_are_left_out_counted_told_and_recorded(
    make: Make, train: Train, tmp_path: Path
) -> None:
    make("test", n=5)
    cat = make() / "train" / "cat"
    whole = (cat / "000.png").read_bytes()
    (cat / "cut.png").write_bytes(whole[: len(whole) // 2])
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "text.jpg").write_text("<script>alert(1)</script>")
    (cat / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # for a decoder not asked
    (cat / "bomb.png").write_bytes(bomb(31_623))
    (cat / "smaller-bomb.png").write_bytes(bomb(8_193))
    (cat / "notes.txt").write_text("not an image by its name")
    (cat / ".hidden.png").write_bytes(whole)
    (cat / "nested.png").mkdir()
    (tmp_path / "outside.png").write_bytes(whole)
    (cat / "link.png").symlink_to(tmp_path / "outside.png")
    (cat / "dangling.png").symlink_to(cat / "nothing")
    os.mkfifo(cat / "pipe.png")
    (cat.parent / "stray.png").write_bytes(whole)
    (cat.parent / "away").symlink_to(tmp_path)
    status, said, folder = train()
    assert status == 0, said
    expected = {
        "truncated or no image": 3, "empty": 1, "more than 67,108,864 pixels": 2, "no image by its name": 1,
        "hidden": 1, "a folder inside a class folder": 1, "a link that leaves the folder": 2, "no regular file": 2,
        "in no class folder": 1,
    }  # fmt: skip
    steps = runs.load(folder).steps
    assert steps["outputs"].info["excluded"] == expected
    assert steps["train"].info["n_train"] == 40
    flat = " ".join(said.split())
    assert "folder:set: left out" in flat
    assert all(f"{count} {reason}" in flat for reason, count in expected.items())
    assert str(tmp_path) not in (folder / "manifest.json").read_text() + (folder / "steps.journal").read_text()
    assert folder.name.startswith("folder-set-softmax-seed0-")


def empty(folder: Path) -> None:
    (folder / "train" / "ant").mkdir()


def unusable(folder: Path) -> None:
    (folder / "train" / "ant").mkdir()
    (folder / "train" / "ant" / "x.png").write_bytes(b"")


def one_class(folder: Path) -> None:
    for file in (folder / "train" / "dog").iterdir():
        file.unlink()
    (folder / "train" / "dog").rmdir()


def too_few(folder: Path) -> None:
    for name in ("cat", "dog"):
        for file in sorted((folder / "train" / name).iterdir())[5:]:
            file.unlink()


def extra(folder: Path) -> None:
    save(folder / "test" / "<script>alert(1)</script>".replace("/", ":") / "x.png", picture(0))


def lacking(folder: Path) -> None:
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()


def sizes(folder: Path) -> None:
    save(folder / "train" / "dog" / "wide.png", picture(0, (8, 9, 3)))


def link(folder: Path) -> None:
    (folder / "test").rename(folder.parent / "other")
    (folder / "test").symlink_to(folder.parent / "other")


def no_train(folder: Path) -> None:
    (folder / "train").rename(folder / "pictures")


def gone(folder: Path) -> None:
    folder.rename(folder.parent / "moved")


def a_file(folder: Path) -> None:
    gone(folder)
    folder.write_bytes(b"PK")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty, "class 'ant' has no usable image under train; give it some, or remove the class everywhere"),
        (unusable, "class 'ant' has no usable image under train (left out: 1 empty)"),
        (one_class, "holds one class, 'cat'; a classifier needs at least two"),
        (too_few, "folder:set has no usable image for validation; give at least 12 images to be split"),
        (extra, "class '<script>alert(1)<:script>' is under test and not under train"),
        (lacking, "class 'dog' has no usable image under test"),
        (sizes, "'train/cat/000.png' has 8 x 8 pixels and 'train/dog/wide.png' 9 x 8; images must have one size"),
        (link, "is a link that leaves"),
        (no_train, "no class has a usable image under train (left out: 1 beside the parts ('pictures')); give"),
        (gone, "does not exist; write --dataset folder:PATH with an existing folder"),
        (a_file, "is a file, not a folder; for arrays write npz:PATH or safetensors:PATH"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused_in_a_sentence(
    make: Make, train: Train, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    make("test", n=5)
    make()
    spoil(tmp_path / "set")
    status, told, _ = train()
    (line,) = (line for line in told.splitlines() if not line.startswith("reading images: "))
    assert status == 2
    assert said in line
    assert not (tmp_path / "runs").exists()


NAMES = ("<script>alert(1)<", "قطة", "猫", "🐈‍⬛", "a..b", "$\\frac{", "x" * 250, "{{ 7*7 }}")


def test_class_and_folder_names_of_any_kind_train_and_make_a_page(make: Make, train: Train, tmp_path: Path) -> None:
    make("test", NAMES, n=2)
    make("calibration", NAMES, n=25)  # the audit's threshold at an fpr of 0.05 wants 200 images
    odd = make("train", NAMES, n=12).rename(tmp_path / "<script>alert(1)< $\\frac{ قطة")
    assert load(odd).train.classes == tuple(sorted(NAMES))
    more = ["--dataset", f"folder:{odd}"]
    status, told, folder = train(*more)
    assert status == 0, told
    assert folder.name.startswith("folder--script-alert(1)- $-frac{ قطة-softmax")
    place = ["--runs-dir", str(folder.parent), "--reports-dir", str(tmp_path / "reports")]
    words = ["attack", *more, "--network", "digits-cnn", "--epochs", "1", "--eps", "8/255", *place]
    assert main(words) == 0
    assert main(["report", *place]) == 0
    (page,) = (tmp_path / "reports").glob("*/index.html")
    html = page.read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;" in html
    assert str(tmp_path) not in html
    assert "folder:PATH/&lt;script&gt;" in html
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "reports", odd.name}


def test_a_file_or_folder_without_permission_is_told(make: Make) -> None:
    code = """
import os, sys, encodings.idna, sklearn.model_selection
from advbench.data.sources import source
if os.getuid() == 0:
    os.setuid(65534)  # root may read everything
print(source("folder:" + sys.argv[1]).load(None).excluded)
"""
    with tempfile.TemporaryDirectory() as reachable:
        folder = make().rename(Path(reachable) / "set")
        Path(reachable).chmod(0o755)
        (folder / "train" / "cat" / "000.png").chmod(0)
        done = python(code, folder)
        assert "{'no permission to read': 1}" in done.stdout, done.stderr
        (folder / "train" / "dog").chmod(0)
        assert "cannot be listed: Permission denied" in python(code, folder).stderr
        (folder / "train" / "dog").chmod(0o755)


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
