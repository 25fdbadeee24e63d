"""AutoAttack as its authors publish it: APGD-CE, targeted APGD, FAB and Square, through pyautoattack."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advbench.errors import BadSetting, MissingLibrary
from advbench.evasion import Attack, EitherNorm, generator
from advbench.types import Perturbed
from advbench.victim import Victim

try:
    import pyautoattack
except Exception as error:  # whatever a library raises that was made for another torch
    raise MissingLibrary("autoattack", "pyautoattack", f"{type(error).__name__}: {error}", "pyautoattack") from error


@dataclass(frozen=True, kw_only=True)
class AutoAttack(EitherNorm, Attack):
    """Two of the published versions (Croce and Hein 2020, arXiv:2003.01690): nothing within them can be set.

    version  standard: APGD-CE, APGD-T, FAB-T, Square; plus: APGD-CE, APGD-DLR and untargeted FAB from five starts
             each, Square, APGD-T, FAB-T

    An image that withstands it comes back as it was. The authors' code draws from one stream for a whole batch, so
    that an image's result depends on its batch; the stream starts from the batch's first seed. It needs four
    classes (its targeted DLR) and always clips to [0, 1].
    """

    independent: ClassVar[bool] = False
    passes: ClassVar[int] = 10_000
    version: Literal["standard", "plus"] = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.clip:
            raise BadSetting("autoattack always keeps images inside [0, 1]; leave --no-clip out")

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor) -> Perturbed:
        """Passes are counted for the batch and shared out evenly: the authors' code tells them apart no further."""
        from advbench.evasion.art_attacks import Counted, seeded

        if victim.classes < 4:
            raise BadSetting(f"autoattack needs four classes, this model has {victim.classes}; use apgd")
        self.check(victim)
        counted, seed = Counted(victim.model).eval(), int(seeds[0])
        attack = pyautoattack.AutoAttack(
            counted,
            norm={"linf": "Linf", "l2": "L2"}[self.norm],
            eps=self.eps,
            seed=generator(seed, 0).initial_seed(),
            device=victim.device,
            version=self.version,
        )
        # the published nine targets, or as many as there are
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, victim.classes - 1)
        with seeded(seed):
            moved = attack.run_standard_evaluation(images.clone(), labels.clone(), batch_size=len(images))[0]
        n = len(images)
        return Perturbed(
            images=self.ball.project(moved.detach().cpu(), images),
            targets=None,
            gradients=torch.full((n,), round(counted.backwards / n)),
            forwards=torch.full((n,), round(counted.forwards / n)),
            zero_gradients=None,
            first_success=torch.full((n,), -1),
        )
