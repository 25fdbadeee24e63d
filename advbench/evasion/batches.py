"""Run one attack over many images, batch by batch."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from advbench.detection import Guard
from advbench.evasion.base import AdaptiveAttack, Attack, FromSurrogate
from advbench.types import Adversarials, ImageSet, Outputs, Perturbed
from advbench.victim import Meter, Told, Victim


def perturb(
    attack: Attack | AdaptiveAttack | FromSurrogate,
    victim: Victim,
    images: ImageSet,
    clean: Outputs,
    told: Told,
    guard: Guard | None = None,
    surrogate: Victim | None = None,
    first: int = 0,
) -> Adversarials:
    """Attack all of `images` in batches; an image's seed is its row in the test part, `first` that of the first.

    `clean` holds the outputs of the whole part before the attack. `guard` is needed by adaptive attacks, `surrogate`
    by those made on another model, and by no others. `told` hears how many images are done, parts of them too.
    """
    attack.check(victim)
    seeds = torch.arange(first, first + len(images))

    def work(part: slice) -> Perturbed:
        batch = victim, images.pixels[part], images.labels[part], seeds[part]
        if isinstance(attack, AdaptiveAttack):
            assert guard is not None
            return attack.perturb(*batch, guard)
        if isinstance(attack, FromSurrogate):
            assert surrogate is not None
            return attack.perturb(*batch, surrogate)
        return attack.perturb(*batch)

    n, made = len(images), attack.passes / (attack.passes + 1)  # share of the passes; one more is for the outputs
    meter = Meter((surrogate or victim).model, lambda done: told(made * done), attack.passes)
    batches = victim.in_batches(n, work, meter)
    names = [f.name for f in fields(Perturbed) if f.name not in ("members", "implementation")]
    joined: dict[str, Any] = {name: _joined([getattr(b, name) for b in batches]) for name in names}
    images_made = joined.pop("images")
    posterior = clean.logits[first : first + len(images)].softmax(dim=1)
    return Adversarials(
        index=seeds,
        labels=images.labels,
        images=images_made,
        outputs=victim.outputs(images_made, lambda done: told(made * n + (1 - made) * done)),
        saturated=posterior.gather(1, images.labels[:, None]).squeeze(1) == 1,
        members=batches[0].members,
        implementation=batches[0].implementation,
        **joined,
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
