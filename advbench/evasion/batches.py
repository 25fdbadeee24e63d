"""Run one attack over many images, batch by batch."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from advbench.detection import Guard
from advbench.evasion.base import AdaptiveAttack, Attack, FromSurrogate
from advbench.evasion.validity import check_images
from advbench.types import Adversarials, ImageSet, Outputs, Perturbed
from advbench.victim import Meter, Told, Victim

AnyAttack = Attack | AdaptiveAttack | FromSurrogate
OF_ALL = ("members", "implementation")  # fields of Perturbed that are not of single images


class Keeper(Protocol):
    """What keeps results as they are made: of the first `attacked` images, and the outputs of the first `scored`."""

    attacked: int
    scored: int

    def take(self, part: slice, made: Perturbed) -> None:
        """Those of the images of this slice, which begins at `attacked`."""

    def images(self, part: slice) -> Tensor:
        """The attacked images of this slice, which begins at `scored`."""

    def score(self, part: slice, outputs: Outputs) -> None:
        """The model's outputs on them."""


def perturb_into(
    keeper: Keeper,
    attack: AnyAttack,
    victim: Victim,
    images: ImageSet,
    told: Told,
    guard: Guard | None = None,
    surrogate: Victim | None = None,
    first: int = 0,
) -> None:
    """Attack all of `images` in batches, less what the keeper has; each result is checked before it is kept.

    An image's seed is its row in the test part, `first` that of the first. `guard` is needed by adaptive attacks,
    `surrogate` by those made on another model, and by no others. `told` hears how many images are done, parts of them
    too.
    """
    attack.check(victim)
    seeds = torch.arange(first, first + len(images))

    def made_of(part: slice) -> Perturbed:
        batch = victim, images.pixels[part], images.labels[part], seeds[part]
        if isinstance(attack, AdaptiveAttack):
            assert guard is not None
            made = attack.perturb(*batch, guard)
        elif isinstance(attack, FromSurrogate):
            assert surrogate is not None
            made = attack.perturb(*batch, surrogate)
        else:
            made = attack.perturb(*batch)
        check_images(attack, batch[1], made.images)
        return made

    def work(part: slice) -> None:
        while keeper.attacked < part.stop:
            next_ones = slice(keeper.attacked, min(part.stop, keeper.attacked + (attack.at_once or len(images))))
            victim.meter.at(next_ones)
            keeper.take(next_ones, made_of(next_ones))
        if keeper.scored < part.stop:
            rest = slice(keeper.scored, part.stop)
            keeper.score(rest, victim.outputs(keeper.images(rest), seed=first + rest.start))

    passes = attack.passes + 1  # one more is for the outputs
    victim.in_batches(len(images), work, Meter((surrogate or victim).model, told, passes))
    told(len(images))


class InMemory:
    """Keeps results in memory; without `images`, those only until the model has seen them."""

    def __init__(self, *, images: bool = True) -> None:
        self.attacked = self.scored = 0
        self.keeps_images = images
        self.made: list[Perturbed] = []
        self.outputs: list[Outputs] = []
        self._unseen: list[Tensor] = []

    def take(self, part: slice, made: Perturbed) -> None:
        """As `Keeper` says."""
        self._unseen.append(made.images)
        self.made.append(made if self.keeps_images else replace(made, images=made.images[:0]))
        self.attacked = part.stop

    def images(self, part: slice) -> Tensor:
        """As `Keeper` says."""
        self._unseen = [torch.cat(self._unseen)]
        return self._unseen[0][: part.stop - part.start]

    def score(self, part: slice, outputs: Outputs) -> None:
        """As `Keeper` says."""
        self.outputs.append(outputs)
        self._unseen = [self._unseen[0][len(outputs) :]]
        self.scored = part.stop

    def all_outputs(self) -> Outputs:
        """Of all images."""
        return Outputs(*(torch.cat([getattr(o, name) for o in self.outputs]) for name in ("features", "logits")))


def perturb(
    attack: AnyAttack,
    victim: Victim,
    images: ImageSet,
    clean: Outputs,
    told: Told,
    guard: Guard | None = None,
    surrogate: Victim | None = None,
) -> Adversarials:
    """The attack's results on all of `images`, the first of the test part, in memory; see `perturb_into`.

    `clean` holds the outputs of the whole part before the attack.
    """
    keeper = InMemory()
    perturb_into(keeper, attack, victim, images, told, guard, surrogate)
    own = [f.name for f in fields(Perturbed) if f.name not in OF_ALL]
    joined: dict[str, Any] = {name: _joined([getattr(b, name) for b in keeper.made]) for name in own}
    return Adversarials(
        index=torch.arange(len(images)),
        labels=images.labels,
        outputs=keeper.all_outputs(),
        saturated=saturated(clean, images.labels),
        members=keeper.made[0].members,
        implementation=keeper.made[0].implementation,
        **joined,
    )


def saturated(clean: Outputs, labels: Tensor, first: int = 0) -> Tensor:
    """Bool [n]: whether the float32 posterior of the true class is exactly 1, of images from the `first` on."""
    posterior = clean.logits[first : first + len(labels)].softmax(dim=1)
    return posterior.gather(1, labels[:, None]).squeeze(1) == 1


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
