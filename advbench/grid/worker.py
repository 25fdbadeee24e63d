"""A worker of any engine: executes cells one after the other in this process and reports on each."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from advbench.device import is_out_of_memory, out_of_memory, take_gpu
from advbench.errors import AdvbenchError, Damaged
from advbench.grid.cells import SCORED, Cell
from advbench.progress import Progress, Quiet
from advbench.runs.json_records import as_json, from_json
from advbench.study.parsing import parse
from advbench.study.spec import Spec
from advbench.study.study import READY, LoadedData, Study
from advbench.study.train import TrainedModel
from advbench.study.verify import verify


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a worker says, as JSON between processes."""

    said: tuple[str, ...] = ()  # lines
    done: bool = False  # the cell is
    refused: str = ""  # why the study refuses the cell; with its exit status
    exit_code: int = 0
    lost: str = ""  # why the worker is: what it holds cannot be trusted

    def to_json(self) -> str:
        """As text."""
        return json.dumps(as_json(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Message":
        """From that text."""
        return from_json(cls, json.loads(text), "message")


class Relay(Quiet):
    """Hands on what is said; bars are left to the sender, where one shows all cells."""

    def __init__(self, on_line: Callable[[str], object]) -> None:
        self.on_line = on_line

    def say(self, text: str) -> None:
        """One line."""
        self.on_line(text)


class Performer:
    """Performs cells in this process, one after the other; keeps the data and the last model for the next cell."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._data: dict[str, LoadedData] = {}
        self._last: tuple[object, Study] | None = None

    def perform(self, cell: Cell) -> bool:
        """Do a cell; False where it was done before.

        Raises what a study does, BadRun too where another process has its run. Where a file of the
        model is found damaged, the model is made again first.
        """
        spec = parse(cell.table)
        study = self._study(spec, cell)
        (model,) = study.trained
        try:
            return self._perform(study, spec, model, cell)
        except Damaged:  # found while others may be at work on the run
            with study.run_of(model.model) as run:
                study.perform(run, model, None)
            return self._perform(study, spec, model, cell)

    def _perform(self, study: Study, spec: Spec, model: TrainedModel, cell: Cell) -> bool:
        # a model is made alone, attacks on it side by side
        with study.run_of(model.model, None if cell.step == READY else cell.step) as run:
            made = not cell.done_in(run)
            if cell.step == SCORED:
                verify(run, [choice.file_name for choice in spec.attacks], spec.detectors, self.progress)
            else:
                study.perform(run, model, None if cell.step == READY else spec.attacks[0])
        return made

    def _study(self, spec: Spec, cell: Cell) -> Study:
        key = spec.models(), spec.dataset, cell.place
        if self._last is None or self._last[0] != key:
            place = cell.place.workspace(self.progress)
            data = json.dumps([spec.dataset, spec.image_size, cell.place.data_dir])
            # an attack's own checks were made where the cell came from
            blank, weights = replace(spec, attacks=(), detectors=()), [Path(f) for f in cell.place.weights]
            study = Study(blank, place, weights=weights, data=self._data.get(data))
            self._data[data] = study.data
            self._last = key, study
        return self._last[1]


def outcome(performer: Performer, cell: Cell) -> Message:
    """Perform a cell: the message about it; an error that is not the study's goes to stderr too, with its lines."""
    try:
        performer.perform(cell)
    except AdvbenchError as error:
        return Message(refused=str(error), exit_code=error.exit_code)
    except Exception as error:
        if is_out_of_memory(error):
            return Message(refused=out_of_memory(), exit_code=2)
        traceback.print_exc(file=sys.stderr)
        return Message(lost=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Message(done=True)


def serve(pipe: Connection, index: int, threads: int) -> None:
    """Perform the cells that come as JSON texts until the pipe is closed; messages go the other way.

    `index` tells workers apart, and shares out the GPUs there are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sender's, who ends this process
    threading.Thread(target=_end_with_sender, daemon=True).start()
    torch.set_num_threads(threads)
    take_gpu(index)
    performer = Performer(Relay(lambda line: _tell(pipe, Message(said=(line,)))))
    while True:
        try:
            cell = Cell.from_json(pipe.recv_bytes().decode())
        except EOFError:
            return
        message = outcome(performer, cell)
        _tell(pipe, message)
        if message.lost:
            sys.exit(1)


def _tell(pipe: Connection, message: Message) -> None:
    pipe.send_bytes(message.to_json().encode())


def _end_with_sender() -> None:
    """A killed sender closes no pipe: without this its workers would finish their cells for nobody."""
    if (sender := parent_process()) is not None:
        sender.join()
        os._exit(1)
