"""Whether the attacks on the classifier are as strong as they can be (R8, R9)."""

import math
from itertools import pairwise
from typing import Any

from advbench.audit import POINT, Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import ENSEMBLE, ITERATIVE, Result, common, count
from advbench.formatting import as_text, percent
from advbench.study.command_lines import Line

OBJECTIVES = ("ce", "margin", "dlr", "logits")
MANY_STEPS = (*ITERATIVE, ENSEMBLE)


def objectives(e: Evidence) -> Verdict:
    """R8: Auto-PGD up four objectives at one eps; a large spread means that some hide the gradient."""
    found = {o: e.of("apgd", objective=o, targets=0) for o in OBJECTIVES}
    ran = {o: rs[0] for o, rs in found.items() if rs}
    missing = [o for o in OBJECTIVES if o not in ran]
    if missing:
        said = f"run: {', '.join(ran) or 'none'}; missing: {', '.join(missing)}"
        return not_run(said, Line.joined(e.attack("apgd", objective=o) for o in missing))
    n = common(*ran.values())
    errors = {o: float(r.wrong[:n].mean()) for o, r in ran.items()}
    spread = max(errors.values()) - min(errors.values())
    said = ", ".join(f"{o} {percent(x)}" for o, x in errors.items())
    said = f"{said} wrong of {n}; spread {100 * spread:.1f} points"
    if e.headline is None:
        return Verdict("met", said)
    m = common(e.headline, *ran.values())
    gap = max(float(r.wrong[:m].mean()) for r in ran.values()) - float(e.headline.wrong[:m].mean())
    said += f"; the ensemble misclassifies {count(e.headline.wrong[:m])}"
    return either(gap <= POINT, said, e.aware("detector-aware", budget="thorough"))


def iterative(e: Evidence) -> Verdict:
    """R9: many steps do at least what one does."""
    # in L2 the single step is PGD's first one from the image itself
    step: dict[str, Any] = {} if e.at[0] == "linf" else {"steps": 1, "step": e.eps, "random_start": False}
    name = "pgd" if step else "fgsm"
    single, many = e.of(name, **step), [r for r in e.of(*ITERATIVE) if r.row.setting("steps") > 1]
    if not single or not many:
        missing = ["a single step"] * (not single) + ["pgd"] * (not many)
        commands = [e.attack(name, **step)] * (not single) + [e.attack("pgd")] * (not many)
        return not_run(f"{' and '.join(missing)} not run at eps {as_text(e.eps)}", Line.joined(commands))
    n = common(single[0], *many)
    best = max(many, key=lambda r: _rate(r, n))
    gain = _rate(best, n) - _rate(single[0], n)
    said = f"{best.label} {count(best.wrong[:n])}; {single[0].label} {percent(_rate(single[0], n))} wrong"
    return either(gain >= -POINT, said, e.attack("apgd", objective="margin"))


def twice_the_iterations(e: Evidence) -> Verdict:
    """R9: an attack with twice the steps, all else equal, gains at most a percentage point."""
    pairs = [(a, b) for a, b in _pairs(e, "steps", "step") if b.row.setting("steps") == 2 * a.row.setting("steps")]
    if not pairs:
        own = e.of("pgd") or e.of(*ITERATIVE)
        if not own:
            return not_run("no iterative attack", Line.joined([e.attack("pgd"), e.attack("pgd", steps=80)]))
        return not_run(f"{own[0].label} ran once", _again(e, own[0], steps=2 * own[0].row.setting("steps")))
    one, two = max(pairs, key=lambda pair: pair[0].row.setting("steps"))
    n = common(one, two)
    gain = _rate(two, n) - _rate(one, n)
    said = f"{one.row.attack}, {one.row.setting('steps')} steps {percent(_rate(one, n))}, "
    said += f"{two.row.setting('steps')} steps {count(two.wrong[:n])} wrong"
    return either(gain <= POINT, said, _again(e, two, steps=2 * two.row.setting("steps")))


