"""A run's trained model, rebuilt from its record and its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from advbench import catalog
from advbench.device import CPU
from advbench.errors import Misfit
from advbench.losses import Head
from advbench.networks import Network
from advbench.runs import Run, artifacts
from advbench.runs.artifacts import within
from advbench.victim.victim import Composed, Victim


def build(
    network: str,
    feature_dim: int,
    loss: str,
    loss_settings: Mapping[str, Any],
    *,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
) -> tuple[Network, Head]:
    """A freshly initialised network and head; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body: Network = catalog.load("network", network)(shape, feature_dim)
        head: Head = catalog.load("loss", loss)(feature_dim, classes, **loss_settings)
        body.initialise(head)
    return body, head


def head_of(run: Run, classes: int) -> Head:
    """The trained head, on the CPU, from model.safetensors."""
    model = run.trained
    head: Head = catalog.load("loss", model.loss_name)(model.feature_dim, classes, **model.loss_settings)
    load_state(head, artifacts.unpack(run, artifacts.MODEL), "head", run)
    return head


def rebuilt(run: Run, shape: tuple[int, int, int], classes: int) -> Composed:
    """The trained model of a run, from its record and its weights, for images of that shape and so many classes."""
    model, tensors = run.trained, artifacts.unpack(run, artifacts.MODEL)
    own: dict[str, Any] = {"shape": shape, "classes": classes, "seed": model.seed}
    network, head = build(model.network, model.feature_dim, model.loss_name, model.loss_settings, **own)
    load_state(network, tensors, "network", run)
    load_state(head, tensors, "head", run)
    return Composed(network, head)


def victim(run: Run, shape: tuple[int, int, int], classes: int) -> Victim:
    """The run's trained model on the CPU; raises Misfit where its weights do not fit."""
    return Victim(rebuilt(run, shape, classes), shape=shape, classes=classes, device=CPU)


def load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], part: str, run: Run) -> None:
    """Load the weights `part.*`; raises Misfit where they do not fit the module the manifest describes."""
    try:
        module.load_state_dict(within(tensors, part))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise Misfit(
            f"{run.folder / artifacts.MODEL} does not fit the model in its manifest ({why}); delete {run.folder} "
            "and run again"
        ) from error
