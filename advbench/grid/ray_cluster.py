"""A connection to Ray: of this machine and for this work alone, to a cluster, or the one that this process has."""

import contextlib
import importlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from advbench.errors import BadSetting
from advbench.grid.import_path import without_current_folder

ANSWERS_WITHIN = 10.0  # seconds for an address
GONE_WITHIN = 10.0  # seconds for a killed process
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the later default, of which an earlier Ray warns until it is chosen
}
JOB = {"_client_job": True}  # for Ray's other jobs, workers import from this process's current folder
SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
SMALL_STORE = 80 * 2**20  # bytes of shared memory, about the least Ray takes; messages are smaller than it stores


def load_ray() -> Any:
    """The module `ray`; raises BadSetting where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BadSetting(f"Ray cannot be imported ({error}); install advbench[ray], or take --on local") from error


@contextmanager
def connected(address: str | None, *, cpus: int, gpus: bool) -> Iterator[bool]:
    """Ray for as long as this lasts; whether it is one of this machine, started for it alone, which ends with it.

    address   None starts Ray here with so many `cpus`, and the GPUs it finds if `gpus`; else a running cluster's, as
              `address_of` gives it, from which this process only disconnects

    A process that is connected already stays so, and `address` is then not looked at.

    Raises BadSetting where no cluster answers, or Ray is too old to be started safely.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield False
        return
    with _as_it_was():
        try:
            if address is None:
                _start(cpus, gpus=gpus)
            else:
                _connect(address)
            yield address is None
        finally:
            workers = started()
            ray.shutdown()
            end(workers)


def started() -> list[Any]:
    """The processes of the Ray that this process has started: those of the raylet, which is its child."""
    psutil = importlib.import_module("psutil")
    workers = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended since
            if child.name().startswith("raylet"):
                workers += child.children(recursive=True)
    return workers


def end(workers: list[Any]) -> None:
    """Kill what Ray has left to end by itself, and wait until it is gone."""
    psutil = importlib.import_module("psutil")
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            worker.kill()  # never another process that has its number since
    deadline = time.monotonic() + GONE_WITHIN
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)


def alive(process: Any) -> bool:
    """Whether a process of psutil still runs; one that has ended and waits for its parent does not."""
    psutil = importlib.import_module("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _start(cpus: int, *, gpus: bool) -> None:
    ray = load_ray()
    if tuple(map(int, ray.__version__.split(".")[:2])) < (2, 52):
        why = f"Ray {ray.__version__} asks for no token, so whoever reaches its ports could run code here"
        raise BadSetting(f"{why}; install ray>=2.52, or take --on local")
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    _read_token()
    constants = importlib.import_module("ray._private.ray_constants")
    # It listens on the loopback alone, as it does anyway on macOS and Windows.
    with without_current_folder(), patch.object(constants, "ENABLE_RAY_CLUSTER", False):
        room = {"num_cpus": cpus, "num_gpus": None if gpus else 0, "object_store_memory": SMALL_STORE}
        job = ray.job_config.JobConfig(**JOB)
        # without "local" it would take an address that the environment or a file names
        ray.init(address="local", include_dashboard=False, job_config=job, **room, **SILENT)


def _connect(address: str) -> None:
    if address != "auto":
        _knock(address)
    ray = load_ray()
    try:
        # Behind ray:// a job is of that kind anyway.
        job = None if address.startswith("ray://") else ray.job_config.JobConfig(**JOB)
        ray.init(address=address, job_config=job, **SILENT)
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        # of a missing token Ray says no more than that, after 20 s
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; one that wants a token is reached with RAY_AUTH_MODE=token"
        raise BadSetting(f"address = {address!r} gives no Ray cluster: {why}{hint}") from error


def address_of(text: str | None) -> str | None:
    """The address that a user's text means: `auto` is RAY_ADDRESS where that is set, as in Ray; None stays None.

    Raises BadSetting for what is none of auto, HOST:PORT and ray://HOST:PORT.
    """
    found = os.getenv("RAY_ADDRESS", "auto") if text == "auto" else text
    if found is not None and found != "auto":
        _host_and_port(found)
    return found


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise BadSetting(
            f"address = {address!r} is no address of a Ray cluster; write auto, HOST:PORT or ray://HOST:PORT"
        )
    return host.strip("[]"), int(port)


def _knock(address: str) -> None:
    """Raise BadSetting where nothing listens: Ray itself would try for minutes."""
    try:
        socket.create_connection(_host_and_port(address), timeout=ANSWERS_WITHIN).close()
    except OSError as error:
        raise BadSetting(f"no Ray cluster answers at {address} ({error}); ray status shows one's address") from error


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what Ray changes in this process: environment variables and the handler of SIGTERM."""
    environment = dict(os.environ)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    os.environ.update(QUIET)
    try:
        yield
    finally:
        token = os.getenv("RAY_AUTH_TOKEN")
        os.environ.clear()
        os.environ.update(environment)
        if token != os.getenv("RAY_AUTH_TOKEN"):
            _read_token()
        if main:
            signal.signal(signal.SIGTERM, handler)


def _read_token() -> None:
    """Have Ray look into the environment again: it keeps what it found there when it was imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def check_fits(cpus: int, gpus: float) -> None:
    """Raise BadSetting where no node that is there could ever hold one worker of this size."""
    sizes = sorted({_had(node["Resources"]) for node in load_ray().nodes() if node["Alive"]}, reverse=True)
    if any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in sizes):
        return
    have = "; ".join(size(*one) for one in sizes[:3]) + ("; ..." if len(sizes) > 3 else "")
    raise BadSetting(f"a job asks for {size(cpus, gpus)}, but no node of Ray has as many ({have}); ask for fewer")


def _had(resources: Mapping[str, float]) -> tuple[float, float]:
    return resources.get("CPU", 0), resources.get("GPU", 0)


def size(cpus: float, gpus: float) -> str:
    """So many CPUs and GPUs, for people."""
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'} and {gpus:g} GPU{'' if gpus == 1 else 's'}"


def free_and_all() -> str:
    """What the cluster has, for people."""
    ray = load_ray()
    free, whole = size(*_had(ray.available_resources())), size(*_had(ray.cluster_resources()))
    return f"it has {whole}, of which {free} are free"
