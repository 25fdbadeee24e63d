"""Ray as a user has it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HEAD = """
import sys, ray
ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=80 * 2**20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def users_ray() -> Iterator[str]:
    """The address of a Ray of two CPUs that another process started and that everybody here may use."""
    pipe, environment = subprocess.PIPE, os.environ | {"RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        assert process.poll() is None
