"""Gradient ascent on an objective: steps of given sizes (PGD, MIM), and steps that adapt themselves (APGD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from advbench.evasion.ball import per_image
from advbench.evasion.objectives import Objective
from advbench.evasion.state import SearchState


def steady(steps: int, step: float) -> list[float]:
    """The same step size throughout."""
    return [step] * steps


def decaying(steps: int, first: float) -> list[float]:
    """Step sizes that fall to nearly 0 by a half cosine."""
    return [first * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]


def fixed_ascent(
    state: SearchState,
    objective: Objective,
    rows: Tensor,
    start: Tensor,
    sizes: Sequence[float],
    *,
    decay: float | None = None,
) -> None:
    """`x <- project(x + size * steepest(g))` once for each size (Madry et al. 2018, arXiv:1706.06083, sec. 2.1).

    With `decay`, g is the accumulated `decay * g + gradient / ||gradient||_1` (Dong et al. 2018, arXiv:1710.06081).
    One gradient a step, and a forward pass for the last point.
    """
    x, accumulated = start, torch.zeros_like(start)
    for size in sizes:
        direction = state.gradient(objective, rows, x).gradients
        if decay is not None:
            scale = direction.flatten(1).abs().sum(dim=1)
            accumulated = decay * accumulated + direction / per_image(torch.where(scale > 0, scale, 1))
            direction = accumulated
        if (stay := state.active(rows)) is not None:
            rows, x, direction, accumulated = rows[stay], x[stay], direction[stay], accumulated[stay]
            if not len(rows):
                return
        x = state.ball.project(x + size * state.ball.steepest(direction), state.origin[rows])
    state.evaluate(rows, x)


@dataclass(frozen=True)
class _Path:
    """APGD's variables for each image [b]: x, the x before, its gradient, and the best x with its gradient."""

    rows: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    gains: Tensor  # increases since the last checkpoint
    best_then: Tensor  # the best value at the last checkpoint
    halved_then: Tensor  # whether the step was halved there

    def take(self, stay: Tensor) -> _Path:
        return _Path(**{f.name: getattr(self, f.name)[stay] for f in fields(self)})


def checkpoints(steps: int) -> list[int]:
    """The steps at which APGD looks back: `ceil(p_j N)`, p = 0, 0.22, then by `max(last gap - 0.03, 0.06)`."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [math.ceil(round(q * steps, 9)) for q in p if q <= 1]


def adaptive_ascent(state: SearchState, objective: Objective, rows: Tensor, start: Tensor, steps: int) -> None:
    """Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, algorithm 1), `steps` gradients an image.

    Momentum 0.75; the step starts at 2 eps and is halved, with a return to the best point, where fewer than 75 %
    of the steps since the last checkpoint gained or neither the step nor the best value has changed since.
    A forward pass more for the last point.
    """
    ball, marks = state.ball, checkpoints(steps)
    ascent = state.gradient(objective, rows, start)
    none = torch.zeros_like(rows, dtype=torch.bool)
    path = _Path(
        rows, start, start, ascent.gradients, ascent.values, start, ascent.gradients, ascent.values,
        torch.full_like(ascent.values, 2 * ball.eps), torch.zeros_like(rows), ascent.values, none,
    )  # fmt: skip
    for done in range(1, steps + 1):
        stay = state.active(path.rows)
        path = path if stay is None else path.take(stay)
        if not len(path.rows):
            return
        origin = state.origin[path.rows]
        ahead = ball.project(path.x + per_image(path.step.float()) * ball.steepest(path.gradient), origin)
        if done > 1:
            ahead = ball.project(path.x + 0.75 * (ahead - path.x) + 0.25 * (path.x - path.before), origin)
        if done == steps:
            state.evaluate(path.rows, ahead)
            return
        path = _moved(path, ahead, state, objective)
        if done in marks[1:]:
            path = _looked_back(path, done - marks[marks.index(done) - 1])


def _moved(path: _Path, x: Tensor, state: SearchState, objective: Objective) -> _Path:
    ascent = state.gradient(objective, path.rows, x)
    better = ascent.values > path.best_value
    return replace(
        path,
        x=x,
        before=path.x,
        gradient=ascent.gradients,
        value=ascent.values,
        best=torch.where(per_image(better), x, path.best),
        best_gradient=torch.where(per_image(better), ascent.gradients, path.best_gradient),
        best_value=torch.maximum(ascent.values, path.best_value),
        gains=path.gains + (ascent.values > path.value),
    )


def _looked_back(path: _Path, period: int) -> _Path:
    stuck = ~path.halved_then & (path.best_value <= path.best_then)
    halve = (path.gains < 0.75 * period) | stuck
    return replace(
        path,
        x=torch.where(per_image(halve), path.best, path.x),
        gradient=torch.where(per_image(halve), path.best_gradient, path.gradient),
        value=torch.where(halve, path.best_value, path.value),
        step=torch.where(halve, path.step / 2, path.step),
        gains=torch.zeros_like(path.gains),
        best_then=path.best_value,
        halved_then=halve,
    )
