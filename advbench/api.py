"""The toolkit in Python: evaluate a model on images in memory, and read, plot or print the result."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from advbench import catalog, metrics, runs
from advbench.data.sources.arrays import Images, Pair, splits_of
from advbench.device import Device, resolve_device
from advbench.errors import BadSetting, Diagnostic, UnknownName, warn
from advbench.progress import Quiet, Terminal
from advbench.report import write
from advbench.runs import AdaptiveRow, AttackRow, VerifyRow, artifacts, as_json
from advbench.settings import convert, number
from advbench.study.attack_rows import weakness
from advbench.study.evaluation import evaluating
from advbench.study.options import Entry, Evaluate
from advbench.study.parsing import entry, listed, text
from advbench.study.request import DETECTORS, EPS
from advbench.study.selection import Found, attack_rows
from advbench.study.verify import verify_found
from advbench.study.workspace import Workspace
from advbench.supplied.isolation import own_state

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """What an evaluation found. Where no folder was named for it, it is deleted together with this object.

    rows      as `advbench verify --json` prints them: attack x detector x population
    attacks   as `advbench attack --json` prints them, by the name of the attack's file
    findings  what is doubtful about the model or the data; each was a warning too
    """

    rows: Sequence[VerifyRow]
    attacks: Mapping[str, AttackRow]
    findings: Sequence[Diagnostic]
    _found: Found = field(repr=False)
    _detectors: Sequence[str] = field(repr=False)
    _workspace: Workspace = field(repr=False)
    _keep: object = field(repr=False)

    def table(self, population: str = "all") -> pd.DataFrame:
        """A line for each attack and detector; rates are fractions, what is undefined is NaN.

        knows                             the detector that the attack knows, None for a careless one
        clean_error_rate, error_rate      misclassified before and after the attack, whatever a detector says
        undetected_error_rate, _low, _high  misclassified and accepted at the fpr of an attack that knows this
                                          detector; NaN for attacks that do not

        `population` is all, successful or failed; raises UnknownName for another.
        """
        import pandas as pd

        if population not in POPULATIONS:
            raise UnknownName("population", population, POPULATIONS)
        lines = []
        for row in self.rows:
            if row.population == population:
                attack = next(r for r in self.attacks.values() if r.is_attack_of(row) and r.n == row.n_clean)
                adaptive = attack if isinstance(attack, AdaptiveRow) else None
                aimed = adaptive if adaptive and adaptive.detector == row.detector else None
                more = {
                    "knows": adaptive and adaptive.detector,
                    "clean_error_rate": attack.clean_error_rate,
                    "error_rate": attack.error_rate,
                    "undetected_error_rate": aimed and aimed.undetected_error_rate,
                    "undetected_error_low": aimed and aimed.undetected_error_low,
                    "undetected_error_high": aimed and aimed.undetected_error_high,
                    "clean_rejected": aimed and aimed.clean_rejected,
                }
                lines.append(as_json(row) | more)
        frame = pd.DataFrame(lines)
        return frame.astype({c: float for c in frame.columns if c.startswith(_FIGURES)})

    def roc(self, attack: str, detector: str) -> metrics.Roc:
        """The ROC of a detector on an attack (its file's name, or the attack's where there is one of that name)."""
        names = [name for name, row in self.attacks.items() if attack in (name, row.attack)]
        if len(names) != 1:
            raise UnknownName("attack (by the name of its file)", attack, self.attacks)
        if detector not in self._detectors:
            raise UnknownName("detector of this evaluation", detector, self._detectors)
        table = artifacts.by_source(artifacts.read_scores(self._found.run))
        clean, attacked = (artifacts.scores_of(table, detector, source) for source in ("test", names[0]))
        return metrics.roc(clean[: len(attacked)], attacked)

    def report(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the HTML page to `path`: a file, or a folder for index.html; returns the page's path.

        Raises BadSetting where a page over other runs lies there, unless `overwrite` says to replace it.
        """
        page = Path(path)
        page = page if page.suffix in (".html", ".htm") else page / "index.html"
        name = self._found.run.model.dataset
        return write.report(name, [self._found], self._detectors, self._workspace, page=page, overwrite=overwrite)[0]


POPULATIONS = tuple(metrics.populations(np.ones(0, bool), np.ones(0, bool)))
_FIGURES = ("eer", "auroc", "tpr", "fpr", "error", "undetected", "clean_")


