"""Workers as actors of Ray: on this machine, or on a cluster whose nodes have advbench and share the runs folder.

On every node the same advbench must be installed, and the runs folder, and the data where a set has any, must be
there under the same absolute path. Nothing depends on the folder that a worker is started in.
"""

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from advbench.errors import BadSetting
from advbench.grid import ray_cluster
from advbench.grid.cells import Cell
from advbench.grid.pool import Pool, Worker
from advbench.grid.queue import Queue
from advbench.grid.worker import Message, Performer, Relay, outcome
from advbench.progress import Progress

PATIENCE = 10.0  # seconds without any worker after which a user is told
FINEST = 10_000  # Ray divides a GPU into so many parts


@dataclass(frozen=True)
class Ray:
    """At most `jobs` actors of `threads` CPUs and `gpus` GPUs each (one may be shared: 0.25); they go with the work.

    address   None starts Ray on this machine, with just what is needed and without dashboard or usage statistics,
              and ends it; auto, HOST:PORT or ray://HOST:PORT is a cluster, which is left running
    started   told the process id of every actor that starts

    Where this process has initialised Ray before, that Ray is used, and left running.

    Raises BadSetting where Ray is not installed, for GPUs that it cannot give, or for a malformed address.
    """

    jobs: int
    threads: int
    gpus: float = 0.0
    address: str | None = None
    started: Callable[[int], None] = lambda pid: None

    def __post_init__(self) -> None:
        ray_cluster.load_ray()
        ray_cluster.address_of(self.address)
        given, whole = self.gpus, float(self.gpus).is_integer()
        if not (0 <= given < math.inf) or (given > 1 and not whole) or 0 < given * FINEST < 1:
            raise BadSetting(
                f"gpus = {given} is not what Ray can give to a job; it must be 0, a part of one GPU (at least "
                f"{1 / FINEST}), or a whole number"
            )

    def work(self, queue: Queue, progress: Progress) -> None:
        """Take cells until the queue is empty; the workers end with this call, however it ends.

        Raises BadSetting where no cluster answers, or none of its nodes is large enough for a worker.
        """
        if not (jobs := min(self.jobs, len(queue))):
            return
        gpus = math.floor(self.gpus * FINEST) / FINEST  # a third is asked for as 0.3333, so that three fit
        address = ray_cluster.address_of(self.address)
        with ray_cluster.connected(address, cpus=jobs * self.threads, gpus=gpus > 0) as own:
            ray_cluster.check_fits(self.threads, gpus)
            patience = Patience(progress, "" if own else ray_cluster.size(self.threads, gpus))
            Pool(jobs, lambda index: Actor(self.threads, gpus, self.started), patience.heard).work(queue, progress)


class Performing:
    """What an actor holds: it performs the cells that it is sent, one at a time."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.said: list[str] = []
        self.performer = Performer(Relay(self.said.append))

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def perform(self, text: str) -> str:
        """The message about the cell of a JSON text, as JSON, the lines that were said and those of an error."""
        self.said.clear()
        trace = io.StringIO()
        with contextlib.redirect_stderr(trace):
            message = outcome(self.performer, Cell.from_json(text))
        sys.stderr.write(trace.getvalue())  # into Ray's log of this actor
        more = trace.getvalue().splitlines() if message.lost else []
        return replace(message, said=(*self.said, *more)).to_json()


class Actor:
    """An actor as the pool sees it: ready once it has given its process id, for then the cluster has room for it."""

    def __init__(self, threads: int, gpus: float, started: Callable[[int], None]) -> None:
        self.cell: Cell | None = None
        self.run: str | None = None
        self._ray = ray_cluster.load_ray()
        self._started: Callable[[int], None] | None = started
        actor = self._ray.remote(Performing)
        # Tries are the queue's to count: Ray makes none of its own.
        options = {"num_cpus": threads, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        self._actor = actor.options(**options).remote(threads)
        self.answer: Any = self._actor.pid.remote()

    @property
    def ready(self) -> bool:
        """Whether it has started and is at no cell."""
        return self._started is None and self.cell is None

    def send(self, cell: Cell) -> None:
        """Give it a cell; where it is gone, that is heard."""
        self.answer = self._actor.perform.remote(cell.to_json())

    def hear(self) -> Message:
        """Its answer."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(self.answer)
        except errors.RayTaskError as error:
            last = str(error.cause).strip().splitlines()[-1:]  # an import that fails there comes with its traceback
            return Message(lost=f"its worker failed ({type(error.cause).__name__}: {''.join(last)})")
        except errors.OutOfMemoryError:
            return Message(lost="its worker was killed, for its node is short of memory")
        except errors.RayError:
            return Message(lost="its worker was killed")
        if self._started is not None:
            self._started(answer)
            self._started = None
            return Message()
        return Message.from_json(answer)

    def end(self) -> None:
        """Kill it, for good."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)


class Patience:
    """Waits for workers; where none has started for a while, says so once, for a cluster may be full.

    asked   by a job, for people; empty where nobody else uses this Ray, so that there is nothing to wait for
    """

    def __init__(self, progress: Progress, asked: str) -> None:
        self._progress = progress
        self._asked = asked

    def heard(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """One of these, at work or starting, that has something to say."""
        ray = ray_cluster.load_ray()
        answers = {worker.answer: worker for worker in workers if isinstance(worker, Actor)}
        ready, _ = ray.wait([*answers], timeout=PATIENCE if self._asked else None)
        if not ready:
            self._progress.say(f"waiting for the cluster: a job asks for {self._asked}; {ray_cluster.free_and_all()}")
            ready, _ = ray.wait([*answers])
        self._asked = ""
        return [answers[answer] for answer in ready]
