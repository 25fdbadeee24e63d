"""An attack in shards: the bytes of the attack made whole, and nothing missing or doubled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advbench import cli
from advbench.cli.shards import shard_of
from advbench.errors import BadRun, BadSetting
from advbench.grid.shards import attack
from advbench.progress import Progress
from advbench.runs.json_records import as_json
from advbench.runs.shards import FOLDER, Shard
from advbench.study.study import Study
from tests.helpers import studies
from tests.helpers.damage import cut, flip
from tests.helpers.studies import Heard, only_run, tensors

N, BATCH = 50, 12
ATTACKS: list[dict[str, Any]] = [
    {"name": "fgsm", "eps": 0.1},
    {"name": "pgd", "eps": 0.1, "steps": 3},
    {"name": "square", "eps": 0.1, "queries": 5},
    {"name": "detector-aware", "eps": 0.1, "budget": "quick", "detector": "max-posterior", "fpr": 0.1, "n": 26},
    {"name": "transfer", "eps": 0.1, "source": "center"},
    {"name": "autoattack", "eps": 0.1, "n": 24},
]


def study(folder: Path, *attacks: dict[str, Any], batch: int = BATCH, progress: Progress | None = None) -> Study:
    table: dict[str, Any] = {"losses": "lgm", "attacks": list(attacks), "n": N}
    return studies.study(folder, batch_size=batch, progress=progress, **table)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every attack, unsharded; do not write here."""
    folder = tmp_path_factory.mktemp("whole")
    study(folder, *ATTACKS).attack()
    return folder


def assert_some_of(whole: Path, folder: Path) -> None:
    """Every tensor file of a folder is that of the unsharded attacks."""
    assert tensors(folder).items() <= tensors(whole).items()


@pytest.mark.parametrize("of", [2, 3])
def test_sharded_is_unsharded_byte_for_byte(whole: Path, tmp_path: Path, of: int) -> None:
    attacks = ATTACKS if of == 2 else ATTACKS[:1]
    rows = [attack(study(tmp_path, *attacks), Shard(i, of)) for i in range(of, 0, -1)]
    assert rows[:-1] == [[]] * (of - 1)
    assert rows[-1] == study(whole, *attacks).attack()
    assert_some_of(whole, tmp_path)
    assert len([name for name in tensors(tmp_path) if "/attacks/" in name]) == len(attacks)
    assert not list(tmp_path.rglob(f"{FOLDER}/*"))


def test_shards_are_blocks_of_whole_batches_that_hold_every_image_once() -> None:
    for n, batch, of in ((300, 64, 5), (300, 64, 2), (50, 12, 4), (1, 256, 1), (257, 256, 2)):
        parts = [Shard(i, of).part(n, batch) for i in range(1, of + 1)]
        assert [i for part in parts for i in range(n)[part]] == list(range(n))
        assert all(part.start % batch == 0 for part in parts)


def test_more_shards_than_batches_are_refused_with_a_batch_that_would_do() -> None:
    with pytest.raises(BadSetting, match="--batch-size of 75"):
        Shard(4, 4).part(300, 256)
    assert Shard(4, 4).part(300, 75) == slice(225, 300)


def test_a_shard_is_named_by_hand_or_by_torchrun() -> None:
    assert shard_of("2/4", {}) == Shard(2, 4)
    assert shard_of("auto", {"RANK": "0", "WORLD_SIZE": "4"}) == Shard(1, 4)
    for text in ("0/4", "5/4", "1", "a/b", "auto", "1/0"):
        with pytest.raises(BadSetting):
            shard_of(text, {})


def merge(folder: Path) -> int:
    run = only_run(folder)
    return cli.main(["merge", run.name, "--runs-dir", str(folder / "runs"), "--device", "cpu", "--json"])