class _Kept:
    """The folder of results: the named one, or one that is deleted together with this object."""

    def __init__(self, named: str | Path | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="advbench-") if named is None else named)
        if named is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def evaluate(
    model: nn.Module,
    images: Images,
    labels: Images,
    attacks: Entries = None,
    detectors: str | Sequence[str] | None = None,
    *,
    train: Pair | None = None,
    calibration: Pair | None = None,
    classes: Sequence[str] | int | None = None,
    eps: float = EPS,
    fpr: float | None = None,
    n: int | None = None,
    features: str | None = None,
    mean: Channels = None,
    std: Channels = None,
    name: str = "data",
    runs_dir: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 256,
    verbose: bool = False,
) -> Result:
    """Attack a model and say what its detectors notice.

    model         images float32 [b c h w] in [0, 1] to logits [b k], on any device. It is evaluated in evaluation
                  mode and float32; afterwards it and torch's global settings are as they were
    images        test images float32 [n c h w] in [0, 1], labels int64 [n]; tensors or arrays
    attacks       names, or tables such as {"name": "pgd", "eps": 4 / 255, "steps": 40}; default: FGSM, and the
                  ensemble that knows each detector, on at most 200 images
    detectors     names; default: max-posterior, energy and, where there is a training part, mahalanobis
    train         (images, labels) that detectors of features are fitted on; not needed by those of logits alone
    calibration   (images, labels) that fix the thresholds; default: a stratified half of the test images, which are
                  then not attacked. The model must not have seen them.
    classes       names or number; default: the largest label and those below it, and without `train` those that the
                  model knows beyond, up to twice as many
    eps, fpr      of the attacks that do not say otherwise; fpr None: 5 %, and of the default attacks 10 % where there
                  are fewer than 200 calibration images (with fewer than 100, those that want one are not run)
    n             attack the first n test images; default: all
    features      layer whose output is the features; default: the input of the last layer
    mean, std     the model is given (image - mean) / std, one value or one a channel; eps stays in units of [0, 1]
    runs_dir      where results are kept, so that the same call goes on from there; default: nowhere

    device        cpu, cuda, cuda:1; default: the GPU that the model is on, else a GPU if there is one, else the CPU

    What is doubtful about model or data is a warning (UserWarning) and in `Result.findings`.

    Raises BadData for images or labels in another form, BadSetting for settings, and for a model that the
    inspection refuses; each in one sentence.
    """
    if not isinstance(model, nn.Module):
        raise BadSetting(f"model is a {type(model).__name__}; give a torch.nn.Module from images to logits")
    with own_state():
        splits = splits_of(images, labels, train, calibration, classes, name)
        if detectors is None:  # of the default ones those that can be fitted, which takes a training part for some
            fitted_on = {d: catalog.load("detector", d).fitted_on for d in DETECTORS}
            detectors = [d for d, on in fitted_on.items() if train is not None or on == "nothing"]
        keep = _Kept(runs_dir)
        workspace = Workspace(
            runs_dir=keep.folder,
            device=_device_of(model, device),
            batch_size=convert(batch_size, int, "batch_size"),
            progress=Terminal() if verbose else Quiet(),
        )
        asked = Evaluate(
            name=text(name, "name"),
            attacks=None if attacks is None else tuple(entry(one, "attack") for one in listed(attacks, "attack")),
            detectors=tuple(text(one, "detectors") for one in listed(detectors, "detectors")),
            eps=(number(eps, "eps"),),
            fpr=None if fpr is None else (number(fpr, "fpr"),),
            n=convert(n, int | None, "n"),
            features=None if features is None else str(features),
            mean=_channels(mean, "mean"),
            std=_channels(std, "std"),
        )
        open_ = classes is None and train is None
        with evaluating(asked, workspace, model, splits, classes_open=open_) as study:
            weak = filter(None, map(weakness, study.attack()))
            (supplied,), names = study.models(), tuple(choice.file_name for choice in study.attacks)
            run = runs.load(workspace.runs_dir / supplied.run_name(study.fingerprint))
        findings = *supplied.findings, *(warn("weak-attack", text) for text in weak)
        known, found = attack_rows(run), Found(run, names)
        verified = verify_found([found], study.spec.detectors, workspace.progress)
    for finding in findings:
        warnings.warn(finding.text, stacklevel=2)
    rows = {a: known[a] for a in found.attacks}
    return Result(verified, rows, findings, found, study.spec.detectors, workspace, keep)


Channels = float | Sequence[float] | None
Entries = Entry | Sequence[Entry] | None


def _channels(values: Channels, name: str) -> tuple[float, ...] | None:
    """One finite number, or one a channel."""
    if values is None:
        return None
    return tuple(number(value, name) for value in np.ravel(np.asarray(values)).tolist())


def _device_of(model: nn.Module, name: str | None) -> Device:
    """The device of that name; for None the GPU that the model is on, else the usual one. Raises BadSetting."""
    own = next((t.device for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"), None)
    wanted = own if name is None else name
    return resolve_device(None if wanted is None else str(wanted))
