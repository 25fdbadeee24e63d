"""`attack --shard` and `merge`: options to shards."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from advbench.cli.context import study_of, workspace_of
from advbench.device import take_gpu
from advbench.errors import BadRun, BadSetting
from advbench.grid import shards
from advbench.runs import AttackRow
from advbench.runs.shards import FOLDER, Shard, folder_of, notes_of
from advbench.study import selection
from advbench.study.options import Attack, Merge, Table
from advbench.study.parsing import parse, read
from advbench.study.study import Study


def shard_of(text: str, environment: Mapping[str, str]) -> Shard:
    """From `i/n`, counted from 1, or for `auto` from the ranks that torchrun counts from 0."""
    if text == "auto":
        try:
            rank, size = (int(environment[name]) for name in ("RANK", "WORLD_SIZE"))
            return Shard(rank + 1, size)
        except (KeyError, ValueError):
            raise BadSetting(
                "--shard auto reads RANK and WORLD_SIZE, which torchrun sets, and they are no numbers here; write "
                "--shard 1/4, or start it with: torchrun --no-python --nproc-per-node 4 advbench attack"
            ) from None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise BadSetting(f"shard = {text!r} is none; write 1/4 for the first of four, or auto under torchrun")
    return Shard(int(found[1]), int(found[2]))


def attack_shard(table: Table, which: str, options: Attack) -> list[AttackRow]:
    """One shard of the attacks; under torchrun on the GPU of this rank, where --device names none."""
    shard = shard_of(which, os.environ)
    if which == "auto" and options.device is None:
        take_gpu(int(os.getenv("LOCAL_RANK", "0")))
    return shards.attack(study_of(table, options), shard)


def merge_shards(options: Merge) -> list[AttackRow]:
    """The attacks of a run of which there are shards, each merged; raises BadRun where there is none."""
    workspace = workspace_of(options)
    run = selection.by_name(workspace.runs_dir, options.run)
    workspace, rows = replace(workspace, runs_dir=run.folder.parent), []
    for path in sorted((run.folder / FOLDER).glob("*")):
        folder = folder_of(run, path.name)
        if not (notes := notes_of(folder)):
            continue
        table = read(notes[0].table)
        if options.dataset is None and ":" in (table.dataset or ""):
            raise BadSetting(f"the shards in {folder} are of {table.dataset}; --dataset names where it lies")
        spec = parse(replace(table, dataset=options.dataset or table.dataset))
        if (len(spec.models()), len(spec.attacks)) != (1, 1):
            raise BadRun(f"the shards in {folder} are of several models or attacks; delete them")
        study = Study(spec, workspace, weights=[])
        (model,), (choice,) = study.trained, spec.attacks
        if (model.run_name(study.fingerprint), choice.file_name) != (run.name, folder.name):
            raise BadRun(f"the shards in {folder} are of another model, data set or attack; delete them")
        with study.run_of(model.model) as held:
            rows.append(shards.merge(study, held, model, choice))
    if not rows:
        raise BadRun(f"{run.folder} holds no shards; make them with: advbench attack --shard 1/2, then --shard 2/2")
    return rows
