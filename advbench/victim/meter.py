"""Progress within a batch, from forward hooks on the model's modules."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

Told = Callable[[float], None]  # how much is done
SLOW = 0.5  # seconds of a pass: hooks on all modules, which cost quick ones 2 to 20 %, stay where it takes longer
PAUSE = 0.1  # seconds between two reports
LINEAR = 0.95  # of a batch; what takes more passes than expected nears 1 from here


class Meter:
    """Tells how many images are done, those of the batch at work by its share of `passes`.

    model    what is run; a forward pass counts 1, the gradient of its output 1 more
    passes   expected of a batch or of a part of it; from the second on, as many as the last one took
    """

    def __init__(self, model: nn.Module, told: Told = lambda done: None, passes: float = 1) -> None:
        body = next(model.children(), model)  # that a pass runs once
        self._body = model if isinstance(body, torch.jit.ScriptModule) else body  # which takes no hook
        names = [name for name, _ in self._body.named_modules()]
        self._own = set(self._body.modules())
        self._modules = 1 if any("_orig_mod" in name for name in names) else len(names)  # 1: what is compiled is one
        self._told, self._passes, self._images = told, passes, slice(0, 0)
        self._calls, self._at, self._last = 0, 0.0, 0.0

    @contextmanager
    def batch(self, images: slice) -> Iterator[None]:
        """While the images of this slice are at work."""
        self._images, self._since = images, time.monotonic()
        self.begin(0, 1)
        listen = register_module_forward_hook if self._modules > 1 else self._body.register_forward_hook
        self._handle = listen(self._called)
        try:
            yield
        finally:
            self._handle.remove()
        self.begin(1, 1)

    def at(self, images: slice) -> None:
        """Those of this slice, of the batch at work, are next."""
        self._images = images
        self.begin(0, 1)

    def begin(self, part: int, of: int) -> None:
        """Part 0, 1, ... of `of` equal ones of the batch begins: for attacks that take one image after another."""
        self._passes, self._at, self._part, self._of = self._at or self._passes, 0.0, part, of
        self._count(weight=0)

    def _called(self, module: nn.Module, args: object, output: object) -> None:  # noqa: ARG002
        if module not in self._own:  # the hook is on all modules of the process
            return
        self._count()
        self._calls, now, body = self._calls + 1, time.monotonic(), module is self._body
        if (body or now - self._since > PAUSE) and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._count)  # type: ignore[no-untyped-call]
        if body and self._modules > 1:
            self._modules, self._calls = self._calls, 0
            if now - self._since < SLOW:
                self._handle.remove()
                self._modules, self._handle = 1, module.register_forward_hook(self._called)
            self._since = now

    def _count(self, gradient: Tensor | None = None, weight: float = 1) -> None:  # noqa: ARG002
        self._at += weight / self._modules
        now, share = time.monotonic(), self._at / self._passes
        if now - self._last > PAUSE:
            self._last = now
            share = share if share < LINEAR else 1 - LINEAR * (1 - LINEAR) / share
            first, last = self._images.start, self._images.stop
            self._told(first + (self._part + share) / self._of * (last - first))
