"""Inspect a supplied model before anything is measured: each mistake has its own message.

The findings about what goes in and comes out are here; those about the model's own weights are in `module_state.py`,
those that need labels in `normalisation.py`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from advbench.device import is_out_of_memory, own_streams
from advbench.errors import BadSetting, Diagnostic, refuse, warn
from advbench.supplied.features import Supplied
from advbench.supplied.logits import is_quantised
from advbench.supplied.module_state import changes, mode_and_weights, tensors_of
from advbench.supplied.normalisation import agreement
from advbench.supplied.user_code import in_words
from advbench.types import Outputs

MOST_IMAGES = 500
FEW = 8


def inspect(
    model: Supplied, images: Tensor, labels: Tensor, classes: int, *, batch_size: int = 100, gradients: bool = True
) -> list[Diagnostic]:
    """What is wrong or doubtful about a model on labelled images; an empty list = nothing was found.

    images, labels   float32 [n c h w] in [0, 1] and int64 [n], on any device; at most 500 of them, evenly spaced, are
                     used
    classes          k of the data
    gradients        whether an attack that needs gradients is to be run: without them such a model is refused

    A fault hides what follows from it: a model with NaN logits is not called inaccurate as well. About 3,000 forward
    passes of one image, most of them for `agreement`. The caller's random state stays as it is.
    """
    chosen = torch.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).long()
    images, labels = images[chosen].to(model.mean.device), labels[chosen].to(model.mean.device)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        found = list(mode_and_weights(model.module))
        if gradients and is_quantised(model.module):
            way = "that it was made from, or use an attack without gradients, for example square"
            text = f"the model is quantised, and quantised layers have no gradient; evaluate the float model {way}"
            found.append(refuse("quantised", text))
        if found:
            return found
        before = {name: tensor.detach().clone() for name, tensor in tensors_of(model.module)}
        try:
            with torch.no_grad():
                logits = torch.cat([model(part) for part in torch.split(images, batch_size)])
        except BadSetting as error:
            return [refuse("answer", str(error))]
        if found := list(changes(model.module, before)):
            return found
        found = list(of_logits(logits, classes, from_one=bool(labels.min() >= 1)))
        if any(finding.severity == "error" or finding.name == "constant-logits" for finding in found):
            return found
        with torch.no_grad():
            first = model.tapped(images[:FEW])
        dependent = list(dependence(model, images, batch_size))
        random = any(finding.name == "stochastic" for finding in dependent)
        found += (not random and list(unsteady(model, images[:FEW], first))) or dependent
        if not any(finding.severity == "error" for finding in found):
            found += of_gradients(model, images, batch_size, required=gradients)
            if len(images) >= 2 * FEW:
                found += agreement(model, images, labels, logits, batch_size)
            found += [] if random else unsteady(model, images[:FEW], first)
        return found


def of_logits(logits: Tensor, classes: int, *, from_one: bool = False) -> Iterator[Diagnostic]:
    """The number of classes, NaN and infinite values, precision, and outputs that are probabilities."""
    n, k = logits.shape
    if k != classes:
        yield refuse("class-count", wrong_count(k, classes, from_one=from_one))
        return
    for what, bad in (("NaN", logits.isnan()), ("infinite", logits.isinf())):
        if rows := int(bad.any(dim=1).sum()):
            yield refuse(
                f"{what.lower()}-logits",
                f"the model gives {what} logits for {rows} of {n} images; look for a division by zero, a logarithm "
                "or root of 0, or an overflow in it, and leave out images that cause it",
            )
            return
    if n > 1 and not (logits != logits[0]).any():
        yield warn(
            "constant-logits",
            "the model gives the same logits for every image, as with a last layer of zeros: its weights are "
            "untrained or were not given (--weights), and attacks find no gradient in it",
        )
        return
    apart = logits.double() - logits.double().mean(dim=1, keepdim=True)
    spread, size = float(apart.abs().median()), float(logits.abs().max())
    if torch.finfo(torch.float32).eps * size > 1e-4 * spread > 0:
        yield warn(
            "offset",
            f"the model's logits share an offset of about {size:.2g} and differ by about {spread:.2g}: float32 keeps "
            "their differences to few digits, which weakens every attack; let the model subtract the offset",
        )
    if logits.dtype != torch.float32:
        yield warn(
            "precision",
            f"the model's logits are {str(logits.dtype).removeprefix('torch.')}, not float32; they are compared in "
            "float32, and gradients keep the model's precision",
        )
    yield from as_probabilities(logits.double(), coarse=logits.dtype in (torch.float16, torch.bfloat16))


def wrong_count(k: int, classes: int, *, from_one: bool) -> str:
    """What a model with k outputs for data of another number of classes most likely is.

    `from_one` says that no label is 0.
    """
    if k == classes - 1 and from_one:
        return (
            f"the model gives {k} logits and the labels reach from 1 to {k}, as if they counted from 1; classes "
            "count from 0, so subtract 1 from each label"
        )
    if k == 1:
        return (
            f"the model gives one value an image and the data have {classes} classes; for two classes let build wrap "
            "it in a module that returns torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    if k == classes + 1:
        return (
            f"the model gives {k} logits, one more than the data's {classes} classes; if it has a background class, "
            "let build wrap it in a module that leaves that column out, for example model(images)[:, 1:]"
        )
    if k == classes - 1:
        return (
            f"the model gives {k} logits, one fewer than the data's {classes} classes; look for a folder or label "
            "among the data that is no class (background, unlabelled, a hidden folder), or take a model for all of "
            "them"
        )
    return (
        f"the model gives {k} logits and the data have {classes} classes; take a model trained on these classes, or "
        "let build take the number as its parameter num_classes (in Python say classes=N where some have no image)"
    )


def as_probabilities(logits: Tensor, *, coarse: bool) -> Iterator[Diagnostic]:
    """Outputs that are softmax, log-softmax or sigmoid values where logits are wanted."""
    tolerance = 1e-2 if coarse else 1e-4
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    if inside and torch.allclose(logits.sum(dim=1), logits.new_ones(()), atol=tolerance):
        yield refuse(
            "probabilities",
            "the model's outputs add up to 1: they are probabilities (softmax), and logits are wanted, or gradients "
            "and scores mean something else; leave its softmax out",
        )
    elif torch.allclose(logits.logsumexp(dim=1), logits.new_zeros(()), atol=tolerance):
        yield warn(
            "log-probabilities",
            "the exponentials of the model's outputs add up to 1: they are log-probabilities (log-softmax); attacks "
            "see the same loss, but detectors on raw logits (energy, max-logit) lose what was taken off: leave it "
            "out",
        )
    elif inside and logits.max() - logits.min() > 0.5:  # an untrained network's logits are all small and may be > 0
        yield warn(
            "sigmoid",
            "all the model's outputs lie in [0, 1], as a sigmoid's do, and logits are wanted; leave its sigmoid out",
        )


@torch.no_grad()
def dependence(model: Supplied, images: Tensor, batch_size: int) -> Iterator[Diagnostic]:
    """Logits and features that change from pass to pass, with gradients, or with the other images of the batch."""
    few, others = images[:FEW], images[FEW : 2 * FEW]
    first = model.tapped(few)
    if not all(same(first, model.tapped(few)) for _ in range(2)):
        yield warn(
            "stochastic",
            "two passes over one image differ: the model is stochastic (dropout, noise, random resizing), and one "
            "gradient of it means little; switch that off, or use attacks with samples (EoT), for example: --attack "
            "pgd --set samples=20",
        )
        return
    with torch.enable_grad():
        followed = model.tapped(few.clone().requires_grad_())
    if not same(first, followed):
        apart = float((first.logits - followed.logits).detach().abs().max())
        yield refuse(
            "gradient-mode",
            f"the model's outputs differ with and without gradients (logits by up to {apart:.2g}), so an attack "
            "would be on another function than the one tested; take what looks at the gradient mode out of it "
            "(for nn.TransformerEncoder: torch.backends.mha.set_fastpath_enabled(False) in the file that builds it)",
        )
    elif len(others) and not same(
        *(model.tapped(torch.cat([few, more])).take(slice(len(few))) for more in (others, 1 - others))
    ):
        yield refuse(
            "batch",
            "an image's outputs change with the other images of its batch, as with BatchNorm in training mode or a "
            "dynamic quantisation; take the running statistics (eval(), track_running_stats=True), export archives "
            "after eval(), and quantise statically",
        )
    elif not all(same(first.take(slice(len(found))), found) for found in _elsewhere(model, images, batch_size)):
        yield warn(
            "place",
            "an image's outputs change with its place in the batch or with the size of the batch, as with noise from "
            "a fixed seed or a reshape across images, so that all figures depend on --batch-size; let each row "
            "depend on its own image alone",
        )


@torch.no_grad()
def unsteady(model: Supplied, images: Tensor, first: Outputs) -> Iterator[Diagnostic]:
    """Outputs on the same images that are others, in a dozen passes, than they were at first."""
    if not all(same(first, model.tapped(images)) for _ in range(12)):
        yield refuse(
            "changes-with-use",
            "the model gives other outputs for the same images after it was used for a while: it counts its calls or "
            "remembers its inputs, so that no two figures would be of one model; let forward depend on its images "
            "alone",
        )


def _elsewhere(model: Supplied, images: Tensor, batch_size: int) -> Iterator[Outputs]:
    """The outputs of the first images in other company: in reverse, one by one, at the head and end of a batch."""
    n = min(FEW, len(images), batch_size)
    yield model.tapped(images[:n].flip(0)).take(torch.arange(n - 1, -1, -1))
    alone = [model.tapped(images[i : i + 1]) for i in range(n)]
    yield Outputs(torch.cat([o.features for o in alone]), torch.cat([o.logits for o in alone]))
    yield model.tapped(images[:batch_size]).take(slice(n))
    yield model.tapped(images[:batch_size].roll(-n, 0)).take(slice(-n, None))


def same(first: Outputs, second: Outputs) -> bool:
    """Equal within the noise of the kernels."""
    pairs = ((first.logits, second.logits), (first.features, second.features))
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(a.abs().max()))) for a, b in pairs)


def gradient_at(model: Supplied, images: Tensor) -> Tensor | None:
    """The gradient in the images of the logits in a fixed random direction: the sum of all is constant for some."""
    with torch.enable_grad(), own_streams(images.device):
        torch.manual_seed(0)
        logits = model(images)
        weight = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0)).to(logits)
        summed = (logits * weight).sum()
        return torch.autograd.grad(summed, images, allow_unused=True)[0] if logits.requires_grad else None


def of_gradients(model: Supplied, images: Tensor, batch_size: int, *, required: bool) -> Iterator[Diagnostic]:
    """No gradient at the pixels, zero for all images, or NaN for some."""
    state = refuse if required else warn
    found: list[Tensor] = []
    for part in torch.split(images, batch_size):
        try:
            gradient = gradient_at(model, part.clone().requires_grad_())
        except Exception as error:  # whatever a backward pass of the user's own raises
            if is_out_of_memory(error):
                raise
            yield state("gradient-fails", f"the model's backward pass raised {in_words(error)}; mend it")
            return
        found += [] if gradient is None else [gradient]
    gradient = torch.cat(found) if found else None
    way = "let a module with a stand-in gradient do that step, or use an attack without gradients, for example square"
    if gradient is None:
        yield state(
            "no-gradient",
            "no gradient of the logits reaches the pixels (detach, no_grad, a detour over NumPy, argmax); take it "
            "out, " + way,
        )
    elif not gradient.isfinite().all():
        rows = int((~gradient.isfinite()).flatten(1).any(dim=1).sum())
        yield (state if FEW * rows > len(images) else warn)(
            "nan-gradient",
            f"the gradient at the pixels is NaN or infinite for {rows} of {len(images)} images, where no attack can "
            "follow it; look for a root, norm or logarithm taken at 0",
        )
    elif not gradient.any():
        yield state(
            "zero-gradient",
            f"the gradient at the pixels is zero for all of {len(images)} images (rounding, a threshold, "
            f"saturation), so that attacks would seem to fail; {way}",
        )
