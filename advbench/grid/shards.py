"""Shards: one attack in parts, each made by its own process; their union has the bytes of the whole attack.

A shard is a block of whole evaluation batches, in a pair of files below the run's folder, the second written last:
shards/<attack>/<i>-of-<n>.safetensors   as attacks/<attack>.safetensors, of its images alone
shards/<attack>/<i>-of-<n>.json          sha256 and bytes of the first; i, n; first: its first image; weights,
                                         batch_size, seconds; members, info and implementation of the attack;
                                         table: a spec of the model and the attack
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from advbench.data.sources import label
from advbench.errors import BadRun, Damaged
from advbench.evasion.validity import check_images
from advbench.grid.cells import attack_table, model_table
from advbench.runs import AttackRow, Run, artifacts, as_json, repair, sealed, sealed_json, write_whole
from advbench.runs.files import move
from advbench.runs.growing.tensor_file import TensorFile, shapes_of
from advbench.runs.shards import Note, Shard, delete, folder_of, notes_of, read_note, read_shard
from advbench.study.spec import AttackChoice
from advbench.study.study import Study
from advbench.study.train import TrainedModel


def attack(study: Study, shard: Shard) -> list[AttackRow]:
    """One shard of every attack of a study; the rows of those whose last shard this was.

    A model that does not exist is trained by the first process that comes, the others wait.
    """
    study = Study(study.spec, study.workspace, weights=study.weights, waits=True)
    rows = []
    for model in study.trained:
        say = study.workspace.progress.say
        with study.run_of(model.model) as run:
            study.perform(run, model, None)
            for choice in study.attacks:
                repair.is_whole(run, f"attack {choice.file_name}", say)
        for choice in study.attacks:
            if f"attack {choice.file_name}" not in run.steps:
                _make(study, run, model, choice, shard)
            with study.run_of(model.model) as run:
                if f"attack {choice.file_name}" not in run.steps and not _all_there(run, choice, shard.of, say):
                    say(f"{run.name}: {choice.file_name}: shard {shard} is done, not all are")
                    continue
                rows.append(merge(study, run, model, choice))
    return rows


def merge(study: Study, run: Run, model: TrainedModel, choice: AttackChoice) -> AttackRow:
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
        images = study.splits.test.take(slice(choice.n))
        _check_complete(folder, notes, torch.cat([part["index"] for part in tensors]), len(images))
        file = TensorFile(run.folder / f"attacks/.{choice.file_name}.part", shapes_of(tensors[0], len(images)))
        file.begin()
        for note, part in zip(notes, tensors, strict=True):
            check_images(choice.attack, images.take(part["index"]).pixels, part["images"])
            file.put(part, note.first)
        used = " and ".join(sorted({note.implementation for note in notes if note.implementation})) or None
        said = {"members": notes[0].members, "implementation": used}
        began -= sum(note.seconds for note in notes)
        kept = run, model, choice, file, said, notes[0].info
        study.keep(*kept, seconds=lambda: time.perf_counter() - began)
    delete(folder)
    return run.attack_row(choice.file_name)


def _make(study: Study, run: Run, model: TrainedModel, choice: AttackChoice, shard: Shard) -> None:
    """Attack the shard's images and write its files, where they are not there."""
    batch = study.workspace.batch_size
    part = shard.part(len(study.splits.test.take(slice(choice.n))), batch)
    folder, name = folder_of(run, choice.file_name), shard.name
    if _is_there(folder, shard, study.workspace.progress.say):
        return
    final = folder / f"{name}.safetensors"
    made, info = study.perturb(run, model, choice, part, final)
    record = made.file.done()
    table = model_table(study.spec, model.model) | {
        "dataset": label(study.spec.dataset),
        "attacks": [attack_table(choice)],
    }
    note = Note(
        sha256=record.sha256,
        bytes=record.bytes,
        shard=shard.index,
        of=shard.of,
        first=part.start,
        weights=_weights(run),
        batch_size=batch,
        seconds=made.seconds,
        **made.said,
        info=info,
        table=table,
    )
    move(made.file.path, final)
    write_whole(folder / f"{name}.json", sealed_json.to_json(sealed(as_json(note))))
    made.forget()


def _weights(run: Run) -> str:
    """Of the model that was attacked."""
    return run.files[artifacts.MODEL].sha256


def _is_there(folder: Path, shard: Shard, say: repair.Say) -> bool:
    """Whether a shard's files are there and whole; damaged ones are deleted, and `say` is told so."""
    name = shard.name
    try:
        note = read_note(folder / f"{name}.json")
        if note is not None:
            read_shard(folder, note)
        return note is not None
    except Damaged as error:
        what, _, _ = str(error).partition("; ")
        say(f"{what}; shard {shard} has to be made again")
    for suffix in ("json", "safetensors"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return False


def _all_there(run: Run, choice: AttackChoice, of: int, say: repair.Say) -> bool:
    """Whether all shards are there, which are then looked at: a damaged one is not."""
    folder, every = folder_of(run, choice.file_name), [Shard(i, of) for i in range(1, of + 1)]
    there = all((folder / f"{shard.name}.json").exists() for shard in every)
    return there and not [shard for shard in every if not _is_there(folder, shard, say)]  # all of them are looked at


def _check_alike(folder: Path, notes: Sequence[Note], weights: str) -> None:
    if not notes:
        raise BadRun(f"{folder} holds no shard; make it with: advbench attack --shard 1/2")
    models, batches = {note.weights for note in notes}, {note.batch_size for note in notes}
    for what, different in (("models", len(models)), ("evaluation batches", len(batches))):
        if different > 1:
            raise BadRun(f"the shards in {folder} were made with different {what}; delete them and make them again")
    if notes[0].weights != weights:
        raise BadRun(f"the shards in {folder} were made on a model before this one; delete them and make them again")


def _check_complete(folder: Path, notes: Sequence[Note], index: Tensor, n: int) -> None:
    """Every image of 0..n once, and no other."""
    counts = torch.bincount(index, minlength=n)
    names = ", ".join(f"{note.shard}/{note.of}" for note in notes)
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
