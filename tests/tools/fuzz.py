"""`python -m tests.tools.fuzz [COUNT] [--seed S] [--only N]`: commands over damaged, forged runs, and what they did.

An input is made of its number and the seed alone: `--only` shows one again, with its traceback.
"""

import argparse
import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from advbench import catalog, cli
from advbench.cli.limits import LEAST_MEMORY
from tests.helpers.supplied import MODEL, weights_of
from tests.tools.harm import fields, harm

SECONDS, ROOM = 20, 2 << 30  # of computing or of waiting, and bytes of memory beyond what there is before it
DIVERGING = "--learning-rate 1e-3 --momentum 0 --weight-decay 2130 --warmup 0 --max-gradient-norm 1e30"
COMMANDS = {
    "attack": "attack --epochs 1 --n 30 --device cpu --eps 0.1,0.2",
    "shard": "attack --epochs 1 --n 30 --device cpu --eps 0.3 --batch-size 15 --shard 2/2",
    "verify": "verify --detector energy",
    "evaluate": "evaluate --model {base}/m.py:build --weights {base}/w.safetensors --dataset npz:{base}/d.npz --n 10 "
    "--attack fgsm,detector-aware --budget quick --fpr 0.1 --detector energy --device cpu",
    "resume": f"train --epochs 6 --seed 1 --device cpu {DIVERGING}",  # in the second epoch: a checkpoint is left
    "train": "train --epochs 1 --device cpu",
    "list": "list runs",
    "doctor": "doctor",
    "mend": "doctor --mend",
    "audit": "audit {run}",
    "complete": "audit {supplied} --complete",
    "score": "verify --dataset {data} --detector energy,max-posterior",
    "report": "report --dataset {data}",
    "merge": "merge {trained} --device cpu",
}
READERS = {  # by a part of what was touched
    "selftest.json": "audit audit audit complete list",
    "shards": "merge merge merge shard doctor mend",
    "checkpoint": "resume resume resume doctor mend",
    "metrics": "verify verify verify verify audit audit audit audit report",
    "scores": "verify verify verify score audit audit audit report",
    "model.safe": "audit audit attack merge score shard doctor",
    "": "list list list list doctor doctor mend mend mend audit audit audit audit audit verify verify verify verify "
    "merge attack shard train resume complete complete score evaluate report report",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.truncate", "os.link", "os.symlink", "os.chmod")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "pickle.find_class")
WRONG = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|^\$ advbench|^.{2000,}$", re.MULTILINE)  # of what is said
COLUMNS = ("inputs", "exit 0", "exit 2", "exit 1", "traceback", "executed", "outside", "hang", "words")


class TooSlow(BaseException):
    """A command that takes longer than it may; no handler for errors takes it for one."""


class Watch:
    """By Python's audit events: what this process runs, and what it changes outside of a folder's runs, reports."""

    def __init__(self) -> None:
        self.here = ""  # nothing is watched while it is empty
        self.heard: dict[str, str] = {}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.here:
            return
        paths = [path for path in given[: 1 + (event in ("os.rename", "os.link"))] if isinstance(path, str)]
        if event in CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & WRITES):
            for path in paths:  # a bare name may be in a folder that is open: see `contents`
                followed = event == "open" and not given[2] & getattr(os, "O_NOFOLLOW", 0)
                head, tail = os.path.split(os.path.realpath(path) if followed else path)
                full = os.path.join(os.path.realpath(head), tail)
                if head and not full.startswith((f"{self.here}/runs/", f"{self.here}/reports/", "/dev/null")):
                    self.heard["outside"] = f"{event} {full}"
        started = event in STARTS or (event == "subprocess.Popen" and given[1][0] != "git")
        if started or (event == "exec" and getattr(given[0], "co_filename", "").startswith(self.here)):
            self.heard["executed"] = f"{event} {given[:2]}"[:200]


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A bound on time and, on Linux, on memory: what stands in the place of a file may have no end."""
    began = last = time.process_time()

    def look(*_: object) -> None:
        nonlocal last
        idle, last = time.process_time() - last < 0.1, time.process_time()
        if idle or last - began > SECONDS:  # on a machine with other work it is slow for no fault of its own
            raise TooSlow(f"{'nothing done' if idle else 'no end'} in {SECONDS} s")

    limits, pages = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if pages.exists():
        now = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (max(now + ROOM, LEAST_MEMORY), limits[1]))
    handler, (left, _) = signal.signal(signal.SIGALRM, look), signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # pytest's own, where it has one
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def call(words: list[str], here: Path, watch: Watch) -> tuple[int | None, str, dict[str, str]]:
    """A command in this process, in a folder: exit status (None for a traceback), stderr, fault -> what it was."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code, before, watch.here, watch.heard = None, Path.cwd(), str(here), {}
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            code = cli.main(words)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever leaves the command line is what is looked for
        watch.heard["hang" if isinstance(error, TooSlow) else "traceback"] = traceback.format_exc()
    finally:
        watch.here = ""
        os.chdir(before)
    said, told = (stream.buffer.getvalue().decode() for stream in (out, err))
    faults = dict(watch.heard) | ({"traceback": told} if "Traceback" in told else {})
    wrong = WRONG.search(told) or WRONG.search("" if "--json" in words else re.sub(r".{2000,}", "", said))
    if wrong or (code and not re.search(r"^advbench: .*\n\Z", told, re.MULTILINE)):
        faults["words"] = ascii(wrong[0])[:60] if wrong else f"exit {code} without a sentence"
    return code, told, faults


