"""Victim: a frozen classifier under attack, its outputs in batches, its ART wrapper."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from advbench.device import Device, free_cached, is_out_of_memory, own_streams
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.networks import Network
from advbench.types import Outputs, Streamed
from advbench.victim.meter import Meter, Told

if TYPE_CHECKING:
    from advbench.victim.art_classifier import GradientClassifier, Gradients

T = TypeVar("T")


def straight_through(value: Tensor, stand_in: Tensor) -> Tensor:
    """`value` with the gradient of `stand_in` (BPDA, Athalye et al. 2018, arXiv:1802.00420)."""
    return stand_in + (value - stand_in).detach()


class Classifier(nn.Module, ABC):
    """What a victim runs: images [b c h w] in [0, 1] to features and logits, in one pass."""

    @abstractmethod
    def outputs(self, images: Tensor) -> Outputs:
        """Features [b d] and logits [b k], with their graph where `images` require a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        """Evaluation logits [b k]."""
        return self.outputs(images).logits

    def differentiable_outputs(self, images: Tensor) -> Outputs:
        """The same values, with a gradient that an attack may follow where the plain one is missing (BPDA)."""
        return self.outputs(images)


class Composed(Classifier):
    """A network and the head of the loss that trained it."""

    def __init__(self, network: Network, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.to(memory_format=torch.channels_last)

    def outputs(self, images: Tensor) -> Outputs:
        """The network's features and the head's logits."""
        features = self.network(images)
        return Outputs(features, self.head(features))

    def differentiable_outputs(self, images: Tensor) -> Outputs:
        """The same, with the gradient of the network's stand-in where it has one."""
        features, stand_in = self.network(images), self.network.stand_in(images)
        if stand_in is not None:
            features = straight_through(features, stand_in)
        return Outputs(features, self.head(features))


@dataclass(eq=False, repr=False)
class Victim:
    """A classifier on a device, in evaluation mode, every parameter frozen."""

    model: Classifier
    _: KW_ONLY
    shape: tuple[int, int, int]
    classes: int
    device: Device
    batch_size: int = 256  # of evaluation; halved for good when memory runs out (`say` is told)
    reuse_gradients: bool = False  # keep the single-step gradients, so that FGSM at several eps takes them once
    say: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self.model.to(self.device).eval().requires_grad_(False)
        self.model.zero_grad(set_to_none=True)  # what a training left behind
        self._gradients: Gradients | None = {} if self.reuse_gradients else None
        self.meter = Meter(self.model)  # of the batch at work: an attack may tell it how far it is

    @property
    def has_head(self) -> bool:
        """Whether the model was trained here, so that its network and the head of its loss are known apart."""
        return isinstance(self.model, Composed)

    @property
    def network(self) -> Network:
        """Images to features, of a model trained here."""
        return self._parts.network

    @property
    def head(self) -> Head:
        """Features to logits, of a model trained here."""
        return self._parts.head

    @property
    def _parts(self) -> Composed:
        if not isinstance(self.model, Composed):
            raise BadSetting("a supplied model has no head of a loss; train one with: advbench train --loss softmax")
        return self.model

    def in_batches(self, n: int, work: Callable[[slice], T], meter: Meter | None = None) -> list[T]:
        """`work` on slices of 0..n, in order, each of at most `batch_size` rows; `meter` is told of each.

        Out of memory halves the batch, says so, and goes on where it stopped; a single image that does not
        fit is a BadSetting.
        """
        results: list[T] = []
        start, meter = 0, meter or Meter(self.model)
        while start < n:
            part, self.meter = slice(start, min(start + self.batch_size, n)), meter
            try:
                with meter.batch(part):
                    results.append(work(part))
                start = part.stop
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise BadSetting(
                        f"one image does not fit into the memory of {self.device}; use another --device"
                    ) from error
            self.batch_size = (self.batch_size + 1) // 2
            self.say(f"out of memory on {self.device}: evaluating {self.batch_size} images at a time from here on")
            free_cached(self.device)
        return results

    def outputs(self, images: Tensor | Streamed, told: Told = lambda done: None, *, seed: int = 0) -> Outputs:
        """Features and logits of images [n c h w], on the CPU, from one forward pass; `told` hears how many.

        A random model gives the same images the same outputs; those that begin at another place have another `seed`.
        """
        batches: list[Outputs] = []
        self.each_output(images, lambda _, found: batches.append(found), told, seed=seed)
        return Outputs(torch.cat([o.features for o in batches]), torch.cat([o.logits for o in batches]))

    @torch.no_grad()
    def each_output(
        self,
        images: Tensor | Streamed,
        take: Callable[[slice, Outputs], object],
        told: Told = lambda done: None,
        *,
        seed: int = 0,
    ) -> None:
        """The same, handed over batch by batch; of no images, one batch of none."""

        def forward(part: slice) -> None:
            found = self.model.outputs(images[part].to(self.device))
            take(part, Outputs(found.features.cpu(), found.logits.cpu()))

        with own_streams(self.device):
            torch.manual_seed(seed)
            self.in_batches(len(images), forward, Meter(self.model, told))
            if not len(images):  # their sizes are the model's to say
                found = self.model.outputs(torch.zeros(1, *self.shape, device=self.device))
                take(slice(0, 0), Outputs(found.features[:0].cpu(), found.logits[:0].cpu()))
        told(len(images))

    def differentiable_outputs(self, images: Tensor) -> Outputs:
        """Outputs of one batch with their graph; raises BadSetting where no gradient reaches `images`."""
        found = self.model.differentiable_outputs(images)
        if not found.features.requires_grad or not found.logits.requires_grad:
            raise BadSetting(
                "the model's outputs carry no gradient; give it a stand_in for its part without one (BPDA), or "
                "attack it with square"
            )
        return found

    @cached_property
    @torch.no_grad()
    def stochastic(self) -> bool:
        """Whether two passes over the same two images differ by more than the noise of the kernels."""
        rng = torch.Generator().manual_seed(0)
        images = torch.rand((2, *self.shape), generator=rng).to(self.device)
        with own_streams(self.device):
            first, second = self.model(images), self.model(images)
        return not torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True)

    def logits_classifier(self, loss: nn.Module, *, clip: bool = True) -> GradientClassifier:
        """An ART classifier whose loss sees the logits."""
        return self._wrap(self.model, loss, clip=clip)

    def features_classifier(self, loss: nn.Module, *, clip: bool = True) -> GradientClassifier:
        """An ART classifier whose loss sees the features and applies the head itself; of a model trained here."""
        return self._wrap(self.network, loss.to(self.device), clip=clip)

    def _wrap(self, model: nn.Module, loss: nn.Module, *, clip: bool) -> GradientClassifier:
        from advbench.victim.art_classifier import announce, wrap

        announce(self.say)
        known, classes = self._gradients, self.classes
        return wrap(model, loss, shape=self.shape, classes=classes, device=self.device, clip=clip, known=known)

    def head_in_float64(self) -> Head:
        """A frozen copy of the head on the CPU, for scores and exact gradients."""
        return copy.deepcopy(self.head).cpu().double()
