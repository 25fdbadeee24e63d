"""The Slurm engine: jobs through submitit, each performing cells of one run."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advbench.errors import BadRun, BadSetting, FailedCells
from advbench.grid.cells import Cell
from advbench.grid.import_path import without_current_folder
from advbench.grid.pool import settle
from advbench.grid.queue import TRIES, Queue
from advbench.grid.slurm.batch import Batch, ended_by_exception, perform, undisturbed
from advbench.grid.slurm.resources import cluster_of, gpus_asked, parameters, resources
from advbench.grid.slurm.watch import ASK, Cluster, Processes, Watch, look_again
from advbench.grid.worker import Message
from advbench.progress import Progress
from advbench.runs import check_folder
from advbench.settings import at_least

if TYPE_CHECKING:
    from submitit import AutoExecutor

__all__ = ["Slurm", "resources"]
PAUSE = 0.5  # seconds between two looks at the results
REFUSALS = 40  # of a job while none is alive, until Slurm is believed


@dataclass(frozen=True)
class Slurm:
    """At most `jobs` jobs at once, with `threads` threads of torch and `gpus` GPUs each, of at most `cells` cells.

    folder   on a file system that all nodes share: what submitit sends and the jobs' output. Each call has a folder
             of its own below, which is kept only where a job was lost or the work was stopped
    asked    what `resources` read; its `cluster` is slurm or local = processes of this machine
    ask      seconds between two questions to Slurm about jobs without a result, and after it refused one
    started  is told the id of every job

    Raises BadSetting for values out of range, without submitit, and where this machine has no Slurm.
    """

    jobs: int
    threads: int = 1
    gpus: float = 0.0
    cells: int = 8
    folder: Path = Path("runs/.slurm")
    asked: Mapping[str, Any] = field(default_factory=dict)
    ask: float = ASK
    started: Callable[[str], object] = lambda job_id: None

    def __post_init__(self) -> None:
        at_least("cells per job", self.cells, 1)
        at_least("gpus per job", self.gpus, 0)
        if self.gpus != int(self.gpus):
            raise BadSetting(
                f"gpus per job = {self.gpus} is no whole number; Slurm shares a GPU by resources that a cluster "
                "defines, such as --slurm gres=shard:1"
            )
        if self.gpus and (gres := gpus_asked(self.asked)):
            raise BadSetting(f"gres = {gres} and {self.gpus:g} gpus per job ask for GPUs twice; leave one")
        _check_installed(cluster_of(self.asked))

    def executor(self, folder: Path) -> AutoExecutor:
        """submitit's, with what each job asks for."""
        with contextlib.redirect_stdout(sys.stderr):  # where its log goes from then on
            import submitit
        python = f"{shlex.quote(sys.executable)} -P"  # as a cluster may not hand on the environment
        cluster = cluster_of(self.asked)
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **{f"{cluster}_python": python})
        executor.update_parameters(**parameters(self.threads, int(self.gpus), self.asked))
        return executor

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells until the queue is empty; the jobs end with this call, however it ends.

        Raises BadSetting where no job can be handed in, FailedCells where jobs do not even start.
        """
        if not queue:
            return
        folder = self._own_folder()
        watch = Processes() if cluster_of(self.asked) == "local" else Cluster(folder, progress.say, ask=self.ask)
        work = _Work(self, self.executor(folder), watch, queue, progress)
        with ended_by_exception():
            try:
                work.go_on()
            finally:
                with undisturbed():
                    watch.cancel([batch.job for batch in work.alive])
                if not work.lost and not work.alive:
                    shutil.rmtree(folder, ignore_errors=True)

    def _own_folder(self) -> Path:
        """A new folder that only this user can read: what lies there is pickled."""
        check_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="jobs-", dir=self.folder.absolute()))
        except OSError as error:
            raise BadSetting(f"cannot write to {self.folder}: {error.strerror}; name another --runs-dir") from error


class _Work:
    """One pass through a queue. `alive` jobs are cancelled by the caller; `lost` counts those without a result."""

    def __init__(self, engine: Slurm, executor: AutoExecutor, watch: Watch, queue: Queue, progress: Progress) -> None:
        self.engine = engine
        self.executor = executor
        self.watch = watch
        self.queue = queue
        self.progress = progress
        self.alive: list[Batch] = []
        self.lost = 0
        self._unstarted = 0  # jobs in a row that did not come to their first cell
        self._accepted = False  # any job at all
        self._refusals = 0  # in a row
        self._next = 0.0  # when it is worth while to hand in another, after a refusal

    def go_on(self) -> None:
        """Until the queue is empty."""
        while self.queue:
            self._submit()
            ended = self.watch.ended([batch.job for batch in self.alive])
            for batch in [batch for batch in self.alive if batch.job.job_id in ended]:
                self.alive.remove(batch)
                self._settle(batch, ended[batch.job.job_id])
            if not ended:
                time.sleep(PAUSE)

    def _submit(self) -> None:
        """As many jobs as there may be; where Slurm takes no more for now, the rest later.

        Raises BadSetting where it takes none at all.
        """
        while time.monotonic() >= self._next and len(self.alive) < self.engine.jobs:
            if not (cells := self.queue.take_some(self.engine.cells)):
                return
            refused = self._refused(cells)
            if refused is None:
                self._accepted, self._refusals = True, 0
                self.engine.started(self.alive[-1].job.job_id)
            else:
                for cell in reversed(cells):
                    self.queue.returned(cell)
                self._wait(refused)

    def _refused(self, cells: Sequence[Cell]) -> str | None:
        """Hand in a job of these cells; why it cannot be, if it cannot."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        texts = [cell.to_json() for cell in cells]
        try:
            with undisturbed(), without_current_folder():
                self.alive.append(Batch(self.executor.submit(perform, texts, self.engine.threads), cells))
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            return " ".join(str(error).split())
        return None

    def _wait(self, refused: str) -> None:
        """With the next job, as those that are alive may be as many as there may be, or Slurm may be out of reach."""
        self._refusals = 0 if self.alive else self._refusals + 1
        if not self.alive and (not self._accepted or self._refusals == REFUSALS):
            raise BadSetting(f"no job can be handed in: {refused}; see --slurm for what a job asks for")
        if not self._next:
            self.progress.say(
                f"Slurm takes no other job for now: {refused}; trying again every {self.engine.ask:g} s"
            )
        self._next = time.monotonic() + self.engine.ask

    def _settle(self, batch: Batch, how: str) -> None:
        """Tell the queue what became of a job's cells: what the runs folder shows, and of the first other its job."""
        messages = batch.messages()
        lost = f"its job {batch.job.job_id} {how} without a result"
        if not messages:
            lost += batch.last_words
            self.lost += 1
        self._check_starts(batch, messages, lost)
        for message in messages:
            for line in message.said:
                self.progress.say(line)
        done = 0
        while done < len(batch.cells) and self._shows(batch.cells[done], done < len(messages)):
            self.queue.finished(batch.cells[done])
            done += 1
        for cell in reversed(batch.cells[done + 1 :]):
            self.queue.returned(cell)
        for cell in batch.cells[done : done + 1]:
            message = messages[done] if done < len(messages) else Message(lost=lost)
            if message.done:
                where = f"{cell.place.runs_dir} does not show it; all nodes are to share that folder"
                message = Message(lost=f"its job {batch.job.job_id} says it is done, but {where}")
            settle(self.queue, cell, message)

    def _check_starts(self, batch: Batch, messages: Sequence[Message], why: str) -> None:
        """Raise FailedCells where jobs come to no cell at all, as they would for all that are left."""
        self._unstarted = 0 if messages or batch.began else self._unstarted + 1
        if self._unstarted == TRIES:
            raise FailedCells(f"{TRIES} jobs in a row came to no cell, the last: {why}", FailedCells.exit_code)

    def _shows(self, cell: Cell, heard_of: bool) -> bool:
        """Whether the runs folder shows that it is done; where its job spoke of it, after a while perhaps."""
        folder = Path(cell.place.runs_dir)
        until = time.monotonic() + (self.watch.patience if heard_of else 0)
        while True:
            look_again(folder)
            look_again(folder / cell.run)
            with contextlib.suppress(BadRun, OSError):  # whoever performs it next will say so
                if cell.done:
                    return True
            if time.monotonic() >= until:
                return False
            time.sleep(PAUSE)


def _check_installed(cluster: str) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import submitit  # noqa: F401
    except ImportError as error:
        raise BadSetting(f"--on slurm needs submitit ({error}); install advbench[slurm]") from error
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        cure = "run it on a login node, or --slurm cluster=local tries it here"
        raise BadSetting(f"this machine has no {missing[0]}, so no Slurm; {cure}")
