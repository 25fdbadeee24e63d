"""Images that stay on disk: rows that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.process import Device


@dataclass(frozen=True)
class Streamed:
    """Stands where a tensor of images would, and holds no pixel: `shape`, `len`, `[rows]`, `to(device)`.

    read          decodes rows (int64 [m], CPU) of the whole that this is a part of: float32 [m c h w] in [0, 1], CPU
    index         int64 [n], the rows of the whole that are in this part, in this part's order
    image_shape   (c, h, w)
    device        where rows are handed over
    """

    read: Callable[[Tensor], Tensor]
    index: Tensor
    image_shape: tuple[int, int, int]
    device: Device | str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, h, w)."""
        return (len(self.index), *self.image_shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """These rows decoded, float32 [m c h w] on `device`; `rows` is a slice or int64 [m] on any device."""
        return self.read(self.take(rows).index).to(self.device)

    def take(self, rows: Tensor | slice) -> Streamed:
        """These rows, still on disk."""
        index = self.index[rows if isinstance(rows, slice) else rows.cpu()]
        return Streamed(self.read, index, self.image_shape, self.device)

    def to(self, device: Device) -> Streamed:
        """The same rows, to be handed over on another device."""
        return Streamed(self.read, self.index, self.image_shape, device)


def joined(first: Tensor | Streamed, second: Tensor | Streamed) -> Tensor | Streamed:
    """Rows of both parts of one data set, one after the other."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, Streamed)
    assert isinstance(second, Streamed)
    assert first.read == second.read  # parts of one data set lie in one place
    return Streamed(first.read, torch.cat([first.index, second.index]), first.image_shape)
