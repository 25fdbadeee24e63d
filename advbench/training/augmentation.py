"""Random mirroring and shifts of a batch, on its device."""

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # pixels on each side, as in He et al. 2016


def mirror_crop(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image [c h w] mirrored with probability 1/2, and cropped at random from itself padded with 4 black pixels.

    He et al. 2016 (arXiv:1512.03385, sec. 4.2). The same shape, device and range; the memory is channels-last. The
    random numbers come from `rng`, on the CPU: places (down, across) uniform in 0..8, then mirror or not.
    """
    places = torch.randint(2 * PADDING + 1, (2, len(images)), generator=rng)
    mirrored = torch.randint(2, (len(images),), generator=rng, dtype=torch.bool)
    down, across = places.to(images.device)
    return crop(images, down, across, mirrored.to(images.device))


def crop(images: Tensor, down: Tensor, across: Tensor, mirrored: Tensor) -> Tensor:
    """Image i [c h w] out of its padded self from row `down[i]` and column `across[i]` on, then mirrored or not."""
    n, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, *[PADDING] * 4))  # [b h+8 w+8 c]
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = across[:, None] + torch.where(mirrored[:, None], columns.flip(1), columns)
    rows = rows + (height + 2 * PADDING) * torch.arange(n, device=images.device)[:, None]
    pixels = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    chosen = padded.reshape(-1, channels).index_select(0, pixels.flatten())
    return chosen.view(n, height, width, channels).permute(0, 3, 1, 2)
