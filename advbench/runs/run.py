"""A run: a folder of files with their sha256, listed step by step in a manifest and a journal, held by `locks`.

A run is one folder: one trained model and all that was made from it. Its manifest says of which model; a step is done
if and only if the journal (or the manifest, of an older version's) holds the hashes of its files. Files are written
under a temporary name and moved into place; before a done step's files are replaced, the step is noted as forgotten,
so that an interruption costs the step and nothing else.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

from advbench.errors import BadRun, BadSetting, Damaged, Renamed, Unreadable
from advbench.runs.files import (
    MOST_JSON,
    cannot_write,
    check_whole,
    inside,
    linked,
    move,
    open_regular,
    read_regular,
    remove,
    write_whole,
)
from advbench.runs.growing.journal import JOURNAL, Journal
from advbench.runs.json_records import as_json, from_json, parsed
from advbench.runs.locks import LOCK, WRITING, locked
from advbench.runs.manifest import (
    ATTACK_STEP,
    FILE,
    INFOS,
    Environment,
    FileRecord,
    Inspection,
    Manifest,
    ModelRecord,
    Step,
    SuppliedRecord,
    TrainedRecord,
    check_step,
    model_row,
    read_model,
)
from advbench.runs.rows import AttackRow, ModelRow, read_attack_row
from advbench.runs.sealed_json import DIGEST, digest, is_intact, sealed, sha256, to_json

T = TypeVar("T")
SCHEMA = 1
MOST_FORGOTTEN = 64  # lines of a journal beyond two a step, as the epochs of a training leave them
MANIFEST = "manifest.json"
KEYS = {one.name for one in fields(Manifest)}
# beside files that steps list
OWN = re.compile(rf"outputs|attacks|shards|{re.escape(JOURNAL)}|{re.escape(LOCK)}(\..*|-.*)?|\..*\.part")


@dataclass(frozen=True)
class Written:
    """A file that was written elsewhere in a run's folder, to be moved into place."""

    path: Path
    record: FileRecord


