"""One attack in parts, each made by a process of its own, and their union: the bytes of the attack made whole.

A shard is a block of whole evaluation batches, in a pair of files below the run's folder, the second written last:
shards/<attack>/<i>-of-<n>.safetensors   as attacks/<attack>.safetensors, of its images alone
shards/<attack>/<i>-of-<n>.json          sha256 and bytes of the first; i, n; first: its first image; weights,
                                         batch_size, seconds; members, info and implementation of the attack;
                                         table: a spec of the model and the attack
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advbench import artifacts, disk, mending, runs, scoring, seals, stored
from advbench.cells import attack_table, model_table
from advbench.errors import BadRun, BadSetting, Damaged
from advbench.pipeline import Study
from advbench.runs import Run
from advbench.scoring import Row
from advbench.seals import sealed
from advbench.sources import label
from advbench.spec import AttackChoice, Model
from advbench.types import Adversarials

FOLDER = "shards"
CURE = "make the shard again with: advbench attack --shard"
OWN = re.compile(r"\d+-of-\d+\.(json|safetensors)|\..*\.part")
Note = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `of`, counted from 1."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise BadSetting(f"shard {self} is none; write 1/4 for the first of four, 4/4 for the last")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def part(self, n: int, batch: int) -> slice:
        """Its images of n: whole batches, so that a batch is the same with shards and without.

        Raises BadSetting where there are fewer batches than shards.
        """
        batches = -(-n // batch)
        if self.of > batches:
            raise BadSetting(
                f"{n} images are {batches} batches of {batch}, too few for {self.of} shards; take a --batch-size of "
                f"{max(1, n // self.of)} or fewer shards"
            )
        start, stop = (batches * i // self.of * batch for i in (self.index - 1, self.index))
        return slice(start, min(stop, n))


def attack(study: Study, shard: Shard) -> list[Row]:
    """One shard of every attack of a study; the rows of those whose last shard this was.

    A model that does not exist is trained by the first process that comes, the others wait.
    """
    study.waits = True
    rows = []
    for model in study.models():
        assert isinstance(model, Model)
        say = study.place.progress.say
        with study.run_of(model) as run:
            study.perform(run, model, None)
            for choice in study.attacks:
                mending.is_whole(run, f"attack {choice.file_name}", say)
        for choice in study.attacks:
            if f"attack {choice.file_name}" not in run.steps:
                _make(study, run, model, choice, shard)
            with study.run_of(model) as run:
                if f"attack {choice.file_name}" not in run.steps and not _all_there(run, choice, shard.of, say):
                    study.place.progress.say(f"{run.name}: {choice.file_name}: shard {shard} is done, not all are")
                    continue
                rows.append(merge(study, run, model, choice))
    return rows


def merge(study: Study, run: Run, model: Model, choice: AttackChoice) -> Row:
    """Join an attack's shards into the step of the whole attack, in its held run; they are deleted.

    Raises BadRun where an image is in none of them or in two, where they were not made alike, or one is damaged.
    """
    folder = folder_of(run, choice.file_name)
    if not run.has(f"attack {choice.file_name}"):
        began = time.perf_counter()
        notes = notes_of(folder)
        _check_alike(folder, notes, _weights(run))
        tensors = [artifacts.tensors_of(read_shard(folder, note)) for note in notes]
        if len({tuple((name, t.shape[1:]) for name, t in part.items()) for part in tensors}) > 1:
            raise BadRun(f"the shards in {folder} are of images or models of different sizes; delete them")
        made = _joined(tensors, notes)
        n = len(study.splits.test.take(slice(choice.n)))
        _check_complete(folder, notes, made.index, n)
        began -= sum(note["seconds"] for note in notes)
        study.keep(run, model, choice, made, notes[0]["info"], began=began)
    delete(folder)
    return scoring.attack_row(run, choice.file_name)


def folder_of(run: Run, attack: str) -> Path:
    """Where the shards of an attack lie; raises BadRun where that is a link."""
    return disk.inside(run.folder, f"{FOLDER}/{attack}")


def delete(folder: Path) -> None:
    """Delete the shards in a folder, and it where nothing else lies there."""
    for path in folder.glob("*"):
        if OWN.fullmatch(path.name) and not path.is_dir():
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def notes_of(folder: Path) -> list[Note]:
    """What is noted of each shard of an attack, in the order of their images; raises BadRun where that is altered."""
    notes = [note for path in folder.glob("*.json") if (note := _read_note(path)) is not None]
    return sorted(notes, key=lambda note: (note["first"], note["of"]))


def _read_note(path: Path) -> Note | None:
    """What is noted of a shard, None where there is nothing; raises Damaged where that was altered."""
    note: Note | None = disk.read_note(path, stored.SHARD, CURE, is_sealed=True)
    if note is not None and path.name != f"{note['shard']}-of-{note['of']}.json":
        raise Damaged(f"{path} was altered: it is of another shard; {CURE}")
    return note


def _make(study: Study, run: Run, model: Model, choice: AttackChoice, shard: Shard) -> None:
    """Attack the shard's images and write its files, where they are not there."""
    images = len(study.splits.test.take(slice(choice.n)))
    batch = study.place.batch_size
    part = shard.part(images, batch)
    folder, name = folder_of(run, choice.file_name), _name(shard)
    if _is_there(folder, shard, study.place.progress.say):
        return
    began = time.perf_counter()
    made, info = study.perturb(run, model, choice, part)
    data = artifacts.pack_adversarials(made)
    note = {
        "schema": runs.SCHEMA,
        "sha256": seals.sha256(data),
        "bytes": len(data),
        "shard": shard.index,
        "of": shard.of,
        "first": part.start,
        "weights": _weights(run),
        "batch_size": batch,
        "seconds": time.perf_counter() - began,
        "members": list(made.members),
        "implementation": made.implementation,
        "info": info,
        "table": model_table(study.spec, model)
        | {"dataset": label(study.spec.dataset), "attacks": [attack_table(choice)]},
    }
    disk.write_whole(folder / f"{name}.safetensors", data)
    disk.write_whole(folder / f"{name}.json", seals.to_json(sealed(note)))


