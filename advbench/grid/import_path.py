"""Keep the current folder off the import path of worker processes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_current_folder() -> Iterator[None]:
    """A process started in this imports no file that merely lies in the current folder, as `python -c` would.

    Empty entries of sys.path and PYTHONPATH mean that folder too. A program's own folder stays, and so do named ones.
    """
    safe, path = {"PYTHONSAFEPATH": "1"}, list(sys.path)
    if named := os.getenv("PYTHONPATH"):
        safe["PYTHONPATH"] = os.pathsep.join(filter(None, named.split(os.pathsep)))
    before = {name: os.environ[name] for name in safe if name in os.environ}
    os.environ.update(safe)
    sys.path[:] = filter(None, path)  # multiprocessing hands it on
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        os.environ.update(before)
        sys.path[:] = path
