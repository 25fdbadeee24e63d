"""Whether gradients are masked: attacks without gradients must not do better (R10)."""

import torch

from advbench.audit import POINT, Verdict, either, not_run
from advbench.audit.evidence import Evidence
from advbench.audit.results import ENSEMBLE, ITERATIVE, common, count, worst
from advbench.formatting import as_text, percent
from advbench.study.command_lines import Line
from advbench.types import Outputs

FEW = 100  # images for attacks by queries alone


def black_box(e: Evidence, attack: str, words: str, command: Line) -> Verdict:
    """R10: what an attack without the model's gradient finds, the gradient finds too; else the gradient is masked."""
    white = e.of(*ITERATIVE)
    found = e.of(attack)
    if not found or not white:
        missing = [words] * (not found) + ["a white-box attack"] * (not white)
        commands = [e.attack("pgd")] * (not white) + [command] * (not found)
        return not_run(f"missing at eps {as_text(e.eps)}: {', '.join(missing)}", Line.joined(commands))
    n = common(found[0], *white)
    blind, seeing = found[0].wrong[:n], worst(white, n)
    only = int((blind & ~seeing).sum())
    said = f"{words} {count(blind)} wrong, white-box {percent(float(seeing.mean()))}; {only} found by it alone"
    if float(blind.mean()) - float(seeing.mean()) <= POINT:
        return Verdict("met", said)
    return Verdict("not met", f"{said}: gradients are masked", e.attack("apgd", objective="margin", targets=9))


def gradient_free(e: Evidence) -> Verdict:
    """R10, random search; it moves in L-inf alone, and `decision_based` stands for it elsewhere."""
    if e.at[0] != "linf":
        return Verdict("not run", "square moves in L-inf alone; see the attack by labels alone")
    return black_box(e, "square", "square", e.attack("square", n=FEW))


def decision_based(e: Evidence) -> Verdict:
    """R10, labels alone."""
    name = "art:HopSkipJump"
    command = e.attack(name, n=FEW, norm=e.at[0], max_iter=10, max_eval=1000, init_eval=10)
    return black_box(e, name, "HopSkipJump", command)


def transfer(e: Evidence) -> Verdict:
    """R10, made on another model trained on the same part, which a supplied model has none of."""
    if e.supplied:
        return Verdict("not run", "a supplied model has no surrogate; see the attacks by queries and by labels alone")
    source = "lgm" if e.model.loss == "softmax" else "softmax"
    return black_box(e, "transfer", "transfer", e.attack("transfer", source=source))


def detector_search(e: Evidence) -> Verdict:
    """R10 against the detector: random search loses no image that the gradients of model and score do not."""
    if e.at[0] != "linf":
        return Verdict("not run", "detector-square moves in L-inf alone; no random search on a score is offered here")
    top, found = e.headline, [r for r in e.of("detector-square") if r.detector == e.detector]
    if top is None or not found:
        commands = [e.aware(ENSEMBLE)] * (top is None) + [e.aware("detector-square", n=FEW)] * (not found)
        return not_run("detector-square not run by itself", Line.joined(commands))
    guard, n = e.guard(e.detector, e.fpr), common(found[0], top)
    blind, seeing = found[0].lost(guard)[:n], top.lost(guard)[:n]
    members = list(top.adaptive.members)
    if top.made.member is not None and "detector-square" in members:
        seeing &= top.made.member.numpy()[:n] != members.index("detector-square")
    said = f"random search loses {count(blind)}, gradients {percent(float(seeing.mean()))} ({e.detector})"
    good = float(blind.mean()) - float(seeing.mean()) <= POINT
    return either(good, said, e.aware(ENSEMBLE, budget="thorough"))


def stand_ins(e: Evidence) -> Verdict:
    """R10: EoT where passes differ, BPDA where a score has no gradient; that it has one is tried out."""
    if e.victim is None:
        return not_run("the model is not at hand", e.attack("pgd", samples=20))
    victim, said, good = e.victim(), ["two passes over an image agree"], True
    if victim.stochastic:
        averaged = [r for r in e.results if (r.row.setting("samples") or 1) > 1]
        said, good = [f"two passes differ; {len(averaged)} attacks average over several"], bool(averaged)
    for name in e.detectors:
        guard, n = e.guard(name, e.fpr), min(FEW, len(e.clean))
        if guard.has_gradient:
            clean = e.clean.outputs.take(slice(n))
            outputs = Outputs(clean.features.clone().requires_grad_(), clean.logits.clone().requires_grad_())
            leaves = (outputs.features, outputs.logits)
            gradients = torch.autograd.grad(guard.differentiable_score(outputs).sum(), leaves, allow_unused=True)
            moves = torch.stack([g.flatten(1).any(dim=1) for g in gradients if g is not None]).any(dim=0)
            good &= bool(moves.double().mean() > 0.5)
            said.append(f"{name}: gradient on {int(moves.sum())} of {n} clean images")
        else:
            good = False
            said.append(f"{name}: no gradient and no stand-in")
    command = e.attack("pgd", samples=20) if victim.stochastic else e.aware("detector-square")
    return either(good, "; ".join(said), command)


def zero_gradients(e: Evidence) -> Verdict:
    """R10: beside an attack whose gradients vanish stands one of its kind whose gradients do not."""
    kinds = {"fgsm": e.of("fgsm"), "many steps": e.of(*ITERATIVE)}
    if not any(kinds.values()):
        return not_run(f"no gradient attack at eps {as_text(e.eps)}", e.attack("fgsm"))
    said, good, commands = [], True, []
    for kind, results in kinds.items():
        shares = [(r.row.zero_gradients or 0) / r.row.n for r in results]
        said += [f"{r.label} {percent(share)} of {r.row.n}" for r, share in zip(results, shares, strict=True)]
        if not shares or min(shares) <= POINT:
            continue
        if kind == "fgsm":
            tried = any(r.row.setting("exact_gradient") for r in results)
            command = e.attack("fgsm", exact_gradient=True)
        else:
            tried = any(r.row.setting("objective") not in (None, "ce") for r in results)
            command = e.attack("apgd", objective="margin")
        good &= not tried
        commands.append(command)
    text = f"images with an all-zero gradient: {'; '.join(said)}"
    if not commands:
        return Verdict("met", text)
    return not_run(text, Line.joined(commands)) if good else Verdict("not met", f"{text}: they vanish", commands[0])
