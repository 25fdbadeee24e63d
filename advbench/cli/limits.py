"""Refuse to start where the shell's limits on files or memory are too low for torch."""

import errno
import sys

from advbench.errors import BadSetting

LEAST_FILES = 16  # a command has 10 open at once; each worker process takes two more of its sender's
# torch's libraries and threads map up to 5.4 GB of addresses, most of which they never touch
LEAST_MEMORY = 6 * 2**30
REFUSED = dict.fromkeys((errno.EACCES, errno.EPERM), "no permission to read {}; make it readable, or name another")
REFUSED |= dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many open files; raise the limit: ulimit -n 1024")
REFUSED[errno.ENAMETOOLONG] = "{} is too long for the name of a file; shorten it"


def refused(error: Exception) -> str:
    """A sentence on what the system refused; empty where that is no user's matter."""
    if not isinstance(error, OSError):
        from advbench.device import is_out_of_memory, out_of_memory

        return out_of_memory() if is_out_of_memory(error) else ""
    return REFUSED.get(error.errno or 0, "").format(error.filename)


def check_limits(workers: int = 0) -> None:
    """Raise BadSetting where files or addresses are too few for torch, or for that many workers on this machine."""
    if sys.platform == "win32":
        return
    import resource

    files, memory = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS))
    need = LEAST_FILES + 3 * workers
    if resource.RLIM_INFINITY != files < need:
        raise BadSetting(
            f"{files} open files are allowed here and {need} are needed; raise the limit: ulimit -n 1024"
        )
    if resource.RLIM_INFINITY != memory < LEAST_MEMORY:
        raise BadSetting(
            f"{memory >> 10} KiB of address space are allowed here and torch needs {LEAST_MEMORY >> 10}; raise the "
            "limit: ulimit -v unlimited"
        )