def contents(here: Path) -> dict[str, object]:
    """What every file below a folder holds, and since when, that is not advbench's: no run, page or selftest."""
    found: dict[str, object] = {}
    for path in here.rglob("*"):
        top, name, *_ = (*path.relative_to(here).parts, "")
        ours = top == "reports" or (top == "runs" and not name.startswith(("site", "folder-")))
        if not ours or path.name == "thesis.txt":
            held = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(here))] = held and (held, path.lstat().st_mtime_ns)
    return found


class Fuzz:
    """Runs that the program made below a folder, and what it does once they are damaged."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        folder, self.seed, self.watch = folder.resolve(), seed, Watch()
        self.base, self.here = folder / "base", folder / "here"
        self._make(self.base, catalog.load("data set", "digits")().load(None))
        self.ours = {path.name for path in (self.base / "runs").iterdir()}
        trained, _, supplied, _ = sorted(self.ours)
        self.words = {"base": str(self.base), "trained": trained, "supplied": supplied}
        self.fields = fields(self.base / "runs")

    def _make(self, base: Path, digits: Any) -> None:
        (base / "runs").mkdir(parents=True)
        (base / "m.py").write_text(MODEL, encoding="utf-8")
        save_file(weights_of(digits.train.load_all(), digits.train.labels), base / "w.safetensors")
        parts = {"train": digits.test, "test": digits.train}
        arrays = {f"{name}_images": part.load_all() for name, part in parts.items()}
        arrays |= {f"{name}_labels": part.labels for name, part in parts.items()}
        np.savez(base / "d.npz", **arrays)
        row = '{"canary": "constant", "expected": "a: met", "found": "a: met", "met": true, "evidence": "50 %"}'
        (base / "runs" / "selftest.json").write_text(f'{{"schema": 1, "advbench": "0.1.0", "rows": [{row}]}}')
        for name in ("attack", "shard", "verify", "evaluate", "resume"):
            code, told, _ = call(COMMANDS[name].format(base=base).split(), base, self.watch)
            assert code == (2 if name == "resume" else 0), told
            if name == "shard":  # the other one is made without it: they would be merged
                (made,) = base.glob("runs/*/shards/*")
                aside = made.rename(base / "aside")
                call(COMMANDS[name].replace("2/2", "1/2").split(), base, self.watch)
                shutil.copytree(aside, made, dirs_exist_ok=True)

    def input(self, number: int, command: str | None = None) -> tuple[str, str, int | None, str, dict[str, str]]:
        """Of an input: what was done to the runs, the command, and what it did as in `call`.

        With a command it is that one, and nothing is damaged.
        """
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.base / "runs", self.here / "runs")
        for folder in (self.here / name for name in ("outside/sub", "outside", "runs/site/app")):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("manifest.json", "keep.txt", ".x.part", "checkpoint-0009.safetensors", "1-of-2.json"):
                (folder / name).write_text('{"name": "somebody\'s"}')
        draw, what, how = Random(f"command {self.seed} {number}"), "", "nothing"
        if command is None:
            what, how = harm(number, self.seed, self.here / "runs", self.fields)
            command = draw.choice(next(names.split() for part, names in READERS.items() if part in what))
        for place in (self.here, *(self.here / "runs" / name for name in self.ours)):
            if place.is_dir():
                (place / "thesis.txt").write_text("somebody's")
                (place / "evil.py").write_text("from pathlib import Path\nPath('EXECUTED').touch()\n")
        run = what.split("/")[0] if what.split("/")[0] in self.ours - {"selftest.json"} else self.words["trained"]
        data = "digits" if "digits" in run else f"npz:{self.base}/d.npz"
        words = COMMANDS[command].format(run=run, data=data, **self.words).split()
        before = contents(self.here)
        code, told, faults = call(words + ["--json"] * (draw.random() < 0.2), self.here, self.watch)
        after = contents(self.here)
        new = [name for name in after.keys() - before if name[:5] != "runs/"]
        lost = sorted({*new, *(name for name in before if name not in after or after[name] != before[name])})
        faults |= {"outside": f"changed {lost[0]}"} if lost else {}
        faults |= {"executed": "EXECUTED"} if list(self.here.rglob("EXECUTED")) else {}
        return f"{what}: {how}", command, code, told, faults


def main() -> int:
    """Print each fault and what was counted; 1 where there was a fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", nargs="?", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    asked, counts = parser.parse_args(), Counter[tuple[str, str]]()
    os.environ.pop("ADVBENCH_RUNS", None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fuzz, began = Fuzz(Path(folder), asked.seed), time.process_time()
        for number in range(asked.count) if asked.only is None else [asked.only]:
            what, command, code, told, faults = fuzz.input(number)
            counts.update((name, v) for name in (command, "all") for v in ("inputs", f"exit {code}", *faults))
            for fault, text in faults.items():
                print(number, command, what, fault, text.strip().splitlines()[-1][:200], sep="\t", flush=True)
            if asked.only is not None:
                print(told[-3000:], *faults.values(), sep="\n")
    print("".ljust(9), *(column.rjust(9) for column in COLUMNS))
    for name in [*COMMANDS, "all"]:
        print(name.ljust(9), *(str(counts[name, column]).rjust(9) for column in COLUMNS))
    print(f"{time.process_time() - began:.0f} s of CPU")
    return int(any(counts["all", column] for column in COLUMNS[4:]))


if __name__ == "__main__":
    sys.exit(main())
