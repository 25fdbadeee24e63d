"""A worker of any engine: executes cells one after the other and reports on each.

Messages are JSON objects: {"said": [lines]}, {"done": [run, step]}, {"refused": sentence, "exit_code": status},
{"lost": reason}. After the last, what the worker holds cannot be trusted.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import torch

from advbench.device import take_gpu
from advbench.errors import AdvbenchError
from advbench.grid.cells import Cell
from advbench.grid.perform import Performer
from advbench.progress import Quiet


class Relay(Quiet):
    """Hands on what is said; bars are left to the sender, where one shows all cells."""

    def __init__(self, on_line: Callable[[str], object]) -> None:
        self.on_line = on_line

    def say(self, text: str) -> None:
        """One line."""
        self.on_line(text)


def outcome(performer: Performer, cell: Cell) -> dict[str, Any]:
    """Perform a cell: the message about it; an error that is not the study's goes to stderr too, with its lines."""
    try:
        made = performer.perform(cell)
    except AdvbenchError as error:
        return {"refused": str(error), "exit_code": error.exit_code}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return {"lost": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"done": [made.run, made.step]}


def serve(pipe: Connection, index: int, threads: int) -> None:
    """Perform the cells that come as JSON texts until the pipe is closed; messages go the other way.

    `index` tells workers apart, and shares out the GPUs there are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sender's, who ends this process
    threading.Thread(target=_end_with_sender, daemon=True).start()
    torch.set_num_threads(threads)
    take_gpu(index)
    performer = Performer(Relay(lambda line: _tell(pipe, {"said": [line]})))
    while True:
        try:
            cell = Cell.from_json(pipe.recv_bytes().decode())
        except EOFError:
            return
        message = outcome(performer, cell)
        _tell(pipe, message)
        if "lost" in message:
            sys.exit(1)


def _tell(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _end_with_sender() -> None:
    """A killed sender closes no pipe: without this its workers would finish their cells for nobody."""
    if (sender := parent_process()) is not None:
        sender.join()
        os._exit(1)
