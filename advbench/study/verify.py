"""Score one run's clean and attacked images with every detector, and turn scores into verify rows.

Only files are read: the network does not run again. What was already scored is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from advbench import metrics
from advbench.detection import applicable, fit, score
from advbench.errors import Damaged
from advbench.progress import Advance, Progress, Quiet
from advbench.runs import MANIFEST, Attacked, AttackRow, Run, VerifyRow, artifacts, as_json, locks, repair, to_json
from advbench.runs.artifacts import METRICS, Cells, ScoredCell, Threshold, scored_cells
from advbench.study import selection
from advbench.study.selection import Found, lacking_for_detector
from advbench.types import Adversarials, Outputs

TABLE_FPRS = (0.01, 0.05, 0.10)


def verify(
    run: Run,
    attacks: Sequence[str],
    detectors: Sequence[str],
    progress: Progress = Quiet(),  # noqa: B008
) -> list[VerifyRow]:
    """The verify rows of these attack files x detectors x populations; computes and stores what is missing.

    Scores that are damaged are computed again, and `progress` is told. Raises Damaged for a file that scores are made
    from, of those too that rows already computed were made from; BadRun where a stored row is not what the stored
    outputs and scores say. (Intervals, and figures that a detector must be fitted for, are not computed again.)
    """
    for step in ("train", "outputs"):
        run.has(step)
    test = artifacts.read_part(run, "test")
    groups = {attack: _groups(checked_attack(run, attack, test), test) for attack in attacks}
    known = scored_cells(run) if repair.is_whole(run, "verify", progress.say) else {}
    wanted = [(a, d) for a in attacks for d in detectors]
    missing = [pair for pair in wanted if not _is_current(run, known, *pair)]
    _check_cells(run, {pair: known[pair] for pair in dict.fromkeys(wanted).keys() - missing}, groups, len(test))
    if missing:
        with progress.bar("scores", len(missing) + 2 * len({d for _, d in missing})) as advance:
            cells, table = _compute(run, missing, groups, advance)
        known |= cells
        if run.has("verify"):
            old, keys = artifacts.read_scores(run), ["detector", "source"]
            fresh = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
            table = pd.concat([old[~pd.MultiIndex.from_frame(old[keys]).isin(fresh)], table], ignore_index=True)
        kept = artifacts.Metrics(cells=tuple(known.values()))
        scores = table.to_parquet(index=False, compression="zstd")
        files = {artifacts.SCORES: scores, METRICS: to_json(as_json(kept, whole=False))}
        run.write("verify", files, info={"resamples": metrics.RESAMPLES, "bootstrap_seed": 0})
    return [row for key in wanted for row in known[key].rows]


def is_verified(run: Run, attacks: Sequence[str], detectors: Sequence[str]) -> bool:
    """Whether a run holds the verify rows of these attack files as they are x detectors; False for damaged ones."""
    try:
        known = scored_cells(run)
    except Damaged:
        return False
    return all(_is_current(run, known, a, d) for a in attacks for d in detectors)


def _is_current(run: Run, known: Cells, attack: str, detector: str) -> bool:
    cell, made = known.get((attack, detector)), run.listed(f"attacks/{attack}.safetensors")
    return cell is not None and made is not None and cell.sha256 == made.sha256


def known(run: Run) -> list[VerifyRow]:
    """The verify rows that a run holds already, of detectors that the plug-ins at hand can read."""
    readable = [(d, c) for (_, d), c in scored_cells(run).items() if lacking_for_detector(d) is None]
    return [row for _, c in readable for row in c.rows]


def checked_attack(run: Run, attack: str, test: artifacts.Part) -> Adversarials:
    """A stored attack; raises BadRun where its row is not what its outputs say, or its labels are not the test's."""
    made = artifacts.read_adversarials(run, attack)
    n = len(made.labels)
    if not torch.equal(made.labels, test.labels[:n]) or made.outputs.logits.shape[1] != test.outputs.logits.shape[1]:
        path = run.folder / f"attacks/{attack}.safetensors"
        raise artifacts.unsound(path, "its labels are not those of the test images")
    row = run.attack_row(attack)
    _compare(row, as_json(counts(row, made, test.outputs.take(slice(n)))), run.folder / MANIFEST, f"attack {attack}")
    return made


