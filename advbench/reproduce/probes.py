"""What the released models are asked about their detectors: attacks that know them, and the controls beside those."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from advbench import catalog
from advbench.detection import NO_DETECTOR
from advbench.reproduce.cells import CONTROLS, EPS, HEADLINE, SHOWN, Cell, Entry

LIKELIHOOD = "likelihood"
FPR = 0.05
FEW = 200  # images of a curve
BLACK_BOX = 100  # images of a curve over queries
CURVE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
REJECTION = tuple(round(share * HEADLINE, 3) for share in (0.25, 0.5, 0.75, 1.0))
FIRST = ("lgm1.0", "softmax", "center", "l-softmax")
assert set(FIRST) == set(SHOWN)


@dataclass(frozen=True)
class Probe:
    """One attack at one eps on the first n test images of one 100-D model of seed 0, scored against one guard.

    part      what it is for: headline, curve, queries, posterior, thresholds, undefended, noise, rejection, control,
              published
    detector  the guard's, or `none`; `blind` attacks do not know it
    settings  the attack's that are not the default
    """

    part: str
    loss: str
    attack: str
    eps: float
    n: int
    detector: str = LIKELIHOOD
    fpr: float = FPR
    settings: Mapping[str, Any] = field(default_factory=dict)
    blind: bool = False

    @property
    def cell(self) -> Cell:
        """The model asked."""
        return Cell(self.loss, 100, 0)

    @property
    def by(self) -> str:
        """The attack as the page names it, such as `detector-aware (standard, v3)`."""
        chosen = ", ".join(str(self.settings[key]) for key in ("budget", "version") if key in self.settings)
        return self.attack + (f" ({chosen})" if chosen else "")

    @property
    def available(self) -> bool:
        """Whether its attack is in the catalog."""
        return self.attack in catalog.names("attack")

    @property
    def entry(self) -> Entry:
        """The attack as a spec states it."""
        known = {} if self.blind else {"detector": self.detector, "fpr": self.fpr}
        return {"name": self.attack, "eps": self.eps, "n": self.n, **self.settings, **known}

    @property
    def asked(self) -> dict[str, Any]:
        """What tells its row from others in a record; `fpr` is null without a detector."""
        return {
            "attack": self.attack,
            "settings": dict(self.settings),
            "eps": self.eps,
            "n": self.n,
            "detector": self.detector,
            "fpr": None if self.detector == NO_DETECTOR else self.fpr,
        }


def plan() -> Iterator[Probe]:
    """All probes, the most wanted first."""
    yield _aware("headline", "lgm1.0", budget="standard", n=1000)
    yield from (_aware("headline", loss, budget="standard") for loss in FIRST[1:])
    yield from (_aware("curve", loss, eps=eps) for loss in FIRST[:2] for eps in CURVE)
    yield _square("lgm1.0", 5000)
    yield from (_aware("curve", loss, eps=eps) for loss in FIRST[2:] for eps in EPS)
    yield _aware("undefended", "softmax", budget="standard", detector=NO_DETECTOR)
    yield from (_aware("posterior", loss, detector="max-posterior") for loss in FIRST)
    yield from (_aware("thresholds", loss, fpr=fpr) for loss in FIRST for fpr in (0.01, 0.1))
    yield from (_square(loss, 1000) for loss in FIRST[1:])
    yield from (
        Probe("noise", loss, noise, HEADLINE, 1000, detector, blind=True)
        for loss in FIRST
        for noise in ("uniform-noise", "gaussian-noise")
        for detector in (LIKELIHOOD, "max-posterior")
    )
    yield from (Probe("rejection", loss, "force-rejection", eps, FEW) for loss in FIRST for eps in REJECTION)
    # images that a control keeps cost the whole budget: standard where AutoAttack stands beside it, else quick
    for loss in CONTROLS:
        yield _aware("control", loss, budget="standard", detector=NO_DETECTOR)
        for version in ("v2", "v3"):
            yield _aware("control", loss, budget="standard", detector=NO_DETECTOR, version=version)
        for more in ({}, {"version": "plus"}):
            yield Probe("published", loss, "autoattack", HEADLINE, FEW, NO_DETECTOR, settings=more, blind=True)
    for eps in (e for e in reversed(EPS) if e != HEADLINE):
        yield from (_aware("control", loss, eps=eps, detector=NO_DETECTOR) for loss in CONTROLS)
        yield from (_aware("control", loss, eps=eps) for loss in CONTROLS)
    yield from (_aware("control", loss, budget="standard") for loss in CONTROLS)


def _aware(
    part: str,
    loss: str,
    *,
    eps: float = HEADLINE,
    n: int = FEW,
    detector: str = LIKELIHOOD,
    fpr: float = FPR,
    **own: str,
) -> Probe:
    return Probe(part, loss, "detector-aware", eps, n, detector, fpr, {"budget": "quick", **own})


def _square(loss: str, queries: int) -> Probe:
    return Probe("queries", loss, "detector-square", HEADLINE, BLACK_BOX, settings={"queries": queries})
