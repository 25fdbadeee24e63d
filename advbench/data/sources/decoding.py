"""Image files, decoded to arrays of one size; what cannot be used is told by its reason.

Only the decoders of FORMATS are asked, whatever the name says, and only after the header has been read: a file of
another kind reaches no other decoder, and one that would unpack to more than MOST_PIXELS is not unpacked.
"""

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from advbench.device import check_memory
from advbench.errors import BadData

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")  # read without a look beforehand
MOST_PIXELS = 2**26  # 8192 x 8192
MOST_BYTES = 2**28
MOST_WAITING = 2**25  # bytes of decoded images of a portion that wait for their turn
ORIENTATION = 0x0112  # EXIF tag
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
LARGE = 2**24  # bytes of a picture from which memory is looked at before
THREADS = min(4, os.cpu_count() or 1)  # Pillow unpacks without holding the interpreter
PORTION = 64  # files a thread takes at a time

Pixels = NDArray[np.uint8] | NDArray[np.float32]  # [h w] or [h w 3]; uint8, or float32 in [0, 1] of 16-bit files


@dataclass(frozen=True)
class Unusable:
    """Why a file is left out."""

    reason: str


def decode(path: Path, image_size: int | None = None) -> Pixels | Unusable:
    """An image upright (EXIF), as [h w] where it is grey and [h w 3] where it is not, or why it cannot be had.

    An alpha channel is dropped and a palette looked up, as torchvision's ImageFolder does; 16 bits of grey are kept;
    of an animation the first picture counts. With `image_size` the shorter side is brought to it (bilinear, with
    antialiasing) and the middle square taken.
    """
    named = path.suffix.lower() in SUFFIXES
    try:
        if path.stat().st_size > MOST_BYTES:
            return Unusable(f"more than {MOST_BYTES:,} bytes")
        if not named:  # is it an image at all? A few bytes tell
            Image.open(path, formats=FORMATS).close()
        # read in one piece: Pillow's own small reads take longer than the decoding of a small picture
        with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return Unusable(f"more than {MOST_PIXELS:,} pixels")
            size = 4 * image.width * image.height
            if size > LARGE:
                check_memory(2 * size, path.name, "leave the largest pictures out, or free memory")
            return _pixels(image, image_size)
    except (MemoryError, BadData):  # of this machine, not of the file
        raise
    except PermissionError:
        return Unusable("no permission to read")
    except Image.DecompressionBombError:
        return Unusable(f"more than {MOST_PIXELS:,} pixels")
    except Exception as error:  # a hostile file can raise anything out of a decoder, struct.error included
        if not named and isinstance(error, UnidentifiedImageError):
            return Unusable("no image by its name")
        return Unusable("empty" if path.is_file() and path.stat().st_size == 0 else "truncated or no image")


def _pixels(image: Image.Image, image_size: int | None) -> Pixels | Unusable:
    upright = image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PPM"):  # both reach to 65535
        deep = Image.fromarray(np.asarray(upright).astype(np.float32) / 65535)
        return np.asarray(_fitted(deep, image_size))
    if upright.mode in ("I", "F"):
        return Unusable("32-bit pixels, whose range is not known")
    return np.asarray(_fitted(upright.convert("L" if upright.mode in GREY else "RGB"), image_size))


def _fitted(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def decode_all(paths: Sequence[Path], image_size: int | None, take: Callable[[int, Pixels | Unusable], None]) -> None:
    """Decode files in a few threads, and hand each result to `take` with its place, in order, in this thread."""

    def portion(start: int) -> list[Pixels | Unusable | None]:
        """None for those that are to be decoded at their turn, for what waits has as many bytes as it may."""
        found: list[Pixels | Unusable | None] = []
        waiting = 0
        for path in paths[start : start + PORTION]:
            found.append(decode(path, image_size) if waiting < MOST_WAITING else None)
            waiting += getattr(found[-1], "nbytes", 0)
        return found

    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about odd but readable files
        ahead = THREADS * 2 * PORTION
        for first in range(0, len(paths), ahead):  # in rounds, so that decoded images do not pile up
            starts = range(first, min(first + ahead, len(paths)), PORTION)
            for start, results in zip(starts, pool.map(portion, starts), strict=True):
                for offset, result in enumerate(results):
                    take(start + offset, decode(paths[start + offset], image_size) if result is None else result)


def batch_of(decoded: Sequence[Pixels], shape: tuple[int, int, int]) -> Tensor:
    """Images of one size as float32 [n c h w] in [0, 1]; grey is repeated where there are three channels."""
    images = np.empty((len(decoded), *shape), dtype=np.float32)
    for image, pixels in zip(images, decoded, strict=True):
        image[:] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if pixels.dtype == np.uint8:
            image /= 255
    return torch.from_numpy(images)
