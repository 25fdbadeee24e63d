"""Find a supplied model's features: the input of its last layer, or a named layer's output."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from advbench.device import own_streams
from advbench.errors import BadSetting
from advbench.supplied.logits import check_finite, is_quantised, logits_of
from advbench.types import Outputs
from advbench.victim import Classifier

MOST_NAMES = 30
Values = Sequence[float] | None  # one, or one a channel


class NoFeatures(BadSetting):
    """The model answers, and no layer of it gives features; detectors of logits alone can do without."""


class Supplied(Classifier):
    """A user's model with a normalisation in front and a tap at its features; frozen, in evaluation mode.

    images     float32 [n c h w] in [0, 1]; `mean` and `std` (one value a channel, default 0 and 1) are applied here,
               (image - mean) / std, so that eps stays in units of [0, 1]
    layer      name of the tapped layer in the user's model; None: the logits stand for the features
    at_input   True: the features are the layer's input; False: its output

    Features [n d] are float32. [n d] is taken as it is, maps [n c h w] are averaged over their positions, tokens
    [n t d] over the tokens. Where a layer runs several times in one pass, its last call counts. No hook stays behind
    and nothing is kept between calls.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, module: nn.Module, layer: str | None, *, at_input: bool = False, mean: Values = None, std: Values = None
    ) -> None:
        super().__init__()
        self.module = module
        self.layer = layer
        self.at_input = at_input
        self.register_buffer("mean", channels_of(mean, 0.0), persistent=False)
        self.register_buffer("std", channels_of(std, 1.0), persistent=False)
        self.eval().requires_grad_(False)

    @property
    def tap(self) -> str:
        """What the features are, for records and people."""
        return "logits" if self.layer is None else f"{'input' if self.at_input else 'output'} of {self.layer}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n k]; raises BadSetting where the model gives anything else."""
        return logits_of(self.module, (images - self.mean) / self.std)

    def outputs(self, images: Tensor) -> Outputs:
        """Features [n d] and logits [n k], float32, one forward pass, with their graph; refused where not finite."""
        found = self.tapped(images)
        check_finite(found.features, found.logits)
        return found

    def tapped(self, images: Tensor) -> Outputs:
        """The same, whatever the values; raises NoFeatures where the layer gives no row for each image."""
        if self.layer is None:
            logits = self(images).float()
            return Outputs(logits, logits)
        name, seen = self.layer, list[Tensor]()

        def keep(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:  # noqa: ARG001
            tensor = first_tensor((*args, *kwargs.values()) if self.at_input else (output,))
            seen[:] = [] if tensor is None else [pooled(tensor, name)]

        part = self.module.get_submodule(name)
        listen: Any = part.register_forward_pre_hook if self.at_input else part.register_forward_hook
        handle = listen(keep, with_kwargs=True)
        try:
            logits = self(images)
        finally:
            handle.remove()
        if not seen:
            raise NoFeatures(f"layer {name!r} gave no tensor in a forward pass; name another one by --features")
        if len(seen[0]) != len(images):
            raise NoFeatures(
                f"layer {name!r} gives {len(seen[0])} rows of features for {len(images)} images, as where each image "
                "is shown several times; name by --features a layer that gives one row for each image"
            )
        return Outputs(seen[0], logits.float())


def channels_of(values: Values, default: float) -> Tensor:
    """One value a channel as [1 c 1 1]."""
    return torch.tensor([default] if values is None else list(values), dtype=torch.float32).reshape(1, -1, 1, 1)


def pooled(tensor: Tensor, layer: str) -> Tensor:
    """A layer's tensor as features float32 [n d]: a copy, which later in-place layers cannot alter."""
    if tensor.ndim == 2:
        return tensor.float().clone()
    if tensor.ndim == 3:
        return tensor.float().mean(dim=1)
    if tensor.ndim == 4:
        return tensor.float().mean(dim=(2, 3))
    raise NoFeatures(
        f"layer {layer!r} gives a tensor of shape {list(tensor.shape)}; features are [n d], maps [n c h w] or tokens "
        "[n t d]: name another layer by --features"
    )


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """The first floating-point tensor among arguments or outputs, none of vmap's; a tuple or list is looked into."""
    for value in values:
        if isinstance(value, (tuple, list)) and (inner := first_tensor(value)) is not None:
            return inner
        if isinstance(value, Tensor) and value.is_floating_point() and not is_batchedtensor(value):
            return value
    return None


def tap(
    module: nn.Module, sample: Tensor, *, features: str | None = None, mean: Values = None, std: Values = None
) -> Supplied:
    """A user's model, ready to be attacked; `sample` is a few of the images it is for, float32 [n c h w] in [0, 1].

    features   name of the layer whose output is the features; None = the input of the last layer, found by tracing

    Raises BadSetting where the model cannot take the sample or gives no logits, where mean or std do not fit the
    images, and for an unknown layer; NoFeatures where tracing finds none.
    """
    check_normalisation(mean, std, sample.shape[1])
    if isinstance(module, torch.jit.ScriptModule):
        raise NoFeatures(
            "the model is a TorchScript program, whose layers cannot be tapped; build it from its Python code, "
            "export it anew with torch.export, or take detectors of the logits alone: max-posterior, energy"
        )
    made = Supplied(module, None, mean=mean, std=std).to(sample.device)
    with torch.no_grad():
        made(sample)
        if features is None:
            made.layer, made.at_input = last_layer(made, sample), True
        else:
            made.layer = known_layer(module, features)
        made.tapped(sample)
    return made


def check_normalisation(mean: Values, std: Values, channels: int) -> None:
    """Refuse a mean or std that does not have one value, or one a channel, or a std that is not above 0."""
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, channels):
            raise BadSetting(
                f"{name} has {len(values)} values and the images have {channels} channels; give one value a channel, "
                f"for example --{name} {','.join(['0.5'] * channels)}"
            )
    if std is not None and min(std) <= 0:
        raise BadSetting(f"std = {min(std):g} is out of range; it must be greater than 0")


