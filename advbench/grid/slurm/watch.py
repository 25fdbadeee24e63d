"""Find out which Slurm jobs have ended, by their results and by squeue."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submitit import Job

ASK = 15.0  # seconds between two questions to Slurm, each about all jobs
GONE = "no longer known to Slurm"
OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT", GONE),
}


class Processes:
    """Jobs that are processes of this machine."""

    patience = 0.0  # seconds in which a file that a job wrote may not be seen here yet

    def ended(self, jobs: Sequence[Job[str]]) -> Mapping[str, str]:
        """By job id, those of `jobs` whose processes have ended, with how."""
        return {job.job_id: "ended" for job in jobs if job.done()}

    def cancel(self, jobs: Sequence[Job[str]]) -> None:
        """End the processes and wait until they have."""
        until = time.monotonic() + 10
        while (left := [job for job in jobs if not job.done()]) and time.monotonic() < until:
            for job in left:  # again, as one that is just starting its task hands no signal on to it
                with suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(0.1)


class Cluster:
    """Jobs of a Slurm cluster, with accounting or without: `squeue` is asked about all, once in `ask` seconds.

    A job is over once it has its result or was over twice: in between, a job that was preempted is queued again and a
    result that was just written comes into sight on a shared file system.
    """

    patience = 60.0  # as long as NFS keeps what it knows of a folder, by default

    def __init__(self, folder: Path, say: Callable[[str], object], *, ask: float = ASK) -> None:
        self._folder = folder
        self._say = say
        self._ask = ask
        self._next = time.monotonic() + ask
        self._over: set[str] = set()  # at the last question
        self._answered = True

    def ended(self, jobs: Sequence[Job[str]]) -> Mapping[str, str]:
        """By job id, those of `jobs` with a result, and those that Slurm says are over, with how."""
        look_again(self._folder)
        results = {job.job_id: "ended" for job in jobs if job.paths.result_pickle.exists()}
        return results | self._lost([job.job_id for job in jobs if job.job_id not in results])

    def cancel(self, jobs: Sequence[Job[str]]) -> None:
        """Have Slurm end them."""
        for job in jobs:
            job.cancel(check=False)

    def _lost(self, ids: Sequence[str]) -> dict[str, str]:
        if time.monotonic() < self._next:
            return {}
        states = self._states()
        self._next = time.monotonic() + self._ask
        if states is None:
            return {}
        now = {name: states.get(name, GONE) for name in ids}
        over = {name: state for name, state in now.items() if state in OVER}
        before, self._over = self._over, {*over}
        return {name: f"is over ({state})" for name, state in over.items() if name in before}

    def _states(self) -> dict[str, str] | None:
        """Of all jobs of this user, those that ended in the last minutes included; None where Slurm says nothing."""
        command = ["squeue", f"--user={os.getuid()}", "--states=all", "--noheader", "--format=%A %T"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        except (OSError, subprocess.SubprocessError) as error:
            if self._answered:
                self._say(f"squeue gives no answer ({error}); asking again every {self._ask:g} s")
            self._answered = False
            return None
        self._answered = True
        return {name: state for name, _, state in (line.strip().partition(" ") for line in said.splitlines())}


Watch = Processes | Cluster


def look_again(folder: Path) -> None:
    """Have a network file system forget what it knew of a folder's entries: a chmod that changes nothing does so."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)
