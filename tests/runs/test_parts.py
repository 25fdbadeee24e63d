"""An attack in parts: what a kill, a full disk or a stranger's part costs, and what --keep-images leaves."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from advbench.audit.protocol import audit
from advbench.errors import BadRun, BadSetting
from advbench.runs import Run, artifacts
from advbench.runs.growing import attack_file
from advbench.runs.growing.attack_file import AttackFile
from advbench.runs.growing.tensor_file import TensorFile, mapped, shapes_of
from advbench.study.attack_rows import in_eight_bits
from advbench.study.doctor import examine
from advbench.study.verify import verify
from tests.helpers import studies
from tests.helpers.command_line import advbench, assert_refused
from tests.helpers.damage import flip, largest_file
from tests.helpers.studies import Heard, only_run

N, BATCH, NAME = 37, 5, "pgd-eps0.1"  # eight batches, the last of two images
TABLE: dict[str, Any] = {
    "losses": "softmax", "n": N, "attacks": [{"name": "pgd", "eps": 0.1, "steps": 2}], "detectors": ["energy"],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    studies.study(folder, batch_size=BATCH, **TABLE).train()
    return folder


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the attack without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "one"
    shutil.copytree(trained, folder)
    attack(folder)
    return attacked(folder).read_bytes()


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained model, whose attacks note every batch as a part."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.setattr(attack_file, "BYTES", 1)
    return tmp_path / "copy"


def attack(folder: Path, progress: Heard | None = None, **table: Any) -> None:
    studies.study(folder, batch_size=BATCH, progress=progress, **TABLE | table).attack()


def attacked(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("*/attacks/pgd*.safetensors")
    return path


class Stop(BaseException):
    """The process ends here."""


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, done: list[slice]) -> None:
    """The attack ends before this call of a method of its file; `done` is what it attacked."""
    take, real, calls = AttackFile.take, getattr(AttackFile, name), list[int]()

    def stopped(self: AttackFile, *args: Any) -> object:
        calls.append(0)
        if len(calls) == call:
            raise Stop
        if name == "take":
            done.append(args[0])
        return real(self, *args)

    def counted(self: AttackFile, part: slice, made: Any) -> None:
        done.append(part)
        take(self, part, made)

    monkeypatch.setattr(AttackFile, "take", counted)
    monkeypatch.setattr(AttackFile, name, stopped)


@pytest.mark.parametrize(("name", "call"), [("take", 1), ("take", 4), ("score", 8), ("_note", 9), ("forget", 1)])
def test_a_killed_attack_goes_on_and_gives_the_same_bytes(
    here: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    done: list[slice] = []
    with monkeypatch.context() as patch:
        stop_at(patch, name, call, done)
        with pytest.raises(Stop):
            attack(here)
    heard = Heard()
    with monkeypatch.context() as patch:
        stop_at(patch, "take", 99, done)
        attack(here, heard)
    assert attacked(here).read_bytes() == whole
    assert sum(part.stop - part.start for part in done) <= N + BATCH  # at most one part twice
    assert [line for line in heard.said if "going on after image" in line] or call == 1
    assert not list((here / "runs").rglob(".pgd*"))


@pytest.mark.long
def test_twenty_kills_at_random_moments_cost_a_part_each_at_most(
    here: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    for _ in range(20):
        done: list[slice] = []
        for _ in range(draw.randint(1, 4)):
            with monkeypatch.context() as patch:
                stop_at(patch, draw.choice(["take", "images", "score", "_note"]), draw.randint(1, 2), done)
                with pytest.raises(Stop):
                    attack(here)
        attack(here)
        assert attacked(here).read_bytes() == whole
        only_run(here).drop(f"attack {attacked(here).name.removesuffix('.safetensors')}")


def killed_at(here: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> tuple[Path, Path]:
    """The file and the journal of an attack that was killed."""
    with monkeypatch.context() as patch:
        stop_at(patch, "take", call, [])
        with pytest.raises(Stop):
            attack(here)
    (file,), (journal,) = ((here / "runs").rglob(f".pgd*.{kind}") for kind in ("parts", "journal"))
    return file, journal


def spoilt_first(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path, Path], object]] = {
    "part missing": lambda file, journal: file.unlink(),
    "first rows altered": lambda file, journal: spoilt_first(file),
    "longer": lambda file, journal: file.write_bytes(file.read_bytes() + b"0"),
    "no file": lambda file, journal: file.write_bytes(b"\xff" * 100),
    "journal altered": lambda file, journal: flip(journal),
    "of another run": lambda file, journal: journal.write_bytes(
        (next(journal.parent.parent.glob("steps.journal"))).read_bytes()
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_parts_that_are_not_as_they_were_noted_are_made_again(
    here: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    HARMS[harm](*killed_at(here, monkeypatch, 6))
    assert [row.state for row in examine(here / "runs")] == ["unfinished" if harm != "part missing" else "whole"]
    heard = Heard()
    attack(here, heard)
    (line,) = [line for line in heard.said if "going on after image" in line]
    assert f"after image 0 of {N}" in line or harm == "first rows altered"
    assert attacked(here).read_bytes() == whole


def test_a_full_disk_in_the_middle_of_a_part_costs_that_part(here: Path, whole: bytes) -> None:
    with largest_file(5000), pytest.raises(BadSetting, match=r"cannot write .*free space"):
        attack(here)
    attack(here)
    assert attacked(here).read_bytes() == whole


@pytest.mark.parametrize("n", [1, 2, 7])
def test_an_attack_on_few_images_is_the_first_of_more(here: Path, whole: bytes, n: int, tmp_path: Path) -> None:
    attack(here, n=n)
    (tmp_path / "whole").write_bytes(whole)
    few, all_of_them = load_file(attacked(here)), load_file(tmp_path / "whole")
    assert few.keys() == all_of_them.keys()
    for name, tensor in few.items():
        torch.testing.assert_close(tensor, all_of_them[name][:n])


# -- fewer images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 9, 1000])
def test_fewer_images_change_no_figure_and_the_audit_says_what_it_did_not_see(
    here: Path, tmp_path: Path, keep: int
) -> None:
    shutil.copytree(here, tmp_path / "all")
    few = studies.study(here, batch_size=BATCH, keep_images=keep, **TABLE)
    rows, all_rows = few.attack(), studies.study(tmp_path / "all", batch_size=BATCH, **TABLE).attack()
    assert rows == all_rows
    run, other = only_run(here), only_run(tmp_path / "all")
    (name,) = run.attacks
    made, every = artifacts.read_adversarials(run, name), artifacts.read_adversarials(other, name)
    kept = min(keep, N)
    assert torch.equal(made.images, every.images[:kept])
    assert torch.equal(made.outputs.logits, every.outputs.logits)
    assert verify(run, [name], ["energy"]) == verify(other, [name], ["energy"])
    (found,) = [f for f in audit(run) if f.name == "rechecked"]
    assert (f"{N - kept} were not kept" in found.evidence) == (kept < N)
    assert found.state == "met"
    if kept < N:
        assert made.clean is not None
        assert torch.equal(made.clean, few.splits.test.take(slice(kept)).load_all())
        heard = Heard()
        attack(here, heard)
        assert [line for line in heard.said if f"keeps {kept} of {N} images" in line]


def test_a_run_that_keeps_all_its_images_keeps_them(here: Path, whole: bytes) -> None:
    attack(here)
    studies.study(here, batch_size=BATCH, keep_images=2, **TABLE).attack()
    assert attacked(here).read_bytes() == whole


@pytest.mark.parametrize("value", ["-1", "some", "1.5", ""])
def test_a_number_of_images_to_keep_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    said = assert_refused(advbench("attack", "--keep-images", value, "--runs-dir", tmp_path))
    assert "keep_images" in said
    assert "or all" in said


# -- files of tensors --------------------------------------------------------------------------------------------


def tensors(n: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "images": torch.rand(n, 3, 5, 7, generator=rng), "index": torch.arange(n), "features": torch.rand(n, 3),
        "saturated": torch.rand(n, generator=rng) > 0.5, "logits": torch.rand(n, 0), "labels": torch.arange(n),
    }  # fmt: skip


@pytest.mark.parametrize(("n", "step"), [(1, 1), (10, 3), (10, 100), (0, 1)])
def test_a_file_written_in_rows_has_the_bytes_of_one_written_whole(tmp_path: Path, n: int, step: int) -> None:
    whole = tensors(n)
    file = TensorFile(tmp_path / "x", shapes_of(whole))
    file.begin()
    for start in range(0, n, step):
        file.put({name: rows[start : start + step] for name, rows in whole.items()}, start)
    record = file.done()
    assert (tmp_path / "x").read_bytes() == save(whole)
    assert record.bytes == len(save(whole))
    read = mapped(tmp_path / "x")
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], whole[name]) for name in whole)


def test_large_tensors_are_maps_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advbench.runs.growing.tensor_file.MAPPED_ABOVE", 1)
    whole = tensors(10)
    (tmp_path / "x").write_bytes(save(whole))
    read = mapped(tmp_path / "x")
    assert all(torch.equal(read[name], whole[name]) for name in whole)
    read["features"][0] = 7  # of this process alone
    assert torch.equal(mapped(tmp_path / "x")["features"], whole["features"])
    assert torch.equal(in_eight_bits(read["images"])[3:5], (whole["images"][3:5] * 255).round() / 255)


@pytest.mark.parametrize("header", [2**40, 10**6])
def test_a_header_that_claims_more_than_there_is_is_refused(here: Path, header: int) -> None:
    attack(here)
    run: Run = only_run(here)
    (name,) = run.attacks
    data = (
        header.to_bytes(8, "little") + b'{"images":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000]}}'
    )
    step = run.steps[f"attack {name}"]
    run.write(f"attack {name}", {f"attacks/{name}.safetensors": data}, seconds=1.0, info=step.info)
    with pytest.raises(BadRun, match="does not hold what it should"):
        artifacts.read_adversarials(run, name)
