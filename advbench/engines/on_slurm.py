"""Jobs of Slurm, through submitit: each performs some cells of one run, one after the other.

On every node the same Python environment, the runs folder and the data must be there under the same path. What became
of a job that was lost is read from the runs folder: what it finished stays finished.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from advbench.cells import Cell, Performer
from advbench.engines.pool import Message, settle
from advbench.engines.queue import Queue
from advbench.engines.worker import Relay, outcome
from advbench.errors import BadSetting, UnknownName
from advbench.progress import Progress
from advbench.settings import at_least, number, whole

POLL = 0.5  # seconds between looks; submitit itself asks Slurm once a minute at most
CLUSTERS = ("slurm", "local")
# what a job may be given; all but the first three are options of sbatch by their own names
KNOWN: Mapping[str, type] = {
    "cluster": str, "timeout_min": int, "mem_gb": float, "partition": str, "account": str, "qos": str,
    "constraint": str, "exclude": str, "nodelist": str, "gres": str, "comment": str, "mail_type": str,
    "mail_user": str, "setup": str,
}  # fmt: skip
USUAL = {"cluster": "slurm", "timeout_min": 240}


def resources(texts: Iterable[str]) -> dict[str, Any]:
    """What a job asks for, from texts KEY=VALUE. Raises BadSetting for a key or a value that it cannot be given.

    cluster       slurm, or local: the same jobs as processes of this machine, to try them out
    timeout_min   minutes after which Slurm ends a job (default 240)
    mem_gb        its memory
    setup         a shell command before it, such as a `module load`
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise BadSetting(f"slurm = {text!r} is no KEY=VALUE; write --slurm partition=gpu")
        if key not in KNOWN:
            raise UnknownName("setting of a Slurm job", key, KNOWN)
        if key in found:
            raise BadSetting(f"slurm = {key!r} is given twice; give it once")
        found[key] = _value(key, value.strip())
    return USUAL | found


def _value(key: str, text: str) -> Any:
    kind = KNOWN[key]
    if key == "cluster" and text not in CLUSTERS:
        raise BadSetting(f"cluster = {text!r} is none; it is {' or '.join(CLUSTERS)}")
    if kind is str:
        return text
    value = whole(text, key) if kind is int else number(text, key)
    at_least(key, value, 0, above=True)
    return value


@dataclass(frozen=True)
class Slurm:
    """At most `jobs` jobs at once, of `threads` CPUs, `gpus` GPUs and at most `cells` cells each.

    folder   where submitit keeps scripts, arguments, results and logs
    asked    what else a job is given (`resources`)
    grace    seconds that a shared file system may take to show what another node wrote

    Raises BadSetting where submitit is not installed, there is no Slurm, or a part of a GPU is asked for.
    """

    jobs: int
    threads: int
    gpus: float = 0.0
    cells: int = 8
    folder: Path = Path("runs/.slurm")
    asked: Mapping[str, Any] = field(default_factory=lambda: resources(()))
    grace: float = 15.0

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise BadSetting(f"cells_per_job = {self.cells} is out of range; it must be at least 1")
        if not 0 <= self.gpus < float("inf") or not float(self.gpus).is_integer():
            raise BadSetting(
                f"gpus_per_job = {self.gpus} is no whole number, as Slurm wants it; a part of a GPU is asked for "
                "with --slurm gres=shard:1, where the cluster has shards"
            )
        self.executor()

    def executor(self) -> Any:
        """The executor of submitit for these jobs."""
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            raise BadSetting(f"submitit cannot be imported ({error}); install advbench[slurm]") from error
        asked = dict(self.asked)
        try:
            executor = submitit.AutoExecutor(folder=str(self.folder.absolute()), cluster=asked.pop("cluster"))
        except RuntimeError as error:
            raise BadSetting(
                f"there is no Slurm here ({error}); call it where sbatch works, or try it out with "
                "--slurm cluster=local"
            ) from error
        shared = {key: asked.pop(key) for key in ("timeout_min", "mem_gb") if key in asked}
        if "setup" in asked:
            asked["setup"] = [asked["setup"]]
        executor.update_parameters(
            name="advbench",
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=self.threads,
            gpus_per_node=int(self.gpus) or None,
            **shared,
            **{f"slurm_{key}": value for key, value in asked.items()},
        )
        return executor

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells until the queue is empty; jobs that are left when this call ends are cancelled."""
        executor = self.executor()
        with _cancelled() as alive:
            while not queue.empty:
                while len(alive) < self.jobs and (some := queue.take_some(self.cells)):
                    job = executor.submit(perform, [cell.to_json() for cell in some], self.threads)
                    alive[job] = some
                    more = f" and {len(some) - 1} more" if len(some) > 1 else ""
                    progress.say(f"job {job.job_id}: {some[0].name}{more}")
                ended = [job for job in alive if job.done()]
                for job in ended:
                    self._settle(queue, progress, alive.pop(job), job)
                if not ended:
                    time.sleep(POLL)

    def _settle(self, queue: Queue, progress: Progress, cells: Sequence[Cell], job: Any) -> None:
        """Tell the queue of each cell of a job that has ended; those that it did not begin go back first."""
        messages, why = self._messages(job, cells)
        for cell in cells[len(messages) :]:
            queue.returned(cell)
        for cell, message in zip(cells, messages, strict=False):
            for line in message.get("said", ()):
                progress.say(line)
            if "done" in message and not self._waited_for(lambda cell=cell: cell.done):
                message = {"lost": f"job {job.job_id} says that it is done, and its run does not hold it"}
            settle(queue, cell, message)
        if why is not None:
            progress.say(why)

    def _messages(self, job: Any, cells: Sequence[Cell]) -> tuple[list[Message], str | None]:
        """What a job said of its cells; of one that was lost, what its runs say. And a line for people."""
        if self._waited_for(job.paths.result_pickle.exists):
            try:
                messages: list[Message] = job.result()
            except Exception as error:
                why = f"job {job.job_id} failed ({' '.join(str(error).split())[-200:]})"
            else:
                return messages, None
        else:
            why = f"job {job.job_id} was lost ({job.state}); its log is {job.paths.stderr}"
        done = next((i for i, cell in enumerate(cells) if not cell.done), len(cells))
        found: list[Message] = [{"done": list(cell.key)} for cell in cells[:done]]
        if done < len(cells):
            return [*found, {"lost": f"its {why}"}], None
        return found, why

    def _waited_for(self, there: Any) -> bool:
        """Whether something is there, or is before the file system's grace ends."""
        until = time.monotonic() + self.grace
        while not there():
            if time.monotonic() > until:
                return False
            time.sleep(POLL)
        return True


@contextmanager
def _cancelled() -> Iterator[dict[Any, list[Cell]]]:
    """Jobs at work, with their cells; those that are left at the end are cancelled, and waited for a while."""
    alive: dict[Any, list[Cell]] = {}
    try:
        yield alive
    finally:
        for job in alive:
            job.cancel(check=False)
        until = time.monotonic() + 10
        while not all(job.done() for job in alive) and time.monotonic() < until:
            time.sleep(POLL)


def perform(texts: Sequence[str], threads: int) -> list[Message]:
    """In a job: perform the cells of these JSON texts until one is not done; a message about each that was begun."""
    torch.set_num_threads(threads)
    said: list[str] = []
    performer, messages = Performer(Relay(said.append)), []
    for text in texts:
        said.clear()
        message = outcome(performer, Cell.from_json(text))
        messages.append({"said": [*said], **message})
        if "done" not in message:
            break
    return messages
