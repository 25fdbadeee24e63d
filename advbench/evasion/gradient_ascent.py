"""Ways to climb a goal by its gradient: steps of given sizes (PGD, MIM), and steps that adapt themselves (APGD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from advbench.evasion.ball import per_image
from advbench.evasion.objectives import Goal
from advbench.evasion.state import Search


def steady(steps: int, step: float) -> list[float]:
    """The same step size throughout."""
    return [step] * steps


def decaying(steps: int, first: float) -> list[float]:
    """Step sizes that fall to nearly 0 by a half cosine."""
    return [first * (1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]


def fixed_ascent(
    search: Search, goal: Goal, rows: Tensor, start: Tensor, sizes: Sequence[float], *, decay: float | None = None
) -> None:
    """`x <- project(x + size * steepest(g))` once for each size (Madry et al. 2018, arXiv:1706.06083, sec. 2.1).

    With `decay`, g is the accumulated `decay * g + gradient / ||gradient||_1` (Dong et al. 2018, arXiv:1710.06081).
    One gradient a step, and a forward pass for the last point.
    """
    x, accumulated = start, torch.zeros_like(start)
    for size in sizes:
        direction = search.climb(goal, rows, x).gradients
        if decay is not None:
            scale = direction.flatten(1).abs().sum(dim=1)
            accumulated = decay * accumulated + direction / per_image(torch.where(scale > 0, scale, 1))
            direction = accumulated
        if (stay := search.staying(rows)) is not None:
            rows, x, direction, accumulated = rows[stay], x[stay], direction[stay], accumulated[stay]
            if not len(rows):
                return
        x = search.ball.project(x + size * search.ball.steepest(direction), search.origin[rows])
    search.look(rows, x)


@dataclass(frozen=True)
class _State:
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

    def take(self, stay: Tensor) -> _State:
        return _State(**{f.name: getattr(self, f.name)[stay] for f in fields(self)})


def checkpoints(steps: int) -> list[int]:
    """The steps at which APGD looks back: `ceil(p_j N)`, p = 0, 0.22, then by `max(last gap - 0.03, 0.06)`."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [math.ceil(round(q * steps, 9)) for q in p if q <= 1]


def adaptive_ascent(search: Search, goal: Goal, rows: Tensor, start: Tensor, steps: int) -> None:
    """Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, algorithm 1), `steps` gradients an image.

    Momentum 0.75; the step starts at 2 eps and is halved, with a return to the best point, where fewer than 75 %
    of the steps since the last checkpoint gained or neither the step nor the best value has changed since.
    A forward pass more for the last point.
    """
    ball, marks = search.ball, checkpoints(steps)
    climbed = search.climb(goal, rows, start)
    none = torch.zeros_like(rows, dtype=torch.bool)
    state = _State(
        rows, start, start, climbed.gradients, climbed.values, start, climbed.gradients, climbed.values,
        torch.full_like(climbed.values, 2 * ball.eps), torch.zeros_like(rows), climbed.values, none,
    )  # fmt: skip
    for done in range(1, steps + 1):
        stay = search.staying(state.rows)
        state = state if stay is None else state.take(stay)
        if not len(state.rows):
            return
        origin = search.origin[state.rows]
        ahead = ball.project(state.x + per_image(state.step.float()) * ball.steepest(state.gradient), origin)
        if done > 1:
            ahead = ball.project(state.x + 0.75 * (ahead - state.x) + 0.25 * (state.x - state.before), origin)
        if done == steps:
            search.look(state.rows, ahead)
            return
        state = _moved(state, ahead, search, goal)
        if done in marks[1:]:
            state = _looked_back(state, done - marks[marks.index(done) - 1])


def _moved(state: _State, x: Tensor, search: Search, goal: Goal) -> _State:
    climbed = search.climb(goal, state.rows, x)
    better = climbed.values > state.best_value
    return replace(
        state,
        x=x,
        before=state.x,
        gradient=climbed.gradients,
        value=climbed.values,
        best=torch.where(per_image(better), x, state.best),
        best_gradient=torch.where(per_image(better), climbed.gradients, state.best_gradient),
        best_value=torch.maximum(climbed.values, state.best_value),
        gains=state.gains + (climbed.values > state.value),
    )


def _looked_back(state: _State, period: int) -> _State:
    stuck = ~state.halved_then & (state.best_value <= state.best_then)
    halve = (state.gains < 0.75 * period) | stuck
    return replace(
        state,
        x=torch.where(per_image(halve), state.best, state.x),
        gradient=torch.where(per_image(halve), state.best_gradient, state.gradient),
        value=torch.where(halve, state.best_value, state.value),
        step=torch.where(halve, state.step / 2, state.step),
        gains=torch.zeros_like(state.gains),
        best_then=state.best_value,
        halved_then=halve,
    )
