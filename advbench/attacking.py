"""One attack on many images, and what it did to their labels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from advbench import metrics
from advbench.contracts import Attack, DetectorAware, FromSurrogate, Guard
from advbench.scoring import Row
from advbench.spec import AttackChoice
from advbench.types import Adversarials, ImageSet, Outputs, Perturbed
from advbench.victim import Victim


def perturb(
    attack: Attack | DetectorAware | FromSurrogate,
    victim: Victim,
    images: ImageSet,
    clean: Outputs,
    advance: Callable[[int], None],
    guard: Guard | None = None,
    surrogate: Victim | None = None,
) -> Adversarials:
    """Attack all of `images` in batches; image i's seed is i. `clean` holds their outputs before the attack.

    `guard` is needed by detector-aware attacks, `surrogate` by those made on another model, and by no others.
    """
    attack.check(victim)
    seeds = torch.arange(len(images))

    def work(part: slice) -> Perturbed:
        batch = victim, images.images[part], images.labels[part], seeds[part]
        if isinstance(attack, DetectorAware):
            assert guard is not None
            result = attack.perturb(*batch, guard)
        elif isinstance(attack, FromSurrogate):
            assert surrogate is not None
            result = attack.perturb(*batch, surrogate)
        else:
            result = attack.perturb(*batch)
        advance(part.stop)
        return result

    batches = victim.in_batches(len(images), work)
    moved = torch.cat([b.images for b in batches])
    targets = [b.targets for b in batches if b.targets is not None]
    posterior = clean.logits[: len(images)].softmax(dim=1)
    return Adversarials(
        images=moved,
        index=torch.arange(len(images)),
        labels=images.labels,
        targets=torch.cat(targets) if targets else None,
        outputs=victim.outputs(moved),
        zero_gradients=torch.cat([b.zero_gradients for b in batches]),
        saturated=posterior.gather(1, images.labels[:, None]).squeeze(1) == 1,
        gradients=torch.cat([b.gradients for b in batches]),
        forwards=torch.cat([b.forwards for b in batches]),
        first_success=torch.cat([b.first_success for b in batches]),
    )


def effect(choice: AttackChoice, made: Adversarials, clean: Outputs, guard: Guard | None = None) -> Row:
    """What an attack did to the labels: the fields of an `attack` row after the model's.

    With a guard, also its threshold, the share of all images that are wrong and pass it, and that of clean images
    it rejects.
    """
    correct = (clean.predictions == made.labels).numpy()
    wrong = (made.outputs.predictions != made.labels).numpy()
    everyone = metrics.populations(correct, made.succeeded.numpy())["all"]
    attack = choice.attack
    row: Row = {
        "attack": choice.choice.name,
        "settings": choice.settings,
        "norm": attack.norm,
        "eps": attack.eps,
        "n": len(made.labels),
        "clean_error_rate": metrics.rate(~correct, everyone),
        "error_rate": metrics.rate(wrong, everyone),
        "success_rate": metrics.rate(wrong, correct),
        "target_rate": metrics.rate(made.succeeded.numpy(), correct) if attack.targeted else None,
        "zero_gradients": int(made.zero_gradients.sum()),
        "saturated": int(made.saturated.sum()),
    }
    if guard is not None:
        passed = guard.slack(made.outputs).numpy() >= 0
        row |= {
            "detector": guard.name,
            "fpr": choice.fpr,
            "threshold": guard.threshold,
            "undetected_error_rate": metrics.rate(wrong & passed, everyone),
            "clean_rejected": metrics.rate(guard.slack(clean).numpy() < 0, everyone),
        }
    return row
