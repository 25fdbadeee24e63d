"""A training that is cut off and goes on."""

import torch
from safetensors.torch import load

from advbench.runs.artifacts import pack
from advbench.training.loop import Checkpoint, Trainer


def run_and_resume(whole: Trainer, resumed: Trainer, after: int) -> None:
    """Run `whole`, and `resumed` from where `whole` was stored after so many epochs."""
    kept: list[tuple[bytes, Checkpoint]] = []

    def keep(running: Trainer) -> None:
        checkpoint = running.checkpoint()
        kept.append((pack(dict(checkpoint.tensors)), checkpoint))

    whole.run(keep)
    stored, checkpoint = kept[after - 1]
    resumed.order.manual_seed(99)  # nothing of the fresh start may be left
    resumed.restore(Checkpoint(load(stored), checkpoint.epochs))
    assert len(resumed.epochs) == after
    torch.rand(5)
    resumed.run()