@dataclass(eq=False, repr=False)
class Run:
    """One run folder, as its manifest was when it was last read or written."""

    folder: Path
    model: ModelRecord
    environment: Environment
    steps: dict[str, Step]  # in the order they were done
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal, self._kept = Journal(self.folder / JOURNAL, self.folder.absolute().name), self.environment
        self._seen: dict[str, tuple[str | int, ...]] = {}
        self._step_of = {name: step for step, done in self.steps.items() for name in done.files}

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def trained(self) -> TrainedRecord:
        """The model of a run that trained it."""
        assert isinstance(self.model, TrainedRecord)
        return self.model

    @property
    def manifest(self) -> Manifest:
        """Unsealed."""
        name = self.folder.absolute().name
        return Manifest(name=name, model=self.model, environment=self.environment, steps=self.steps)

    def info(self, step: str) -> Mapping[str, Any]:
        """What a done step noted about itself; nothing where it is not done."""
        return self.steps[step].info if step in self.steps else {}

    def seconds(self, step: str) -> float:
        """What a done step of training or attacking took."""
        return self.steps[step].seconds or 0.0

    def noted(self, cls: type[T]) -> T:
        """The same of the step whose record `cls` is; its defaults where the step is not done."""
        (step,) = (step for step, kind in INFOS.items() if kind is cls)
        return from_json(cls, self.info(step), step)

    @property
    def model_row(self) -> ModelRow:
        """The fields of its rows that say which model they are about."""
        return model_row(self.name, self.model, self.noted(Inspection))

    def attack_row(self, file_name: str) -> AttackRow:
        """The row of a done attack."""
        return read_attack_row(self.info(ATTACK_STEP + file_name).get("row"), file_name, model=self.model_row)

    @property
    def attacks(self) -> list[str]:
        """The file names of the done attacks."""
        return [step.removeprefix(ATTACK_STEP) for step in self.steps if step.startswith(ATTACK_STEP)]

    @property
    def files(self) -> dict[str, FileRecord]:
        """Every file that a step lists."""
        return {name: file for step in self.steps.values() for name, file in step.files.items()}

    def listed(self, name: str) -> FileRecord | None:
        """A file as its step lists it; None where none does."""
        step = self.steps.get(self._step_of.get(name, ""))
        return None if step is None else step.files.get(name)

    def has(self, step: str) -> bool:
        """Whether a step is done, its files checked against their hashes; raises Damaged as `read` does."""
        if step not in self.steps:
            return False
        for name in self.steps[step].files:
            self.checked(name)
        return True

    def read(self, name: str) -> bytes:
        """A file's bytes; raises as `checked`."""
        return self.checked(name).read_bytes()

    def checked(self, name: str) -> Path:
        """Where a file lies, its hash compared, once as long as nobody writes to it.

        Raises Damaged where it is missing or altered, BadRun where no step lists it.
        """
        path = inside(self.folder, name)
        if (listed := self.listed(name)) is None:
            raise BadRun(f"{path} is not listed in {self.folder / MANIFEST}; make it again")
        cure = (
            f"restore the file, or call the `advbench {self._maker(self._step_of[name])}` that made it, which makes "
            "it again (`advbench doctor --mend` forgets it without computing)"
        )
        with suppress(OSError):
            there = path.stat()
            if self._seen.get(name) == (listed.sha256, there.st_ino, there.st_size, there.st_mtime_ns):
                return path
        self._seen[name] = (listed.sha256, *check_whole(path, listed.sha256, listed.bytes, cure))
        return path

    def _maker(self, step: str) -> str:
        """The command that makes a step, of a model trained here or of a supplied one."""
        if step == "verify":
            return "verify --detector ..."  # which cannot be read from the damaged file
        if isinstance(self.model, SuppliedRecord):
            return "evaluate"
        return "attack" if step.startswith(ATTACK_STEP) else "train"

    def fault(self, name: str) -> str | None:
        """What is wrong with a listed file; None where nothing is. Raises Unreadable where that cannot be told."""
        expected = self.steps[self._step_of[name]].files[name]
        try:
            with open_regular(inside(self.folder, name), expected.bytes) as file:
                found, size = file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return "missing"
        except Damaged:
            return "altered"
        except Unreadable:
            raise
        except BadRun as error:
            return str(error)
        if found == expected.sha256:
            return None
        return f"truncated: {size} of {expected.bytes} bytes" if size < expected.bytes else "altered"

    def write(
        self, step: str, files: Mapping[str, bytes | Written], *, seconds: float | None = None, info: object = None
    ) -> None:
        """Put a step's files in place and note them in the journal, instead of those of a done step of that name."""
        with self._changing():
            old = self.steps.get(step)
            if old and set(files) & set(old.files):
                self._note(step, None)
        listed = {}
        for name, data in files.items():
            path = inside(self.folder, name)
            if isinstance(data, Written):
                move(data.path, path)
                listed[name] = data.record
                continue
            write_whole(path, data, alone=True)
            listed[name] = FileRecord(sha256=sha256(data), bytes=len(data))
        with self._changing():
            self._note(step, Step(seconds=seconds, info=as_json(info or {}), files=listed))
        for name in set(old.files) - set(files) if old else ():
            remove(self.folder, name)

    def drop(self, step: str) -> None:
        """Forget a step and delete its files."""
        with self._changing():
            old = self.steps.get(step)
            if old is not None:
                self._note(step, None)
            if self.journal.lines > 2 * len(self.steps) + MOST_FORGOTTEN:
                self._save()  # all steps; the lines that said so can go
                self.journal.begin()
        for name in old.files if old else ():
            remove(self.folder, name)

    def sweep(self) -> None:
        """Delete what interrupted writes left, and the locks of steps; only while the run is held whole."""
        for path in strays(self.folder, self.files):
            remove(self.folder, str(path.relative_to(self.folder)))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The steps as they are on disk, where others may have added some meanwhile, and nobody else writing one."""
        with ExitStack() as writing:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                writing.enter_context(locked(self.folder / WRITING, wait=True))
            except OSError as error:
                raise cannot_write(self.folder, error) from error
            if begins := not (self.folder / MANIFEST).exists():
                self.journal.begin()
            if begins or self._kept != self.environment:
                self._save()
            try:
                self.catch_up()
            except (Damaged, FileNotFoundError):  # a shorter one took its place
                there = load(self.folder)
                self.steps, self.journal, self._step_of = there.steps, there.journal, there._step_of
                if not self.journal.end:
                    self.journal.begin()
            self._kept = self.environment
            yield

    def catch_up(self) -> None:
        """Read what the journal holds beyond what was read; raises as `Journal.read`."""
        about = model_row(self.name, self.model, Inspection())
        for name, step in self.journal.read(_cure(self.folder)):
            if step is not None:
                check_step(name, step, about)
            self._now(name, step)

    def _note(self, name: str, step: Step | None) -> None:
        self.journal.append(name, step)
        self._now(name, step)

    def _now(self, name: str, step: Step | None) -> None:
        self.steps.pop(name, None)
        if step is not None:
            self.steps[name] = step
            self._step_of |= dict.fromkeys(step.files, name)

    def _save(self) -> None:
        write_whole(self.folder / MANIFEST, to_json(sealed(as_json(self.manifest))), alone=True)


def strays(folder: Path, listed: Collection[str]) -> list[Path]:
    """Files of a run that no call goes on from: temporary ones, steps' locks, checkpoints that no step lists."""
    folders = (folder, folder / "outputs", folder / "attacks", *folder.glob("shards/*"))
    left = [path for below in folders for path in below.glob(".*.part")] + list(folder.glob(f"{LOCK}-*"))
    left += [path for path in folder.glob("checkpoint-*.safetensors") if path.name not in listed]
    parts = (folder / "attacks").glob(".*.safetensors.*")  # of attacks that go on, and of those that are done
    left += [path for path in parts if f"attacks/{path.stem.removeprefix('.')}" in listed]
    return sorted(path for path in left if path.is_file())


