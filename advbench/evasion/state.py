"""A batch under attack: what each image has cost, the best found for it, and who has succeeded and may leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advbench.device import own_streams
from advbench.errors import FailedCheck
from advbench.evasion.ball import generator
from advbench.evasion.base import AttackSettings
from advbench.evasion.objectives import Criterion, Goal
from advbench.types import Outputs, Perturbed, of_class, runners_up
from advbench.victim.victim import Victim


@dataclass(frozen=True)
class Climbed:
    """Values [b] of a goal at some points and the directions to climb in [b c h w]."""

    values: Tensor
    gradients: Tensor


def mean(outputs: Sequence[Outputs]) -> Outputs:
    """The mean of several passes over the same images."""
    if len(outputs) == 1:
        return outputs[0]
    features = torch.stack([o.features for o in outputs]).mean(dim=0)
    return Outputs(features, torch.stack([o.logits for o in outputs]).mean(dim=0))


class Search:
    """The state that the ascents of one batch share; the one place where an attack runs the model.

    `rows` int64 [b] are places in the batch, on the victim's device, as are all tensors here. With `stop`, an image
    leaves at its first success; without, its point of highest merit is kept. Several attacks may run on one
    search: each goes on with the images that `unmet` lists, and `by` notes who is at work. The first success is
    counted in gradients, or in forward passes with `in_queries`, which is for attacks that take no gradient.
    """

    def __init__(
        self,
        attack: AttackSettings,
        victim: Victim,
        images: Tensor,
        seeds: Tensor,
        criterion: Criterion,
        *,
        stop: bool,
        in_queries: bool = False,
    ) -> None:
        attack.check(victim)
        n, device = len(images), victim.device
        self.victim = victim
        self.ball = attack.ball
        self.samples = attack.samples
        self.seeds = seeds
        self.criterion = criterion
        self.stop = stop
        self.in_queries = in_queries
        self.origin = images.to(device)
        self.images = self.origin.clone()
        self.merit = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self.gradients = torch.zeros(n, dtype=torch.long, device=device)
        self.forwards = torch.zeros(n, dtype=torch.long, device=device)
        self.first_success = torch.full((n,), -1, device=device)
        self.zero_gradients = torch.zeros(n, dtype=torch.bool, device=device)
        self.misclassified = torch.zeros(n, dtype=torch.bool, device=device)
        self.found_by = torch.zeros(n, dtype=torch.long, device=device)
        self.by = 0
        self.leads: Tensor | None = None
        self._starts = 0
        self._passes = 0

    @property
    def everyone(self) -> Tensor:
        """All rows."""
        return torch.arange(len(self.origin), device=self.origin.device)

    @property
    def unmet(self) -> Tensor:
        """The rows that have not succeeded yet."""
        return torch.nonzero(self.merit <= 0).squeeze(1)

    def staying(self, rows: Tensor) -> Tensor | None:
        """Bool [b], false for images that leave; None where all stay."""
        if not self.stop:
            return None
        stay = self.merit[rows] <= 0
        return None if bool(stay.all()) else stay

    def keep_leads(self) -> None:
        """From now on keep in `leads` float64 [n k] the most by which each class's logit led the label's anywhere."""
        shape = (len(self.origin), self.victim.classes)
        self.leads = torch.full(shape, -torch.inf, dtype=torch.float64, device=self.origin.device)

    def targets(self, clean: Outputs, labels: Tensor, count: int) -> Tensor:
        """Each image's runner-up classes, best first, int64 [count n]: by its leads, else by its clean logits."""
        return runners_up(clean.logits if self.leads is None else self.leads, labels, count).T

    def random_start(self, rows: Tensor) -> Tensor:
        """A point of each image's ball, from its own seed; a new one each time."""
        self._starts += 1
        return self.ball.random(self.origin[rows], self.seeds[rows.cpu()], self._starts - 1)

    def climb(self, goal: Goal, rows: Tensor, x: Tensor) -> Climbed:
        """One gradient of `goal` at points x [b c h w] (the mean of `samples` of them); notes what was found."""
        climbed, outputs = [], []
        for _ in range(self.samples):
            leaf = x.detach().requires_grad_()
            leaf.register_hook(partial(self._count_broken, rows))  # type: ignore[no-untyped-call]
            with self._own_randomness():
                found = self.victim.differentiable_outputs(leaf)
                climbed.append(goal.climb(found, rows, leaf))
            outputs.append(Outputs(found.features.detach(), found.logits.detach()))
        values, gradients = climbed[0]
        if self.samples > 1:
            values, gradients = (sum(parts) / self.samples for parts in zip(*climbed, strict=True))
        self._note(rows, x, mean(outputs))
        self.gradients[rows] += goal.backwards * self.samples
        self.zero_gradients[rows] |= ~gradients.flatten(1).any(dim=1)
        return Climbed(values, gradients)

    def _count_broken(self, rows: Tensor, gradient: Tensor) -> None:
        """A gradient that is not finite counts as vanished: some pixels of it are not followed."""
        self.zero_gradients[rows] |= ~gradient.isfinite().flatten(1).all(dim=1)

    @torch.no_grad()
    def look(self, rows: Tensor, x: Tensor) -> Outputs:
        """The outputs at points x (the mean of `samples` passes); notes what was found."""
        outputs = []
        for _ in range(self.samples):
            with self._own_randomness():
                outputs.append(self.victim.model.outputs(x))
        found = mean(outputs)
        self._note(rows, x, found)
        return found

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """For random models: noise from the batch's first seed and the number of the pass, the global stream kept."""
        if not self.victim.stochastic:
            yield
            return
        with own_streams(self.victim.device):
            torch.manual_seed(generator(int(self.seeds[0]), self._passes).initial_seed())
            self._passes += 1
            yield

    def _note(self, rows: Tensor, x: Tensor, outputs: Outputs) -> None:
        merit = self.criterion.merit(outputs, rows)
        if merit.isnan().any():
            raise FailedCheck("the model's logits are NaN under attack; its outputs must be numbers")
        first = rows[(merit > 0) & (self.first_success[rows] < 0)]
        self.first_success[first] = (self.forwards if self.in_queries else self.gradients)[first]
        self.forwards[rows] += self.samples
        self.misclassified[rows] |= self.criterion.misclassified(outputs, rows, merit)
        if self.leads is not None:
            lead = outputs.logits.double() - of_class(outputs.logits, self.criterion.labels[rows])[:, None]
            self.leads[rows] = torch.maximum(self.leads[rows], lead)
        better = merit > self.merit[rows]
        gained = rows[better]
        if len(gained):
            self.found_by[gained] = self.by
            self.merit[gained] = merit[better]
            self.images[gained] = x.detach()[better]

    def result(self, members: tuple[str, ...] = ()) -> Perturbed:
        """The record of the attack; of an ensemble with its `members`, by the numbers that `by` took."""
        return Perturbed(
            images=self.images.cpu(),
            targets=None,
            gradients=self.gradients.cpu(),
            forwards=self.forwards.cpu(),
            zero_gradients=self.zero_gradients.cpu(),
            first_success=self.first_success.cpu(),
            misclassified=self.misclassified.cpu() if members else None,
            member=self.found_by.cpu() if members else None,
            members=members,
        )
