"""Resources of a Slurm job: KEY=VALUE texts to submitit's parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advbench.errors import BadSetting, UnknownName
from advbench.settings import at_least, number, whole

CLUSTERS = ("slurm", "local")
GPU_GRES = ("gpu", "shard", "mps")  # the generic resources that are a GPU or a part of one


def _text(value: str, name: str) -> str:
    if not value or not value.isprintable():  # a line break would begin another line of the batch script
        raise BadSetting(f"{name} = {value!r} is not one line of text; write for example {name}=short")
    return value


def _minutes(value: str, name: str) -> int:
    minutes = whole(value, name)
    at_least(name, minutes, 1)
    return minutes


def _gigabytes(value: str, name: str) -> float:
    size = number(value, name)
    at_least(name, size, 1 / 1024)
    return size


def _cluster(value: str, name: str) -> str:
    if value not in CLUSTERS:
        raise UnknownName(f"choice for {name}", value, CLUSTERS)
    return value


TEXT = ("account", "comment", "constraint", "exclude", "gres", "nodelist", "partition", "qos", "reservation", "wckey")
KEYS: dict[str, Callable[[str, str], Any]] = {"cluster": _cluster, "timeout_min": _minutes, "mem_gb": _gigabytes}
KEYS |= dict.fromkeys(TEXT, _text)
DEFAULTS: dict[str, Any] = {"timeout_min": 240, "mem_gb": 8.0}


def resources(texts: Iterable[str]) -> dict[str, Any]:
    """What texts such as `partition=gpu` ask for, checked.

    timeout_min  minutes a job may take (default 240)
    mem_gb       its memory in GiB (default 8)
    cluster      slurm, or local: the same jobs as processes of this machine, to try them out
    others       sbatch's options of that name, as they are

    Raises BadSetting, UnknownName for a key that is none of these.
    """
    asked: dict[str, Any] = {}
    for text in texts:
        key, given, value = text.partition("=")
        if not given:
            raise BadSetting(f"--slurm {text!r} is not KEY=VALUE; the keys are {', '.join(sorted(KEYS))}")
        if key not in KEYS:
            raise UnknownName("key of --slurm", key, KEYS)
        if key in asked:
            raise BadSetting(f"--slurm {key} is given twice: {asked[key]} and {value}; leave one")
        asked[key] = KEYS[key](value, f"--slurm {key}")
    return asked


def cluster_of(asked: Mapping[str, Any]) -> str:
    """Where the jobs run: slurm or local."""
    return str(asked.get("cluster", "slurm"))


def gpus_asked(asked: Mapping[str, Any]) -> str:
    """Its generic resources where they are GPUs or parts of them, such as gpu:1, gpu:a100:1, shard:4; else empty."""
    gres = str(asked.get("gres", ""))
    names = {part.removeprefix("gres/").partition(":")[0] for part in gres.split(",")}
    return "" if names.isdisjoint(GPU_GRES) else gres


def parameters(threads: int, gpus: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """For submitit's AutoExecutor.update_parameters: one task on one node, with what was asked on top."""
    given = DEFAULTS | {key: value for key, value in asked.items() if key != "cluster"}
    made = {key: given.pop(key) for key in DEFAULTS}
    made |= {"name": "advbench", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": threads}
    if gpus:
        made["gpus_per_node"] = gpus
    if "reservation" in given:
        given["additional_parameters"] = {"reservation": given.pop("reservation")}
    # Since Slurm 22.05 srun no longer takes over the CPUs a task has in its batch script: torch would sit on one.
    given["srun_args"] = [f"--cpus-per-task={threads}"]
    return made | {f"slurm_{key}": value for key, value in given.items()}