def open_or_new(runs_dir: Path, name: str, model: ModelRecord, environment: Environment) -> Run:
    """The run of that name, or a new one (nothing is written before its first step)."""
    folder = runs_dir / name
    return load(folder) if (folder / MANIFEST).exists() else Run(folder, model, environment, {})


def load(folder: Path) -> Run:
    """An existing run; raises Damaged where its manifest is missing, is none, or is not what it was sealed as.

    Raises BadRun where it is of another schema or another folder's or does not hold what a manifest holds, where the
    system does not let it be read, and where a file or folder in it is a link.
    """
    path, manifest = folder / MANIFEST, _read(folder)
    if links := [entry for entry in folder.iterdir() if entry.is_symlink()]:
        raise linked(min(links))
    try:
        said = from_json(Manifest, manifest, "manifest")
        if said.name != folder.absolute().name:
            raise Renamed(f"{folder} holds the run {said.name} under another name; give the folder that name again")
        model, ending = read_model(said.model), said.name.rpartition("-")[2]
        if re.fullmatch("[0-9a-f]{8}", ending) and ending != digest(said.model):
            raise ValueError(f"its model has the digest {digest(said.model)}, its name ends in {ending}")
        about = model_row(said.name, model, Inspection())
        for name, step in said.steps.items():
            check_step(name, step, about)
        run = Run(folder, model, said.environment, dict(said.steps))
        path = run.journal.path
        try:
            try:
                run.catch_up()
            except Damaged:  # while another process wrote to it, perhaps
                run.journal = Journal(path, said.name)
                run.catch_up()
        except FileNotFoundError as error:
            if not said.steps:
                raise Damaged(f"{path} is missing; {_cure(folder)}") from error
        return run
    except ValueError as error:
        raise BadRun(f"{path} was altered: {error}; restore the file, or delete {folder} and run again") from error


def _read(folder: Path) -> dict[str, Any]:
    """What a manifest says, of this schema and as it was sealed."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = parsed(read_regular(path, MOST_JSON, _cure(folder)))
        known = manifest["schema"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {error}); {_cure(folder)}") from error
    # of this schema, or it was before its schema was altered
    if known != SCHEMA and not (manifest.get(DIGEST) and is_intact({**manifest, "schema": SCHEMA})):
        raise BadRun(
            f"{path} has schema {known!r}, this advbench reads schema {SCHEMA}; delete {folder} and run again"
        )
    if manifest.keys() != KEYS or known != SCHEMA or not is_intact(manifest):
        raise Damaged(f"{path} was altered: it is not what its digest was taken of; {_cure(folder)}")
    return manifest


def _cure(folder: Path) -> str:
    made = "what made it (`advbench run`, attack, evaluate)"
    return f"restore the file, or call {made}, or delete {folder} and run again"


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run, damaged or not begun too: by its manifest, else by its and all names in it."""
    try:
        manifest = parsed(read_regular(folder / MANIFEST, MOST_JSON))
        if isinstance(manifest, dict) and (manifest.get("schema"), len(KEYS & manifest.keys()) > 3) == (SCHEMA, True):
            return True
    except (FileNotFoundError, ValueError, BadRun):
        pass
    names = set(os.listdir(folder)) - {MANIFEST}
    own = all(OWN.fullmatch(name) or FILE.holds(name) for name in names)
    return bool(names) and own and re.search("-[0-9a-f]{8}$", folder.name) is not None


def find(runs_dir: Path, say: Callable[[str], object] = lambda line: None) -> list[Run]:
    """Every run in `runs_dir`, by name; `say` is told of those that cannot be read or lie under another name."""
    if not runs_dir.exists():
        return []
    if not runs_dir.is_dir():
        raise BadSetting(f"{runs_dir} is a file, not a folder of runs; name another with --runs-dir")
    found = []
    for path in sorted(runs_dir.glob(f"*/{MANIFEST}")):
        try:
            found.append(load(path.parent))
        except BadRun as error:
            if holds_run(path.parent):
                say(f"left out: {error}")
    return found