def _name(shard: Shard) -> str:
    return f"{shard.index}-of-{shard.of}"


def _weights(run: Run) -> str:
    """Of the model that was attacked."""
    return str(run.steps["train"]["files"][artifacts.MODEL]["sha256"])


def _is_there(folder: Path, shard: Shard, say: mending.Say) -> bool:
    """Whether a shard's files are there and whole; damaged ones are deleted, and `say` is told so."""
    name = _name(shard)
    try:
        note = _read_note(folder / f"{name}.json")
        if note is not None:
            read_shard(folder, note)
        return note is not None
    except Damaged as error:
        what, _, _ = str(error).partition("; ")
        say(f"{what}; shard {shard} has to be made again")
    for suffix in ("json", "safetensors"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return False


def read_shard(folder: Path, note: Note) -> Adversarials:
    """A shard's images and the rest; raises Damaged where the file is not the one that was noted."""
    path = folder / f"{_name(Shard(note['shard'], note['of']))}.safetensors"
    data = disk.read_whole(path, note["sha256"], note["bytes"], CURE)
    return artifacts.adversarials_of(data, path, note["first"])


def _all_there(run: Run, choice: AttackChoice, of: int, say: mending.Say) -> bool:
    """Whether all shards are there, which are then looked at: a damaged one is not."""
    folder, every = folder_of(run, choice.file_name), [Shard(i, of) for i in range(1, of + 1)]
    there = all((folder / f"{_name(shard)}.json").exists() for shard in every)
    return there and not [shard for shard in every if not _is_there(folder, shard, say)]  # all of them are looked at


def _check_alike(folder: Path, notes: Sequence[Note], weights: str) -> None:
    if not notes:
        raise BadRun(f"{folder} holds no shard; make it with: advbench attack --shard 1/2")
    for key, what in (("weights", "models"), ("batch_size", "evaluation batches")):
        if len({note[key] for note in notes}) > 1:
            raise BadRun(f"the shards in {folder} were made with different {what}; delete them and make them again")
    if notes[0]["weights"] != weights:
        raise BadRun(f"the shards in {folder} were made on a model before this one; delete them and make them again")


def _check_complete(folder: Path, notes: Sequence[Note], index: Tensor, n: int) -> None:
    """Every image of 0..n once, and no other."""
    counts = torch.bincount(index, minlength=n)
    names = ", ".join(f"{note['shard']}/{note['of']}" for note in notes)
    if int((counts > 1).sum()):
        first = int((counts > 1).nonzero()[0])
        raise BadRun(
            f"image {first} is in {int(counts[first])} of the shards {names} in {folder}; delete all but one"
        )
    if len(counts) > n or int((counts == 0).sum()):
        gap = (counts == 0).nonzero().flatten().tolist() or [n]
        raise BadRun(
            f"{len(gap)} of {n} images, the first of them image {gap[0]}, are in none of the shards {names} in "
            f"{folder}; make those that are missing with: advbench attack --shard"
        )


def _joined(parts: Sequence[dict[str, Tensor]], notes: Sequence[Note]) -> Adversarials:
    """The attack that these shards are parts of, in the order given."""
    used = " and ".join(sorted({note["implementation"] for note in notes if note.get("implementation")})) or None
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return artifacts.attack_of(joined, members=tuple(notes[0]["members"]), implementation=used)
