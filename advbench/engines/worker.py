"""What a worker process does: perform the cells it is sent, one after the other, and say what became of each.

Both ways over the pipe go JSON texts. In: a cell. Out: {"say": line}, {"done": run and step}, {"refused": sentence,
"exit_code": status}, {"lost": reason}; after the last the process ends, as what it holds cannot be trusted.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import torch

from advbench.cells import Cell, Performer
from advbench.errors import AdvbenchError
from advbench.progress import Advance


class Relay:
    """Hands what is said to the one who sent the cell; bars stay there, where one shows all cells."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, text: str) -> None:
        """One line."""
        tell(self.pipe, say=text)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """Ignored."""
        yield lambda done, note: None


def tell(pipe: Connection, **message: Any) -> None:
    """Send one message."""
    pipe.send_bytes(json.dumps(message).encode())


def serve(pipe: Connection, index: int, threads: int) -> None:
    """Perform cells until the pipe is closed; `index` tells workers apart, and shares out the GPUs there are."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sender's, who ends this process
    threading.Thread(target=_end_with_sender, daemon=True).start()
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(index % torch.cuda.device_count())
    performer = Performer(Relay(pipe))
    while True:
        try:
            cell = Cell.from_json(pipe.recv_bytes().decode())
        except EOFError:
            return
        try:
            outcome = performer.perform(cell)
        except AdvbenchError as error:
            tell(pipe, refused=str(error), exit_code=error.exit_code)
        except Exception as error:
            tell(pipe, lost=f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise  # to stderr, with its lines
        else:
            tell(pipe, done=[outcome.run, outcome.step])


def _end_with_sender() -> None:
    """A sender that was killed closes no door: without this its workers would finish their cells for nobody."""
    sender = parent_process()
    if sender is not None:
        sender.join()
        os._exit(1)
