"""The benchmark's cells: which models, and which attacks each of them faces."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from advbench.errors import UnknownName
from advbench.study.parsing import parse
from advbench.study.spec import Spec

Entry = dict[str, Any]
LOSSES: dict[str, Any] = {
    "softmax": "softmax",
    "center": "center",
    "lgm1.0": {"name": "lgm", "alpha": 1.0},
    "l-softmax": "l-softmax",
    "lgm0.0": {"name": "lgm", "alpha": 0.0},
    "lgm0.3": {"name": "lgm", "alpha": 0.3},
}
# adversarially trained, so that a claim about a detector stands beside a defence that is known to hold
CONTROLS: dict[str, Any] = {
    "softmax-adv": {"name": "softmax", "adversarial": True},
    "lgm1.0-adv": {"name": "lgm", "alpha": 1.0, "adversarial": True},
}
ATTACKED = ("softmax", "center", "lgm1.0")  # as in the paper; one model of L-Softmax is attacked beside them
SHOWN = (*ATTACKED, "l-softmax")
SEEDS = (0, 1, 2)
EPS = (0.1, 0.2, 0.3)
HEADLINE = 0.3  # the eps of the paper's EERs
GREY = 128 / 255  # (x - 127.5) / 128 units in [0, 1] units
DETECTORS = ("likelihood", "max-posterior")


@dataclass(frozen=True)
class Cell:
    """One model of the grid."""

    loss: str
    dim: int
    seed: int

    @property
    def name(self) -> str:
        """Such as `lgm1.0-100d-seed0`: the stem of its files."""
        return f"{self.loss}-{self.dim}d-seed{self.seed}"

    @property
    def attacked(self) -> bool:
        """Whether it is attacked, so that its weights are kept with the page."""
        if self.loss == "l-softmax" or self.loss in CONTROLS:
            return self.dim == 100 and self.seed == 0
        return self.loss in ATTACKED and (self.dim == 100 or self.seed == 0)

    def spec(self, training: Mapping[str, Any], attacks: list[Entry] | None = None) -> Spec:
        """The study of this model alone."""
        return parse(
            {
                "dataset": "mnist",
                "losses": [(LOSSES | CONTROLS)[self.loss]],
                "seeds": [self.seed],
                "feature_dim": self.dim,
                "detectors": list(DETECTORS),
                "training": dict(training),
                "attacks": attacks or [{"name": "fgsm"}],
            }
        )

    def attacks(self, *, core: bool = False) -> list[Entry]:
        """What this model is attacked with; `core` = what Table 6 and the EERs need.

        Seed 0 of a 100-D model meets FGSM and targeted FGSM under all four readings of the paper's eps, and with
        exact gradients; other seeds the default reading; a 2-D model what its heat map shows; a control what `core`
        asks for.
        """
        if not self.attacked:
            return []
        if self.dim == 2:
            return [{"name": "fgsm", "eps": HEADLINE}]
        plain: list[Entry] = [{"name": "fgsm", "eps": list(EPS)}, {"name": "targeted-fgsm", "eps": HEADLINE}]
        exact = [{**attack, "exact_gradient": True} for attack in plain]
        if core or self.loss in CONTROLS:
            return plain
        if self.seed:
            return plain + exact
        others: list[Entry] = [
            {"name": name, "eps": [e * scale for e in eps], "clip": clip}
            for name, eps in (("fgsm", EPS), ("targeted-fgsm", (HEADLINE,)))
            for scale, clip in ((1.0, False), (GREY, True), (GREY, False))
        ]
        return plain + exact + others


def grid() -> Iterator[Cell]:
    """All cells, the most wanted first: a seed of everything that is attacked, then Table 1, then more seeds."""
    yield from (Cell(loss, 100, 0) for loss in LOSSES)
    yield from (Cell(loss, 2, 0) for loss in LOSSES)
    yield from (Cell(loss, dim, seed) for seed in SEEDS[1:] for dim in (100, 2) for loss in LOSSES)


def controls() -> Iterator[Cell]:
    """The adversarially trained models; they are no cells of the paper's grid."""
    yield from (Cell(loss, 100, 0) for loss in CONTROLS)


def chosen(names: list[str] | None) -> list[Cell]:
    """The cells of these names, the grid's in its order, then the controls; all where None. Raises UnknownName."""
    cells = {cell.name: cell for cell in (*grid(), *controls())}
    for name in names or []:
        if name not in cells:
            raise UnknownName("cell", name, cells)
    return [cell for name, cell in cells.items() if names is None or name in names]


def reading(settings: Mapping[str, Any], eps: float) -> tuple[float, str, str]:
    """(the paper's eps, its unit, clipping) that an attack's eps and settings stand for."""
    clip = "unclipped" if settings.get("clip") is False else "clipped"
    if any(abs(eps - e) < 1e-9 for e in EPS):
        return eps, "[0,1] units", clip
    return round(eps / GREY, 6), "(x-127.5)/128 units", clip