def known_layer(module: nn.Module, name: str) -> str:
    """`name`, where the model has a layer of that name; raises BadSetting with the names, the nearest first."""
    names = [own for own, _ in module.named_modules() if own]
    if name in names:
        return name
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    listed = [*near, *(own for own in names if own not in near)][:MOST_NAMES]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    raise BadSetting(f"the model has no layer {name!r}; its layers: {', '.join(listed) or 'none'}{more}")


def last_layer(model: Supplied, sample: Tensor) -> str:
    """The last layer, in the order of calls, that makes k logits of features and whose output decides the logits.

    A candidate has a weight of its own (parameter or buffer) with the sizes d and k, is called on [n d] and gives
    [n k], or is a 1x1 convolution from [n d h w] to [n k h w]. That holds for nn.Linear and for heads that are not.
    Raises NoFeatures where there is none.
    """
    named = {part: name for name, part in model.module.named_modules() if name}
    calls: list[tuple[str, int]] = []

    def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = first_tensor((*args, *kwargs.values()))
        if given is not None and isinstance(output, Tensor) and may_be_last(part, given, output):
            calls.append((named[part], output.shape[1]))

    open_ = [part for part in named if not isinstance(part, torch.jit.ScriptModule)]  # TorchScript takes no hook
    handles = [part.register_forward_hook(note, with_kwargs=True) for part in open_]
    try:
        classes = model(sample).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    found = list(dict.fromkeys(layer for layer, size in reversed(calls) if size == classes))
    chosen = next((layer for layer in found if decides(model, layer, sample)), None)
    if chosen is None:
        why = f" ({found[0]!r} has the sizes, but does not decide the logits)" if found else ""
        why += ", as in a quantised model" if is_quantised(model.module) else ""
        why += ", beside its TorchScript parts" if len(open_) < len(named) else ""
        likely = ", ".join(reversed(list(named.values())[-MOST_NAMES:])) or "(the model has no layers with names)"
        raise NoFeatures(
            f"no layer was found that makes the {classes} logits of a vector of features{why}; name the layer whose "
            f"output is the features by --features, one of: {likely}"
        )
    return chosen


@torch.no_grad()
def decides(model: Supplied, layer: str, sample: Tensor) -> bool:
    """Whether the logits follow from a layer's output: put into a pass over other images, it gives its own logits."""
    part, outputs = model.module.get_submodule(layer), list[Tensor]()

    def keep(part: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG001
        outputs.append(output.clone())

    def put(part: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        return outputs.pop(0) if outputs else output

    others, found = sample.flip(0) if len(sample) > 1 else sample.flip(-1), []
    for hook, images in ((keep, sample), (put, others), (None, others)):
        handle = part.register_forward_hook(hook or (lambda *given: None))
        try:
            with own_streams(sample.device):
                torch.manual_seed(0)  # the same noise in each pass
                found.append(model(images).double().nan_to_num())  # NaN is for others to refuse
        except BadSetting:  # a model that differentiates inside itself
            return False
        finally:
            handle.remove()
    wanted, put_in, plain = found
    noise = 1e-5 * float(wanted.abs().max())
    return float((put_in - wanted).abs().max()) <= 0.01 * float((plain - wanted).abs().max()) + noise


def may_be_last(part: nn.Module, given: Tensor, output: Tensor) -> bool:
    """Whether a layer maps [n d] to [n k] (or maps, position by position) by a weight of its own."""
    if given.ndim not in (2, 4) or output.ndim != given.ndim or given.shape[2:] != output.shape[2:]:
        return False
    weight = [part.weight] if hasattr(part, "weight") else []  # of a quantised layer a method
    own = [*part.parameters(recurse=False), *part.buffers(recurse=False), *weight]
    weights = [tensor for tensor in own if isinstance(tensor, Tensor)]
    sizes = sorted((given.shape[1], output.shape[1]))
    return any(sorted(weight.shape[:2]) == sizes and weight.shape[2:].numel() == 1 for weight in weights)
