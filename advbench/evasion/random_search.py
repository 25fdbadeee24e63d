"""Random search by squares of +-eps, without gradients (Andriushchenko et al. 2020, arXiv:1912.00049)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from advbench.evasion.ball import generator
from advbench.evasion.objectives import Objective
from advbench.evasion.state import SearchState

CHUNK = 128
FIRST_SHARE = 0.8  # of the image's pixels, in the first square
HALVED_AT = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries (ibid.); the authors' code, at 500 too


def side(query: int, queries: int, height: int, width: int) -> int:
    """The side of the square in pixels: its share of the image is halved at fixed fractions of the queries."""
    done = 10_000 * query / queries
    share = FIRST_SHARE / 2 ** sum(done > mark for mark in HALVED_AT)
    return max(1, min(round(math.sqrt(share * height * width)), height, width))


def _draws(state: SearchState, width: int) -> Iterator[Tensor]:
    """Uniform numbers [n width] for one query after another, each image's from its own seed."""
    rngs = [generator(seed, 1) for seed in state.seeds.tolist()]
    while True:
        chunk = torch.stack([torch.rand((CHUNK, width), generator=rng) for rng in rngs]).to(state.origin.device)
        yield from chunk.unbind(dim=1)


@torch.no_grad()
def square_search(state: SearchState, objective: Objective, rows: Tensor, queries: int) -> None:
    """Maximise the values of `objective` in the L-inf ball with `queries` forward passes an image.

    Starts with vertical stripes of +-eps; each query paints a random square with +-eps in each channel and keeps
    it where the value rises.
    """
    _, channels, height, width = state.origin.shape
    eps, ball = state.ball.eps, state.ball
    stripes = torch.stack(
        [torch.rand((channels, 1, width), generator=generator(seed, 0)) for seed in state.seeds[rows.cpu()].tolist()]
    ).to(state.origin.device)
    x = ball.project(state.origin[rows] + eps * (2 * (stripes < 0.5).float() - 1), state.origin[rows])
    best = objective.values(state.evaluate(rows, x), rows)
    draws = _draws(state, 2 + channels)
    row_of = torch.arange(height, device=x.device)[None, :]
    column_of = torch.arange(width, device=x.device)[None, :]
    for query in range(1, queries):
        stay = state.active(rows)
        if stay is not None:
            rows, x, best = rows[stay], x[stay], best[stay]
            if not len(rows):
                return
        drawn = next(draws)[rows]
        h = side(query, queries, height, width)
        top = (drawn[:, :1] * (height - h + 1)).long()
        left = (drawn[:, 1:2] * (width - h + 1)).long()
        inside = ((row_of >= top) & (row_of < top + h))[:, None, :, None]
        inside = inside & ((column_of >= left) & (column_of < left + h))[:, None, None, :]
        colour = eps * (2 * (drawn[:, 2:] < 0.5).float() - 1)[:, :, None, None]
        origin = state.origin[rows]
        tried = torch.where(inside, ball.project(origin + colour, origin), x)
        values = objective.values(state.evaluate(rows, tried), rows)
        better = values > best
        x = torch.where(better[:, None, None, None], tried, x)
        best = torch.maximum(values, best)
