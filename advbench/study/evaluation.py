"""Evaluate a supplied model: a study of that one model, borrowed as long as the study lasts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import nn

from advbench import catalog
from advbench.data import SHARES, for_supplied, missing_classes
from advbench.data.sources import label
from advbench.detection import DEFAULT_FPR, calibration
from advbench.errors import BadRun, BadSetting, warn
from advbench.evasion import FromSurrogate
from advbench.metrics import least_calibration
from advbench.runs.manifest import Identity
from advbench.runs.repair import Say
from advbench.study.brought import NO_SURROGATE, SAMPLE, BroughtModel, bring
from advbench.study.options import Evaluate
from advbench.study.parsing import parse
from advbench.study.request import FEW, evaluation_table
from advbench.study.spec import AttackChoice, Spec, SuppliedModel
from advbench.study.study import LoadedData, Study, attacks_on, check_data, load
from advbench.study.workspace import Workspace
from advbench.supplied.features import NoFeatures, Supplied, tap
from advbench.supplied.isolation import borrowed, own_state
from advbench.types import Outputs, Splits


@contextmanager
def evaluating(
    options: Evaluate,
    workspace: Workspace,
    model: nn.Module | None = None,
    data: Splits | None = None,
    *,
    classes_open: bool = False,
) -> Iterator[Study]:
    """A study of one supplied model, `model` or the one that options name, on `data` or the data set they name.

    What options leave open is fitted to the images there are: the default attacks take no more of them, and the
    false-positive rate of their thresholds grows where calibration is small; where that cannot fix any, those that
    want a threshold are left out. `classes_open`: where the data name no classes and the model knows more, up to
    twice as many, those are the data's. Process and model then come back as they were.

    Calibration is the part given as such, else half of the test part, never images that the model may have seen.
    """
    if (options.mean is None) != (options.std is None):
        given, other, usual = ("std", "mean", "0") if options.mean is None else ("mean", "std", "1")
        raise BadSetting(
            f"{given} is given without {other}; the model is given (image - mean) / std, so write {other} = {usual} "
            "where it changes nothing"
        )
    with own_state():  # a loss that is tried out draws its weights
        spec = parse(evaluation_table(options))
    for name in spec.detectors:
        detector = catalog.load("detector", name)
        if detector.fitted_on == "head":  # refused by itself, before anything is attacked
            detector().fit(None, Outputs(torch.empty(0, 1), torch.empty(0, 2)), torch.empty(0, dtype=torch.long))
    if any(isinstance(choice.attack, FromSurrogate) for choice in spec.attacks):
        raise BadSetting(NO_SURROGATE)
    aimed = (choice.detector for choice in spec.attacks if choice.fpr is not None)
    detectors = list(dict.fromkeys(name for name in (*spec.detectors, *aimed) if name is not None))
    gradients = any(choice.attack.differentiates for choice in spec.attacks)
    say = workspace.progress.say
    with own_state(), ExitStack() as until:
        splits = for_supplied(load(spec, workspace)) if data is None else data
        for name in detectors:
            calibration.check_fittable(name, len(splits.train))
        if options.attacks is None:
            spec = replace(spec, attacks=tuple(_fitted(spec, splits, options.fpr is None, say)))
        check_data(spec, splits, workspace.progress)
        module, identity = bring(options, model, splits, say)
        kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()}
        text = f"the model's {', '.join(sorted(kinds))} weights are used as float32"
        findings = (warn("weights-type", text),) if kinds - {"float32"} else ()
        until.enter_context(borrowed(module, workspace.device))
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):  # cudnn's have no gradient in this mode
            until.enter_context(torch.backends.cudnn.flags(enabled=False))
        tapped = _tapped(module, splits, workspace, options, detectors)
        if classes_open:
            sample = splits.test.take(slice(SAMPLE)).load_all().to(workspace.device)
            splits = _with_classes(splits, tapped(sample).shape[1])
        name = label(spec.dataset) if data is None else data.test.name
        asked: dict[str, Any] = {"features": options.features, "mean": options.mean, "std": options.std}
        own = Identity(**identity, **asked, tapped=tapped.tap)
        loaded = LoadedData(splits, workspace.progress)
        # other code with the same weights is another model: where a run holds other outputs, the next is tried
        for number in count(1):
            supplied = SuppliedModel(name, own if number == 1 else replace(own, variant=number), spec.image_size)
            brought = BroughtModel(supplied, tapped, splits, workspace, gradients, findings)
            study = Study(spec, workspace, weights=(), data=loaded, supplied=brought)
            with suppress(BadRun):  # what goes on from it says what is wrong
                if not brought.gave(study.opened(supplied)):
                    say(
                        f"{brought.run_name(study.fingerprint)} is of a model of the same weights and other outputs: "
                        "the code was changed, so this one gets a run of its own"
                    )
                    continue
            break
        yield study


def _fitted(spec: Spec, splits: Splits, open_fpr: bool, say: Say) -> list[AttackChoice]:
    """The default attacks as the parts allow them."""
    few = len(splits.test) < FEW
    found = attacks_on(spec, splits)
    found = [replace(c, n=None) if few and c.n == FEW and c.detector is not None else c for c in found]
    if not open_fpr:
        return found
    n = len(splits.calibration)
    fpr = calibration.usual_fpr(n)
    if fpr is None and any(c.fpr is not None for c in found):
        say(
            f"{n} calibration images are too few to fix a threshold: the attacks that know a detector are left out; "
            f"{least_calibration(calibration.ATTACK_FPRS[-1])} or more allow them, and twice as many the usual "
            "threshold"
        )
    elif fpr not in (None, DEFAULT_FPR) and any(c.fpr is not None for c in found):
        say(
            f"{n} calibration images are too few for a threshold at {DEFAULT_FPR:.0%} false positives; the attacks "
            f"that know a detector are run at {fpr:.0%}"
        )
    return [c if c.fpr is None else replace(c, fpr=fpr) for c in found if c.fpr is None or fpr is not None]


def _tapped(
    module: nn.Module, splits: Splits, workspace: Workspace, options: Evaluate, detectors: Sequence[str]
) -> Supplied:
    """The model with its features; where no detector asks for them and none are found, the logits stand for them."""
    sample = splits.test.take(slice(SAMPLE)).load_all().to(workspace.device)
    try:
        made = tap(module, sample, features=options.features, mean=options.mean, std=options.std)
    except NoFeatures as error:
        fitted_on = {catalog.load("detector", name).fitted_on for name in detectors}
        if options.features is not None or "outputs" in fitted_on:
            raise
        workspace.progress.say(f"the logits stand for the features, which no detector asks for: {error}")
        made = Supplied(module, None, mean=options.mean, std=options.std).to(workspace.device)
    workspace.progress.say(f"features: {made.tap}")
    return made


def _with_classes(splits: Splits, k: int) -> Splits:
    """The parts with k numbered classes, where they have fewer and at least half of that, without names."""
    have = len(splits.test.classes)
    if splits.test.classes != tuple(map(str, range(have))) or not have < k <= 2 * have:
        return splits
    parts = {name: replace(getattr(splits, name), classes=tuple(map(str, range(k)))) for name in SHARES}
    splits = replace(splits, **parts)
    others = [finding for finding in splits.findings if finding.name != "missing-classes"]
    return replace(splits, findings=(*others, *missing_classes(splits.test)))
