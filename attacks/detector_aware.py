"""Detector-aware ensemble: every adaptive attack in turn, the worst case for each image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from advbench import catalog
from advbench.detection import Guard
from advbench.evasion import AdaptiveAttack, EitherNorm, SearchState, Undetected
from advbench.types import Perturbed
from advbench.victim import Victim

Budget = Literal["quick", "standard", "thorough"]
Version = Literal["v1", "v2", "v3"]
CLEAN = "clean"


@dataclass(frozen=True)
class Member:
    """An attack of the catalog with settings.

    of_score   it follows the gradient of the detector's score
    classes    the least number of classes it needs
    """

    name: str
    attack: str
    settings: dict[str, Any]
    of_score: bool = False
    classes: int = 2


def _aware(name: str, attack: str, classes: int = 2, **settings: Any) -> Member:
    return Member(name, attack, settings, of_score=True, classes=classes)


def _fivefold(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Each with five times its random starts, or queries."""

    def more(settings: dict[str, Any]) -> dict[str, Any]:
        name = "queries" if "queries" in settings else "restarts"
        return {**settings, name: 5 * settings.get(name, 1)}

    return tuple(replace(m, settings=more(m.settings)) for m in members)


# backward passes an image stand behind each; a gradient-free member gets five queries for one
QUICK = (
    _aware("joint-margin", "joint", objective="margin", targets=2, sweep=2, steps=15),  # 60
    _aware("joint-logits", "joint", objective="logits", targets=1, sweep=1, steps=15),  # 15
    Member("apgd-ce", "apgd", {"objective": "ce", "steps": 20}),  # 20
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 2, "steps": 15}, classes=4),  # 30
    _aware("selective", "selective", targets=1, steps=15),  # 15
    _aware("orthogonal", "orthogonal", targets=1, steps=10),  # 20
    Member("feature-matching", "feature-matching", {"targets": 1, "steps": 20}),  # 20
    Member("detector-square", "detector-square", {"queries": 100}),  # 20
)
STANDARD = (
    _aware("joint-margin", "joint", objective="margin", targets=3, sweep=3, steps=40),  # 360
    _aware("joint-ce", "joint", objective="ce", targets=0, sweep=1, steps=60),  # 60
    _aware("joint-dlr", "joint", classes=3, objective="dlr", targets=0, sweep=1, steps=60),  # 60
    _aware("joint-logits", "joint", objective="logits", targets=3, sweep=1, steps=40),  # 120
    Member("apgd-ce", "apgd", {"objective": "ce", "steps": 100}),  # 100
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 9, "steps": 60}, classes=4),  # 540
    _aware("selective", "selective", targets=3, steps=60),  # 180
    _aware("orthogonal", "orthogonal", targets=3, steps=30),  # 180
    Member("feature-matching", "feature-matching", {"targets": 3, "steps": 50}),  # 150
    Member("detector-square", "detector-square", {"queries": 1250}),  # 250
)
MEMBERS: dict[Budget, tuple[Member, ...]] = {"quick": QUICK, "standard": STANDARD, "thorough": _fivefold(STANDARD)}
# where there is no score to follow, later versions give its members' share to those that are left
QUICK_2 = (
    Member("apgd-ce", "apgd", {"objective": "ce", "steps": 50}),  # 50
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 3, "steps": 40}, classes=4),  # 120
    Member("detector-square", "detector-square", {"queries": 150}),  # 30
)
STANDARD_2 = (
    Member("apgd-ce", "apgd", {"objective": "ce", "steps": 100}),  # 100
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 9, "steps": 100}, classes=4),  # 900
    Member("apgd-margin", "apgd", {"objective": "margin", "steps": 100}),  # 100
    Member("detector-square", "detector-square", {"queries": 4500}),  # 900
)
QUICK_3 = (
    Member("apgd-ce", "apgd", {"objective": "ce", "steps": 40}),  # 40
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 3, "steps": 30}, classes=4),  # 90
    Member("apgd-margin", "apgd", {"objective": "margin", "targets": 2, "steps": 25}),  # 50
    Member("detector-square", "detector-square", {"queries": 100}),  # 20
)
STANDARD_3 = (
    Member("apgd-ce", "apgd", {"objective": "ce", "restarts": 4, "steps": 100}),  # 400
    Member("apgd-dlr", "apgd", {"objective": "dlr", "targets": 9, "steps": 60}, classes=4),  # 540
    Member("apgd-margin", "apgd", {"objective": "margin", "targets": 3, "steps": 80}),  # 240
    Member("apgd-dlr-nearest", "apgd", {"objective": "dlr", "targets": 3, "steps": 80}, classes=4),  # 240
    Member("detector-square", "detector-square", {"queries": 500}),  # 100
)
ALONE: dict[Version, dict[Budget, tuple[Member, ...]]] = {
    "v2": {"quick": QUICK_2, "standard": STANDARD_2, "thorough": _fivefold(STANDARD_2)},
    "v3": {"quick": QUICK_3, "standard": STANDARD_3, "thorough": _fivefold(STANDARD_3)},
}
GRADIENTS: dict[Budget, int] = {"quick": 200, "standard": 2_000, "thorough": 10_000}


@dataclass(frozen=True, kw_only=True)
class DetectorAware(EitherNorm, AdaptiveAttack):
    """`detector-aware-v1` to `-v3`: an image is lost as soon as one member makes it misclassified and undetected.

    The members are those of `MEMBERS[budget]`, in that order, on one `SearchState`: a lost image leaves at once and
    costs nothing further. The unperturbed image is the first of them. Nothing else can be set; another choice of
    members is another version.

    budget   backward passes an image may cost: quick 200, standard 2,000, thorough 10,000
    version  they differ where there is no score to follow, as without a detector (`ALONE`): v1 then spends about half
             of the budget, v2 all of it, in the parts in which AutoAttack does, and v3 three quarters: restarts,
             nine targets once, then two objectives on the three classes that came nearest to the label's
             (`SearchState.class_margins`), and little random search, of which a query costs more time than it is
             counted for

    Members that follow the score's gradient are left out where the detector has neither one nor a stand-in, those
    with more classes than the model has too, and the random search outside L-inf.
    """

    budget: Budget = "standard"
    version: Version = "v1"
    passes = property(lambda self: 2 * GRADIENTS[self.budget])

    def members(self, victim: Victim, guard: Guard) -> Iterator[Member]:
        """Those that can attack this model and detector."""
        members = MEMBERS if guard.has_gradient else ALONE.get(self.version, MEMBERS)
        for member in members[self.budget]:
            usable = victim.classes >= member.classes and (guard.has_gradient or not member.of_score)
            if usable and (self.norm == "linf" or member.attack != "detector-square"):
                yield member

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, seeds: Tensor, guard: Guard) -> Perturbed:
        """Up to `GRADIENTS[budget]` gradients an image; see `Perturbed.member` for who found which."""
        labels = labels.to(victim.device)
        state = SearchState(self, victim, images, seeds, Undetected(labels, guard), stop=True)
        if self.version == "v3" and not guard.has_gradient:
            state.keep_class_margins()
        clean = state.evaluate(state.everyone, state.origin)
        members = tuple(self.members(victim, guard))
        for number, member in enumerate(members, start=1):
            state.by = number
            attack = catalog.load("attack", member.attack)(**self._own(member), **member.settings)
            attack.run(state, labels, guard, clean)
        return state.result((CLEAN, *(m.name for m in members)))

    def _own(self, member: Member) -> dict[str, Any]:
        norm = {} if member.attack == "detector-square" else {"norm": self.norm}
        return {"eps": self.eps, "clip": self.clip, **norm}
