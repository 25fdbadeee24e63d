"""The border to ART: a PyTorchClassifier that counts vanished gradients, and the fast gradient step through it.

ART hands its loss only the model's last output, and NumPy arrays go in and out; both stay behind this file. Where ART
cannot be imported, `MISSING` says why, and the step is computed here, to the same bytes.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.device import CPU, Device, current, make_current
from advbench.types import Perturbed

MISSING = ""
try:
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier
except Exception as error:  # whatever a library raises that was made for another NumPy, torch or Python
    MISSING = " ".join(f"{type(error).__name__}: {error}".split())

    class PyTorchClassifier:  # type: ignore[no-redef]
        """What the step uses of ART's."""

        def __init__(
            self, *, model: nn.Module, loss: nn.Module, clip_values: Any, device_type: str, **_: Any
        ) -> None:
            self.model, self._loss, self.clip_values = model, loss, clip_values
            self._device = CPU if device_type == "cpu" else current()

        def loss_gradient(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float32]:
            """Of the loss in the images x [n c h w], for class indices y [n]."""
            images = torch.from_numpy(x).to(self._device).requires_grad_()
            self._loss(self.model.eval()(images), torch.from_numpy(y).to(self._device)).backward()
            gradient: NDArray[np.float32] = images.grad.cpu().numpy()  # type: ignore[union-attr]
            return gradient


MOST_KEPT = 2**27  # bytes of gradients
Gradients = dict[tuple[str, bytes], NDArray[np.float32]]


class GradientClassifier(PyTorchClassifier):  # type: ignore[misc]
    """An ART classifier that remembers which images' last loss gradient was zero in every pixel, or not finite."""

    zero_gradients: NDArray[np.bool_]

    def __init__(self, *, known: Gradients | None, **settings: Any) -> None:
        super().__init__(**settings)
        self.known = known  # gradients by loss and batch, to be used again by FGSM at another eps, or unclipped
        self.is_rnn = False  # else ART takes the gradients of recurrent models in training mode

    def loss_gradient(self, x: Any, y: Any, **more: Any) -> Any:
        """ART's gradient of the loss in the input, unchanged."""
        gradient = super().loss_gradient(x, y, **more) if self.known is None else self._once(self.known, x, y, more)
        flat: NDArray[np.float32] = gradient.reshape(len(gradient), -1)
        self.zero_gradients = np.logical_not(flat.any(axis=1) & np.isfinite(flat).all(axis=1))
        return gradient

    def _once(self, known: Gradients, x: NDArray[np.float32], y: NDArray[Any], more: Any) -> NDArray[np.float32]:
        key = (repr(self._loss), hashlib.sha256(np.ascontiguousarray(x).data).digest() + y.tobytes())
        if key in known:
            return known[key].copy()
        gradient: NDArray[np.float32] = super().loss_gradient(x, y, **more)
        if gradient.nbytes + sum(kept.nbytes for kept in known.values()) <= MOST_KEPT:
            known[key] = gradient.copy()
        return gradient


@cache
def announce(say: Callable[[str], None]) -> None:
    """Tell `say` where ART is missing, once."""
    if MISSING:
        own = "FGSM is computed by advbench's own code, which the tests hold equal to ART's"
        say(f"ART cannot be imported ({MISSING}): {own}")


def wrap(
    model: nn.Module,
    loss: nn.Module,
    *,
    shape: tuple[int, int, int],
    classes: int,
    device: Device,
    clip: bool,
    known: Gradients | None = None,
) -> GradientClassifier:
    """`model` (to logits, or to features where `loss` applies the head), its parameters frozen, for ART."""
    make_current(device)  # ART knows no other GPU
    sizes = {"input_shape": shape, "nb_classes": classes, "clip_values": (0.0, 1.0) if clip else None}
    kind = "gpu" if device.type == "cuda" else "cpu"
    return GradientClassifier(known=known, model=model, loss=loss, device_type=kind, **sizes)


def fast_gradient_step(
    classifier: GradientClassifier, images: Tensor, labels: Tensor, eps: float, *, targeted: bool
) -> Perturbed:
    """One L-inf step of size eps along the sign of the loss gradient, by ART's FastGradientMethod where it is there.

    `labels` int64 [n] are the true classes, or the targets where `targeted`. An all-zero gradient leaves its
    image as it is.
    """
    x, y = images.cpu().numpy(), labels.cpu().numpy()
    if MISSING:
        moved = torch.from_numpy(_step(classifier, x, y, -eps if targeted else eps))
    else:
        attack = FastGradientMethod(classifier, norm=np.inf, eps=eps, targeted=targeted, batch_size=len(images))
        moved = torch.from_numpy(attack.generate(x, y=y))
    if classifier.clip_values is not None:
        moved = moved.clamp(0, 1)  # ART's projection can leave the range by one rounding
    n = len(images)
    return Perturbed(
        images=moved,
        targets=labels.cpu() if targeted else None,
        gradients=torch.ones(n, dtype=torch.long),
        forwards=torch.ones(n, dtype=torch.long),
        zero_gradients=torch.from_numpy(classifier.zero_gradients),
        first_success=torch.full((n,), -1),  # one step, not looked at
        implementation="advbench" if MISSING else "art",
    )


def _step(classifier: GradientClassifier, x: NDArray[np.float32], y: NDArray[np.int64], step: float) -> Any:
    """As ART does it: NaN counts as 0, and the projection onto the ball rounds."""
    gradient = classifier.loss_gradient(x, y)
    moved = x + step * np.sign(np.where(np.isnan(gradient), 0, gradient))
    if classifier.clip_values is not None:
        moved = np.clip(moved, *classifier.clip_values)
    return x + np.clip(moved - x, -abs(step), abs(step))
