"""Check a supplied model's mode and weights, and that a forward pass does not change them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from advbench.errors import Diagnostic, refuse


def mode_and_weights(module: nn.Module) -> Iterator[Diagnostic]:
    """A part still in training mode, weights that are no numbers."""
    named = [(name or "the model itself", part) for name, part in module.named_modules() if hasattr(part, "training")]
    training = [name for name, part in named if part.training]
    if training:
        yield refuse(
            "training-mode",
            f"{training[0]} is still in training mode after eval(), and {len(training) - 1} more parts with it; let "
            "its train() pass the mode on, or build the model without that part",
        )
    tensors = tensors_of(module)
    if spoilt := [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]:
        yield refuse(
            "weights-not-finite",
            f"{len(spoilt)} of the model's {len(tensors)} tensors hold NaN or infinite values, {spoilt[0]} first; "
            "its training diverged or the file is damaged: take other weights",
        )


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    return [*module.named_parameters(), *module.named_buffers()]


def changes(module: nn.Module, before: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    """Weights that are others than they were before a forward pass; counters, which are whole numbers, may count."""
    numbers = [(name, tensor) for name, tensor in tensors_of(module) if tensor.is_floating_point()]
    if moved := [name for name, tensor in numbers if name not in before or not torch.equal(tensor, before[name])]:
        yield refuse(
            "changes-itself",
            f"a forward pass changes {len(moved)} of the model's own tensors, {moved[0]} first, so that no two "
            "passes are of one model; let forward only read them, or change them only where self.training is true",
        )