def test_merge_joins_the_shards_of_two_machines(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fgsm = ATTACKS[0]
    attack(study(tmp_path / "a", fgsm), Shard(1, 2))
    attack(study(tmp_path / "b", fgsm), Shard(2, 2))
    assert merge(tmp_path / "a") == 2
    assert "26 of 50 images, the first of them image 24, are in none of the shards 1/2" in capsys.readouterr().err
    there = only_run(tmp_path / "b").folder / FOLDER
    for path in there.rglob("*-of-*"):
        target = only_run(tmp_path / "a").folder / FOLDER / path.relative_to(there)
        target.write_bytes(path.read_bytes())
        assert str(tmp_path).encode() not in path.read_bytes()
    assert merge(tmp_path / "a") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == as_json(study(whole, fgsm).attack())
    assert_some_of(whole, tmp_path / "a")
    assert merge(tmp_path / "a") == 2
    assert "holds no shards" in capsys.readouterr().err


def test_an_image_in_two_shards_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack(study(tmp_path, ATTACKS[0]), Shard(1, 3))
    attack(study(tmp_path, ATTACKS[0]), Shard(1, 2))
    with pytest.raises(BadRun, match="image 0 is in 2 of the shards"):
        attack(study(tmp_path, ATTACKS[0]), Shard(2, 2))
    assert merge(tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_shards_of_other_batches_are_refused(tmp_path: Path) -> None:
    attack(study(tmp_path, ATTACKS[0]), Shard(1, 2))
    with pytest.raises(BadRun, match="different evaluation batches"):
        attack(study(tmp_path, ATTACKS[0], batch=10), Shard(2, 2))


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("name", ["1-of-2.safetensors", "1-of-2.json"])
def test_a_damaged_shard_is_named_and_made_again(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: Callable[[Path], None]
) -> None:
    attack(study(tmp_path, ATTACKS[0]), Shard(1, 2))
    (file,) = tmp_path.rglob(name)
    harm(file)
    harmed = file.read_bytes()
    assert merge(tmp_path) == 2
    said = capsys.readouterr().err
    assert name in said
    assert "advbench attack --shard" in said
    assert file.read_bytes() == harmed
    heard = Heard()
    assert attack(study(tmp_path, ATTACKS[0], progress=heard), Shard(2, 2)) == []
    assert [line for line in heard.said if name in line and "shard 1/2 has to be made again" in line]
    assert len(attack(study(tmp_path, ATTACKS[0]), Shard(1, 2))) == 1
    assert_some_of(whole, tmp_path)


@pytest.mark.parametrize("name", ["1-of-2.safetensors", "1-of-2.json"])
def test_a_damaged_shard_is_made_again_by_the_call_for_it(whole: Path, tmp_path: Path, name: str) -> None:
    attack(study(tmp_path, ATTACKS[0]), Shard(1, 2))
    (file,) = tmp_path.rglob(name)
    before = {path.name: path.read_bytes() for path in file.parent.glob("*.safetensors")}
    flip(file)
    heard = Heard()
    attack(study(tmp_path, ATTACKS[0], progress=heard), Shard(1, 2))
    assert [line for line in heard.said if name in line]
    assert {path.name: path.read_bytes() for path in file.parent.glob("*.safetensors")} == before
    assert len(attack(study(tmp_path, ATTACKS[0]), Shard(2, 2))) == 1
    assert_some_of(whole, tmp_path)


@pytest.mark.parametrize("pattern", ["model.safetensors", "attacks/fgsm-*.safetensors"])
def test_what_shards_are_made_from_and_merged_to_is_made_again_too(whole: Path, tmp_path: Path, pattern: str) -> None:
    for i in (1, 2):
        attack(study(tmp_path, ATTACKS[0]), Shard(i, 2))
    (file,) = only_run(tmp_path).folder.glob(pattern)
    flip(file)
    heard = Heard()
    rows = [attack(study(tmp_path, ATTACKS[0], progress=heard), Shard(i, 2)) for i in (1, 2)]
    assert rows == [[], study(whole, ATTACKS[0]).attack()]
    assert len([line for line in heard.said if file.name in line]) == 1
    assert_some_of(whole, tmp_path)