def restarts(e: Evidence) -> Verdict:
    """R9: further random starts gain at most a percentage point."""
    alike = [(pair, [r.row.setting("restarts") or 1 for r in pair]) for pair in _pairs(e, "restarts", "stop")]
    pairs = [pair for pair, starts in alike if starts[0] == 1 < starts[1]]
    if not pairs:
        also = [] if e.of("pgd", restarts=1) else [e.attack("pgd")]
        return not_run("no attack with and without restarts", Line.joined([*also, e.attack("pgd", restarts=5)]))
    one, more = max(pairs, key=lambda pair: pair[1].row.setting("restarts"))
    n, starts = common(one, more), more.row.setting("restarts")
    gain = _rate(more, n) - _rate(one, n)
    said = f"{one.row.attack} {percent(_rate(one, n))}, with {starts} starts {count(more.wrong[:n])} wrong"
    return either(gain <= POINT, said, _again(e, more, restarts=4 * starts))


def monotone(e: Evidence) -> Verdict:
    """R9: a larger ball is never safer, for attacks of many steps."""
    curves = [(by_eps, label) for by_eps, label in e.at_any_eps(*MANY_STEPS) if len(by_eps) > 1]
    if not curves:
        radii = ",".join(f"{as_text(round(share * e.eps, 12))}" for share in (0.25, 0.5, 0.75, 1))
        command = e.attack("pgd", eps=radii) if e.headline is None else _again(e, e.headline, eps=radii)
        return not_run("no attack of many steps at two eps", command)
    falls, said = 0.0, ""
    for by_eps, label in curves:
        n = common(*by_eps.values())
        rates = [_rate(r, n) for r in by_eps.values()]
        falls = max([falls, *(a - b for a, b in pairwise(rates))])
        points = ", ".join(f"{x:g} {percent(y)}" for x, y in zip(by_eps, rates, strict=True))
        said = f"{label}: {points} of {n}" if label.startswith(ENSEMBLE) or not said else said
    said = f"{said}; curves {len(curves)}, largest fall {100 * falls:.1f} points"
    return either(falls <= POINT, said, e.attack("pgd", steps=200))


def large_eps(e: Evidence) -> Verdict:
    """R9: with half of the pixel range to move in, no classifier is better than a guess."""
    least = 0.5 if e.at[0] == "linf" else 0.5 * math.sqrt(math.prod(e.results[0].made.images.shape[1:]))
    large = [r for by_eps, _ in e.at_any_eps(*MANY_STEPS) for x, r in by_eps.items() if x >= least - 1e-9]
    if not large:
        return not_run(f"nothing at eps {as_text(least)}", e.attack("pgd", eps=as_text(least), objective="margin"))
    best, guess = max(large, key=lambda r: float(r.wrong.mean())), 1 / e.clean.outputs.logits.shape[1]
    said = f"{best.label} at eps {as_text(best.row.eps)}: {count(best.wrong)} wrong; a guess {percent(1 - guess)}"
    chance = 1 - guess - 2 * math.sqrt(guess * (1 - guess) / len(best.wrong))
    stronger = e.attack("apgd", eps=as_text(least), objective="margin", targets=9)
    return either(float(best.wrong.mean()) >= chance, said, stronger)


def _rate(result: Result, n: int) -> float:
    return float(result.wrong[:n].mean())


def _pairs(e: Evidence, *but: str) -> list[tuple[Result, Result]]:
    """Pairs of results of one iterative attack that differ in nothing but these settings."""

    def others(r: Result) -> dict[str, Any]:
        return {k: v for k, v in r.row.settings.items() if k not in but}

    return [(a, b) for a in e.of(*ITERATIVE) for b in e.of(a.row.attack) if others(a) == others(b)]


def _again(e: Evidence, result: Result, *, eps: str | None = None, **changes: Any) -> Line:
    """The command of the same attack with other settings."""
    settings = {k: v for k, v in result.row.settings.items() if k != "norm"} | changes
    return e.attack(result.row.attack, eps=eps, n=result.row.n, **settings)
