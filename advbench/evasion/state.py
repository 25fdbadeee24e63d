"""State of a batch under attack: costs, best points, and which images have succeeded."""

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
from advbench.evasion.criteria import Criterion
from advbench.evasion.objectives import Objective
from advbench.types import Outputs, Perturbed, of_class, runners_up
from advbench.victim import Victim


@dataclass(frozen=True)
class Ascent:
    """Values [b] of an objective at some points and the ascent directions [b c h w]."""

    values: Tensor
    gradients: Tensor


def mean(outputs: Sequence[Outputs]) -> Outputs:
    """The mean of several passes over the same images."""
    if len(outputs) == 1:
        return outputs[0]
    features = torch.stack([o.features for o in outputs]).mean(dim=0)
    return Outputs(features, torch.stack([o.logits for o in outputs]).mean(dim=0))


class SearchState:
    """The state that the ascents of one batch share; the one place where an attack runs the model.

    `rows` int64 [b] are places in the batch, on the victim's device, as are all tensors here. With `stop`, an image
    leaves at its first success; without, its point of highest success margin is kept. Several attacks may share one
    state: each goes on with the images that `remaining` lists, and `by` is the number of the one at work. The first
    success is counted in gradients, or in forward passes with `in_queries`, for attacks that take no gradient.
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
        self.success_margin = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self.gradients = torch.zeros(n, dtype=torch.long, device=device)
        self.forwards = torch.zeros(n, dtype=torch.long, device=device)
        self.first_success = torch.full((n,), -1, device=device)
        self.zero_gradients = torch.zeros(n, dtype=torch.bool, device=device)
        self.misclassified = torch.zeros(n, dtype=torch.bool, device=device)
        self.found_by = torch.zeros(n, dtype=torch.long, device=device)
        self.by = 0
        self.class_margins: Tensor | None = None
        self._starts = 0
        self._passes = 0

    @property
    def everyone(self) -> Tensor:
        """All rows."""
        return torch.arange(len(self.origin), device=self.origin.device)

    @property
    def remaining(self) -> Tensor:
        """The rows that have not succeeded yet."""
        return torch.nonzero(self.success_margin <= 0).squeeze(1)

    def active(self, rows: Tensor) -> Tensor | None:
        """Bool [b], false for images that leave; None where all stay."""
        if not self.stop:
            return None
        stay = self.success_margin[rows] <= 0
        return None if bool(stay.all()) else stay

    def keep_class_margins(self) -> None:
        """From now on keep `class_margins` float64 [n k]: the largest lead of each class's logit over the label's."""
        shape = (len(self.origin), self.victim.classes)
        self.class_margins = torch.full(shape, -torch.inf, dtype=torch.float64, device=self.origin.device)

    def targets(self, clean: Outputs, labels: Tensor, count: int) -> Tensor:
        """Each image's runner-up classes, best first, int64 [count n]: by `class_margins` or its logits."""
        return runners_up(clean.logits if self.class_margins is None else self.class_margins, labels, count).T

    def random_start(self, rows: Tensor) -> Tensor:
        """A point of each image's ball, from its own seed; a new one each time."""
        self._starts += 1
        return self.ball.random(self.origin[rows], self.seeds[rows.cpu()], self._starts - 1)

    def gradient(self, objective: Objective, rows: Tensor, x: Tensor) -> Ascent:
        """One gradient of `objective` at points x [b c h w] (the mean of `samples` of them); notes what was found."""
        ascents, outputs = [], []
        for _ in range(self.samples):
            leaf = x.detach().requires_grad_()
            leaf.register_hook(partial(self._count_broken, rows))  # type: ignore[no-untyped-call]
            with self._own_randomness():
                found = self.victim.differentiable_outputs(leaf)
                ascents.append(objective.gradient(found, rows, leaf))
            outputs.append(Outputs(found.features.detach(), found.logits.detach()))
        values, gradients = ascents[0]
        if self.samples > 1:
            values, gradients = (sum(parts) / self.samples for parts in zip(*ascents, strict=True))
        self._note(rows, x, mean(outputs))
        self.gradients[rows] += objective.backwards * self.samples
        self.zero_gradients[rows] |= ~gradients.flatten(1).any(dim=1)
        return Ascent(values, gradients)

    def _count_broken(self, rows: Tensor, gradient: Tensor) -> None:
        """A gradient that is not finite counts as vanished: some pixels of it are not followed."""
        self.zero_gradients[rows] |= ~gradient.isfinite().flatten(1).all(dim=1)

    @torch.no_grad()
    def evaluate(self, rows: Tensor, x: Tensor) -> Outputs:
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
        success_margin = self.criterion.success_margin(outputs, rows)
        if success_margin.isnan().any():
            raise FailedCheck("the model's logits are NaN under attack; its outputs must be numbers")
        first = rows[(success_margin > 0) & (self.first_success[rows] < 0)]
        self.first_success[first] = (self.forwards if self.in_queries else self.gradients)[first]
        self.forwards[rows] += self.samples
        self.misclassified[rows] |= self.criterion.misclassified(outputs, rows)
        if self.class_margins is not None:
            lead = outputs.logits.double() - of_class(outputs.logits, self.criterion.labels[rows])[:, None]
            self.class_margins[rows] = torch.maximum(self.class_margins[rows], lead)
        better = success_margin > self.success_margin[rows]
        gained = rows[better]
        if len(gained):
            self.found_by[gained] = self.by
            self.success_margin[gained] = success_margin[better]
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
