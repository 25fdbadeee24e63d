"""Adversarial training's images: a batch attacked by a few sign steps from a random start."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.evasion import Ball
from advbench.recipes import AdversarialTraining


def attacked(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    settings: AdversarialTraining,
    *,
    eps: float,
    rng: torch.Generator,
) -> Tensor:
    """Images [b c h w] within `eps` of the given ones, in [0, 1]; `logits` are the evaluation's, without a margin.

    Ascends their cross-entropy: `x <- project(x + step sign(gradient))` from a uniformly random point (Madry et al.
    2018, arXiv:1706.06083, sec. 2.1; one step: Wong et al. 2020, arXiv:2001.03994, algorithm 3). Where `eps` is not
    yet `settings.eps`, the steps are smaller in proportion.
    """
    ball = Ball("linf", eps, clip=True)
    noise = torch.rand(images.shape, generator=rng).to(images.device)  # drawn where the generator is
    x = ball.project(images + eps * (2 * noise - 1), images)
    for _ in range(settings.steps):
        x = x.detach().requires_grad_()
        # a sum: rounding aside, an image's gradient does not depend on the size of its batch
        loss = F.cross_entropy(logits(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        step = settings.step_size * eps / settings.eps
        x = ball.project(x.detach() + step * ball.steepest(gradient), images)
    return x


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters ask for no gradient inside, so that a backward pass computes the images' alone."""
    trained = [p for p in parameters if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the modes as they were afterwards.

    With batch normalisation in training mode, an attack would ascend a gradient that depends on the images beside,
    and count attacked images in the running statistics once for each of its steps.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
