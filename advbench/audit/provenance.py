"""Records: float32, settings, rechecked images, parity with other libraries, canaries (R15, R18 to R21)."""

from dataclasses import replace

import torch

from advbench.audit import POINT, Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import ENSEMBLE, common, count
from advbench.detection import undetected_errors
from advbench.errors import AdvbenchError, MissingLibrary
from advbench.evasion import check_perturbation
from advbench.formatting import as_text, percent
from advbench.study.command_lines import Line
from advbench.study.selection import choice_of
from advbench.types import ImageSet

ART_PGD = "art:ProjectedGradientDescentPyTorch"
PARITY_STEPS = 40
ENOUGH = 1000  # images put through the model again
SELFTEST = Line.of("selftest")


def eight_bit(e: Evidence) -> Verdict:
    """R15: images are kept in float32; what is left of the attack once they are rounded to 255ths stands beside."""
    found = e.headline or max(e.results, key=lambda r: r.row.eps, default=None)
    if found is None or e.victim is None:
        return not_run("no attacked images and model at hand", e.aware(ENSEMBLE))
    made, n = found.made, min(len(found.made.images), ENOUGH)
    if not n:
        return not_run("no image was kept (--keep-images 0)", e.aware(ENSEMBLE))
    rounded = e.victim().outputs((made.images[:n].float() * 255).round() / 255)
    wrong = (rounded.predictions != made.labels[:n]).numpy()
    before = (made.outputs.predictions != made.labels)[:n].numpy()
    stored = str(made.images.dtype).removeprefix("torch.")
    said = f"{found.row.attack} eps {as_text(found.row.eps)}, stored as {stored}: wrong "
    said += f"{percent(float(before.mean()))}, in 8 bits {count(wrong)}"
    if found.detector is not None:
        guard = e.guard(e.detector, e.fpr)
        lost = undetected_errors(rounded, made.labels[:n], guard).numpy()
        said += f"; undetected and wrong {percent(float(found.lost(guard)[:n].mean()))}, in 8 bits {count(lost)}"
    return either(made.images.dtype == torch.float32, said, e.aware(ENSEMBLE))


def settings(e: Evidence) -> Verdict:
    """R18: each row's settings make the same attack again, and each image's result is kept."""
    if not e.results:
        return not_run("no attack", e.aware(ENSEMBLE))
    broken, unseen = [], list[str]()
    for r in e.results:
        try:
            choice = choice_of(r.row)
        except MissingLibrary:
            unseen.append(r.row.attack)
            continue
        except (AdvbenchError, TypeError, ValueError) as error:
            broken.append(f"{r.label}: {error}")
            continue
        whole = replace(choice, n=None) if r.row.n == len(e.clean) else choice
        if r.name not in (None, choice.file_name, whole.file_name):
            broken.append(f"{r.name} is not what its settings make")
        images = len(r.made.images) if r.made.clean is None else r.row.n
        if not len(r.made.outputs) == images == r.row.n:
            broken.append(f"{r.label}: {images} images where its row says {r.row.n}")
    said = f"{len(e.results)} attacks, {sum(r.row.n for r in e.results)} results of single images"
    said += f"; without their library, not looked at: {', '.join(unseen)}" * bool(unseen)
    return either(not broken, f"{said}; broken: {'; '.join(broken) or 'none'}", e.aware(ENSEMBLE))


def rechecked(e: Evidence) -> Verdict:
    """R19: norm, range, type and labels of the stored images, checked anew against the clean ones."""
    if not e.results or e.images is None:
        why = "no attack" if not e.results else "the clean images are not at hand: name their folder with --data-dir"
        again = Line.of("audit", e.model.run, "--data-dir", "data")
        return not_run(why, again if e.results else e.aware(ENSEMBLE))
    held, failed = 0, []
    for r in e.results:
        made, n = r.made, len(r.made.images)
        clean = e.images.take(slice(n)) if made.clean is None else ImageSet("", made.clean, e.clean.labels[:n], ())
        n = len(clean)
        part = replace(made, images=made.images[:n], index=made.index[:n], labels=made.labels[:n], targets=None)
        try:
            check_perturbation(choice_of(r.row).attack, clean, part)
            held += n
        except MissingLibrary:
            continue  # `held` says so
        except AdvbenchError as error:
            failed.append(str(error))
    said = f"{held} of {sum(r.row.n for r in e.results)} stored images of {len(e.results)} attacks checked"
    lost = sum(r.row.n - len(r.made.images) for r in e.results)
    said += f"; {lost} were not kept (--keep-images) and could not be" * bool(lost)
    return either(not failed, f"{said}; broken: {failed[0] if failed else 'none'}", e.attack("fgsm"))


def parity(e: Evidence) -> Verdict:
    """R20: PGD does what the same attack of ART does, at equal settings on this model."""
    tests = 'the tests hold FGSM and PGD to ART and foolbox: make test ARGS="-k parity"'
    size = 2.5 * e.eps / PARITY_STEPS
    ours = e.of("pgd", steps=PARITY_STEPS, step=None, restarts=1, objective="ce", random_start=True)
    theirs = e.of(ART_PGD, max_iter=PARITY_STEPS, num_random_init=1)
    theirs = [r for r in theirs if abs((r.row.setting("eps_step") or 0) - size) < 1e-6]
    if not ours or not theirs:
        same = e.attack(ART_PGD, n=100, max_iter=PARITY_STEPS, eps_step=round(size, 8), num_random_init=1)
        return not_run(f"not compared on this model; {tests}", Line.joined([e.attack("pgd")] * (not ours) + [same]))
    n = common(ours[0], theirs[0])
    gap = abs(float(ours[0].wrong[:n].mean()) - float(theirs[0].wrong[:n].mean()))
    said = f"PGD {count(ours[0].wrong[:n])} wrong, ART's {percent(float(theirs[0].wrong[:n].mean()))}; {tests}"
    return either(gap <= POINT + 1e-9, said, e.attack("pgd", restarts=5))


def canaries(e: Evidence) -> Verdict:
    """R21: the evaluation sees through models and detectors made to fool it."""
    if e.selftest is None:
        return not_run("no selftest beside this run", SELFTEST)
    rows = e.selftest.rows
    missed, whose = sum(not r.met for r in rows), len({r.canary for r in rows})
    said = f"{whose} canaries, {len(rows)} expectations, missed {missed} (advbench {e.selftest.advbench})"
    return either(bool(rows) and not missed, said, SELFTEST)
