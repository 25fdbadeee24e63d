"""The ball of an attack: projections are nearest points, steps climb fastest, starts depend on the seed alone."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from advbench.evasion import Ball, Norm, generator

NORMS: tuple[Norm, ...] = ("linf", "l2")
EPS = 0.25


@pytest.fixture
def origin(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.uniform(0, 1, size=(6, 1, 2, 3))).float()


def size(delta: Tensor, norm: Norm) -> Tensor:
    flat = delta.double().flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [True, False])
def test_a_projection_lies_in_the_ball_and_moves_no_point_of_it(
    norm: Norm, clip: bool, origin: Tensor, rng: np.random.Generator
) -> None:
    ball = Ball(norm, EPS, clip)
    far = origin + torch.from_numpy(rng.normal(size=origin.shape)).float()
    near = ball.project(far, origin)
    assert (size(near - origin, norm) <= EPS + 1e-6).all()
    torch.testing.assert_close(ball.project(near, origin), near, rtol=0, atol=1e-6)
    assert (near.min() >= 0 and near.max() <= 1) == clip


@pytest.mark.parametrize("norm", NORMS)
def test_without_clipping_no_point_of_the_ball_is_nearer_than_the_projection(
    norm: Norm, origin: Tensor, rng: np.random.Generator
) -> None:
    ball = Ball(norm, EPS, clip=False)
    far = origin + torch.from_numpy(rng.normal(size=origin.shape)).float()
    ours = (far - ball.project(far, origin)).double()[0].norm().item()
    x, y = origin[0].flatten().double().numpy(), far[0].flatten().double().numpy()
    bounds = [(v - EPS, v + EPS) for v in x] if norm == "linf" else None
    inside = {"type": "ineq", "fun": lambda v: EPS**2 - ((v - x) ** 2).sum()}
    found = minimize(
        lambda v: ((v - y) ** 2).sum(), x, bounds=bounds, constraints=[] if norm == "linf" else [inside], tol=1e-12
    )
    assert ours == pytest.approx(found.fun**0.5, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_no_step_of_size_one_climbs_faster_than_the_steepest(norm: Norm, rng: np.random.Generator) -> None:
    gradient = torch.from_numpy(rng.normal(size=(4, 1, 2, 3)))
    step = Ball(norm, EPS, clip=True).steepest(gradient)
    dual = gradient.flatten(1).abs().sum(dim=1) if norm == "linf" else gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close((gradient * step).flatten(1).sum(dim=1), dual)
    torch.testing.assert_close(size(step, norm), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_a_tiny_gradient_keeps_its_direction_and_a_zero_one_moves_nothing(norm: Norm) -> None:
    gradient = torch.tensor([3e-30, -4e-30, 0.0, 0.0]).reshape(2, 1, 1, 2)
    step = Ball(norm, EPS, clip=True).steepest(gradient).reshape(2, 2)
    expected = [[1.0, -1.0], [0, 0]] if norm == "linf" else [[0.6, -0.8], [0, 0]]
    torch.testing.assert_close(step, torch.tensor(expected))


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_depends_on_the_seed_and_the_restart_and_on_nothing_else(norm: Norm, origin: Tensor) -> None:
    ball, seeds = Ball(norm, EPS, clip=True), torch.tensor([4, 8, 15, 16, 23, 42])
    whole = ball.random(origin, seeds, 0)
    torch.rand(3)  # the global stream has moved on
    alone = torch.cat([ball.random(origin[[i]], seeds[[i]], 0) for i in range(6)])
    assert torch.equal(whole, alone)
    assert not torch.equal(whole, ball.random(origin, seeds, 1))
    assert not torch.equal(whole, ball.random(origin, seeds + 1, 0))


def test_random_starts_fill_the_ball_uniformly() -> None:
    n, origin = 4000, torch.full((1, 1, 1, 2), 0.5)
    for norm in NORMS:
        points = Ball(norm, EPS, clip=True).random(origin.expand(n, 1, 1, 2), torch.arange(n), 0) - origin
        inner = (size(points, norm) < EPS / 2).double().mean()
        assert inner == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / n) ** 0.5)  # a quarter of the area
        assert points.mean().abs() < 4 * EPS / (2 * n) ** 0.5


def test_streams_of_neighbouring_seeds_differ() -> None:
    drawn = {generator(seed, stream).initial_seed() for seed in range(200) for stream in range(50)}
    assert len(drawn) >= 200 * 50 - 1  # of 2^32 values
