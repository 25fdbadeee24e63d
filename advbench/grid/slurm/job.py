"""What a Slurm job executes: cells of one run, one after the other."""

import json
import signal
from collections.abc import Sequence
from dataclasses import replace

import torch

from advbench.grid.cells import Cell
from advbench.grid.perform import Performer
from advbench.grid.worker import Message, Relay, outcome

BEGINS = "begins "  # in a job's output before each cell
TIME_IS_UP = "UncompletedJobError"  # which submitit raises in the midst of a cell, a little before Slurm ends the job


def perform(texts: Sequence[str], threads: int) -> str:
    """Perform cells that are JSON texts until one is not done: a JSON list of the messages about them.

    What is said goes to the job's output too, for a person who looks there while it runs.
    """
    # submitit lets SIGTERM pass; by default it ends the process, so that a cancelled job leaves its run at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(threads)
    said: list[str] = []

    def note(line: str) -> None:
        print(line, flush=True)
        said.append(line)

    performer = Performer(Relay(note))
    messages: list[str] = []
    for cell in map(Cell.from_json, texts):
        print(f"{BEGINS}{cell.name}", flush=True)
        message = outcome(performer, cell)
        if message.lost.startswith(TIME_IS_UP):
            over = "the time that its job had asked for was over; ask for more with --slurm timeout_min"
            message = Message(lost=over)
        messages.append(replace(message, said=tuple(said)).to_json())
        said.clear()
        if not message.done:
            break
    return json.dumps(messages)