def _check_cells(run: Run, cells: Cells, groups: Mapping[str, Mapping[str, metrics.Mask]], n_test: int) -> None:
    """Raise BadRun where verify rows are not what scores.parquet and each attack's populations say."""
    if not cells:
        return
    n_calibration = len(artifacts.read_part(run, "calibration"))
    columns = artifacts.by_source(artifacts.read_scores(run))
    for (attack, detector), cell in cells.items():
        row = run.attack_row(attack)
        scores = [artifacts.scores_of(columns, detector, source) for source in ("calibration", "test", attack)]
        if [len(s) for s in scores] != [n_calibration, n_test, row.n]:
            raise artifacts.unsound(run.folder / artifacts.SCORES, f"it is of other images than {attack}")
        again = rows_of(row, detector, scores[0], scores[1][: row.n], scores[2], groups[attack], intervals=False)
        if len(cell.rows) != len(again):
            raise artifacts.unsound(run.folder / METRICS, f"it has {len(cell.rows)} rows of {attack}, {detector}")
        for written, found in zip(cell.rows, again, strict=True):
            figures = {k: v for k, v in as_json(found).items() if not k.endswith(("_low", "_high"))}
            _compare(written, figures, run.folder / METRICS, f"{attack}, {detector}")


def _compare(row: Attacked, found: Mapping[str, Any], path: Path, what: str) -> None:
    written = as_json(row)
    for key, value in found.items():
        said = written[key]
        near = isinstance(said, float) and isinstance(value, float) and abs(said - value) < 1e-9
        if said != value and not near:
            raise artifacts.unsound(path, f"{what}: {key} is {said}, and {value} by what is stored")


def _groups(made: Adversarials, test: artifacts.Part) -> dict[str, metrics.Mask]:
    correct = (test.outputs.predictions == test.labels)[made.index].numpy()
    return metrics.populations(correct, made.succeeded.numpy())


def counts(about: Attacked, made: Adversarials, clean: Outputs) -> AttackRow:
    """What an attack did to the labels, as its row; `clean` are the outputs of its images as they were.

    An ensemble's error counts every image that one of its members, at any point it tried, made wrong.
    """
    correct = (clean.predictions == made.labels).numpy()
    wrong = (made.outputs.predictions != made.labels).numpy()
    if made.misclassified is not None:
        wrong = wrong | made.misclassified.numpy()
    return AttackRow(
        model=about.model, attack=about.attack, settings=about.settings, norm=about.norm, eps=about.eps,
        n=len(made.labels),
        clean_error_rate=float((~correct).mean()), error_rate=float(wrong.mean()),
        success_rate=metrics.rate(wrong, correct),
        target_rate=None if made.targets is None else metrics.rate(made.succeeded.numpy(), correct),
        zero_gradients=None if made.zero_gradients is None else int(made.zero_gradients.sum()),
        saturated=int(made.saturated.sum()),
    )  # fmt: skip


