"""Call a supplied model, and say in one sentence what is wrong where it gives no logits."""

import re
from typing import Any

from torch import Tensor, nn

from advbench.device import is_out_of_memory
from advbench.errors import BadSetting
from advbench.supplied.user_code import in_words, place_of


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    """Logits [n k] of images [n c h w]; raises BadSetting where the model raises or gives anything else."""
    try:
        answer = module(images)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise BadSetting(failure(error, images)) from error
    if fault := fault_of(answer, len(images)):
        raise BadSetting(fault)
    logits: Tensor = answer
    return logits


def fault_of(answer: Any, n: int) -> str | None:
    """What keeps a model's answer to n images from being logits [n k]; None where nothing does."""
    wanted = "a model for advbench returns the logits alone, one tensor [n k]"
    if isinstance(answer, dict):
        keys = [str(key) for key in answer][:5]
        key = "logits" if "logits" in keys else (keys or ["logits"])[0]
        return (
            f"the model returns a {type(answer).__name__} with the keys {', '.join(keys) or '(none)'}; {wanted}: let "
            f"build wrap it in a module that returns model(images)[{key!r}]"
        )
    if isinstance(answer, (tuple, list)):
        kinds = ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in answer[:5])
        return (
            f"the model returns a {type(answer).__name__} of {len(answer)} ({kinds}); {wanted}: let build wrap it in "
            "a module that picks them"
        )
    if not isinstance(answer, Tensor):
        return f"the model returns {type(answer).__name__}; {wanted}"
    if answer.ndim != 2 or len(answer) != n:
        return f"the model returns a tensor of shape {list(answer.shape)} for {n} images; {wanted}"
    if not answer.is_floating_point():
        return f"the model returns {answer.dtype} values, which have no gradient; {wanted} in floating point"
    return None


def check_finite(features: Tensor, logits: Tensor) -> None:
    """Refuse NaN or infinite outputs: neither a prediction nor a score can be had of them."""
    for name, values in (("logits", logits), ("features", features)):
        bad = ~values.detach().isfinite().all(dim=1)
        if bad.any():
            raise BadSetting(
                f"the model gives {name} that are NaN or infinite for {int(bad.sum())} of the {len(bad)} images of a "
                "batch, clean or attacked; look for a division by 0, a logarithm of 0 or an overflow in it"
            )


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer of a model computes in whole numbers."""
    homes = [type(part).__module__ for part in module.modules()]
    return any(home.startswith("torch.") and "quantized" in home for home in homes)


def failure(error: BaseException, images: Tensor) -> str:
    """What a model's own error on images [n c h w] most likely means."""
    channels, height, width = images.shape[1:]
    given = f"{channels}x{height}x{width}"
    text = str(error)
    if taken := re.search(r"to have (\d+) channels, but got (\d+) channels", text):
        want, got = int(taken[1]), int(taken[2])
        if got != channels and got in (height, width):
            return (
                f"the model takes its images as [n h w c] (its first convolution got {got} channels for {want}), and "
                "here they are [n c h w]; let build wrap it in a module that hands over images.permute(0, 2, 3, 1), "
                "or take the permutation out of it"
            )
        if got == channels:
            grey = (got, want) == (1, 3)
            way = "let build wrap it in a module that hands over images.expand(-1, 3, -1, -1), or " * grey
            return (
                f"the model's first layer takes {want} channels and the images have {got} ({given}); {way}take a "
                f"model made for {got} channel{'s' * (got > 1)}"
            )
    sizes = re.search(r"shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)", text)
    if sizes and sizes[2] != sizes[3]:
        return (
            f"one of the model's linear layers takes {sizes[3]} values and got {sizes[2]} from images of {given}; "
            "take a model made for this size, or let build wrap it in a module that resizes the images"
        )
    if re.search("same device|on device|NVIDIA driver|CUDA enabled", text):
        return (
            f"the model does not compute on {images.device}, where its images and weights are ({in_words(error)}); "
            "let its forward make and move tensors to images.device, or name by --device the one that it is bound to"
        )
    if re.search("same dtype|scalar type|[Ii]nput type .* (weight|bias) type", text):
        return (
            f"the model's layers got another type of number than their weights have ({in_words(error)}); weights and "
            "images are float32 here, so leave half(), double() and other casts out of its forward"
        )
    return (
        f"the model fails on images [n {channels} {height} {width}]: {place_of(error, None)} raised {in_words(error)}"
    )