def _compute(
    run: Run, pairs: Sequence[tuple[str, str]], groups: Mapping[str, Mapping[str, metrics.Mask]], advance: Advance
) -> tuple[Cells, pd.DataFrame]:
    train, calibration_part, test = (artifacts.read_part(run, name) for name in artifacts.PARTS)
    fitted = {name: fit(run, name, train) for name in dict.fromkeys(d for _, d in pairs)}
    clean: dict[tuple[str, str], metrics.Array] = {}
    tables: list[pd.DataFrame] = []

    def scored(name: str, source: str, outputs: Outputs, index: Tensor, labels: Tensor) -> metrics.Array:
        step = len(tables)
        scores = score(name, fitted[name], outputs, source, lambda share: advance(step + share, f"{name}: {source}"))
        columns = {"detector": name, "source": source, "index": index.numpy(), "label": labels.numpy()}
        tables.append(pd.DataFrame({**columns, "prediction": outputs.predictions.numpy(), "score": scores}))
        return scores

    for name in fitted:
        for source, part in (("calibration", calibration_part), ("test", test)):
            clean[name, source] = scored(name, source, part.outputs, torch.arange(len(part)), part.labels)
    cells, of = {}, dict[str, list[str]]()
    for attack, name in pairs:
        of.setdefault(attack, []).append(name)
    for attack in of:
        made = artifacts.read_adversarials(run, attack)
        for name in of[attack]:
            attacked = scored(name, attack, made.outputs, made.index, made.labels)
            before, calibration = clean[name, "test"][made.index.numpy()], clean[name, "calibration"]
            cells[attack, name] = ScoredCell(
                source=attack,
                detector=name,
                sha256=run.steps[f"attack {attack}"].files[f"attacks/{attack}.safetensors"].sha256,
                rows=tuple(rows_of(run.attack_row(attack), name, calibration, before, attacked, groups[attack])),
                thresholds={f"{f:.2f}": _json_number(metrics.threshold_at(f, calibration)) for f in TABLE_FPRS},
                eer_threshold=_json_number(metrics.roc(before, attacked).eer_threshold),
            )
    return cells, pd.concat(tables, ignore_index=True)


def rows_of(
    about: Attacked,
    detector: str,
    calibration: metrics.Array,
    clean: metrics.Array,
    attacked: metrics.Array,
    groups: Mapping[str, metrics.Mask],
    *,
    intervals: bool = True,
) -> list[VerifyRow]:
    """Verify rows of one attack and one detector's scores, one for each population."""
    thresholds, rows = [metrics.threshold_at(f, calibration) for f in TABLE_FPRS], []
    for population, members in groups.items():
        scores = attacked[members]
        tpr01, tpr05, tpr10 = (metrics.rejected(scores, threshold) for threshold in thresholds)
        row = VerifyRow(
            model=about.model, attack=about.attack, settings=about.settings, norm=about.norm, eps=about.eps,
            detector=detector, population=population, n_clean=len(clean), n_attacked=len(scores),
            n_nonfinite=int((~np.isfinite(clean)).sum() + (~np.isfinite(scores)).sum()),
            eer=None, eer_low=None, eer_high=None, auroc=None, auroc_low=None, auroc_high=None,
            tpr_at_fpr01=tpr01, tpr_at_fpr05=tpr05, tpr_at_fpr10=tpr10,
            fpr05_realised=metrics.rejected(clean, thresholds[1]),
        )  # fmt: skip
        if len(scores):
            curve = metrics.roc(clean, scores)
            row = replace(row, eer=curve.eer, auroc=curve.auroc)
            if intervals:
                spread = metrics.bootstrap(clean, scores, np.flatnonzero(members), rng=np.random.default_rng(0))
                row = replace(row, eer_low=spread.eer.low, eer_high=spread.eer.high)
                row = replace(row, auroc_low=spread.auroc.low, auroc_high=spread.auroc.high)
        rows.append(row)
    return rows


def _json_number(value: float | None) -> Threshold:
    """JSON has no infinity: it is written as text."""
    return value if value is None or np.isfinite(value) else "inf" if value > 0 else "-inf"


def verify_run(run: Run, attacks: Sequence[str], detectors: Sequence[str], progress: Progress) -> list[VerifyRow]:
    """Verify rows of one run, saying so where something has to be computed, or where a detector does not apply."""
    for line in selection.left_out(run):
        progress.say(line)
    able = applicable(run, detectors)
    if len(able) < len(detectors):
        left = ", ".join(d for d in detectors if d not in able)
        progress.say(f"{run.name}: without {left}, which this run has nothing to fit on")
    progress.say(f"{run.name}: {len(attacks)} attacks x {len(able)} detectors")
    # beside attacks on the same model, which it hinders no more than they do it
    with locks.hold(run.folder, step="verify", writes=not is_verified(run, attacks, able)):
        return verify(run, attacks, able, progress)


def verify_found(found: Sequence[Found], detectors: Sequence[str], progress: Progress) -> list[VerifyRow]:
    """Verify rows of runs found on disk."""
    return [row for one in found for row in verify_run(one.run, one.attacks, detectors, progress)]
