"""Rows against what the stored files say, counted again here or by scikit-learn."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from advbench import catalog, metrics, runs
from advbench.errors import BadRun
from advbench.runs import Attacked, AttackRow, Run, VerifyRow, artifacts, as_json
from advbench.study.parsing import parse
from advbench.study.selection import Found
from advbench.study.study import Study
from advbench.study.verify import counts, rows_of, verify, verify_found
from advbench.study.workspace import Workspace
from advbench.types import Splits
from advbench.victim import Composed, Victim, head_of
from tests.helpers.records import AWARE, adversarials_of

CPU = torch.device("cpu")
Mask = NDArray[np.bool_]
DETECTORS = ("likelihood", "max-posterior")


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished study: its runs, attack rows, verify rows."""

    folder: Path
    attack_rows: list[AttackRow]
    rows: list[VerifyRow]

    def run(self, row: Attacked) -> Run:
        """The run a row is about."""
        return runs.load(self.folder / row.model.run)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("scoring")
    rows, attack_rows = [], []
    every = [{"name": "fgsm", "eps": [0.1, 0.3]}, {"name": "targeted-fgsm", "eps": 0.3}]
    for n, attacks in ((None, every), (60, every[1:])):
        spec = parse({
            "losses": ["softmax", {"name": "lgm", "covariance": "diagonal"}],
            "attacks": attacks,
            "training": {"epochs": 3},
            "n": n,
        })  # fmt: skip
        one = Study(spec, Workspace(runs_dir=folder, reports_dir=folder / "reports", device=CPU))
        attack_rows += one.attack()
        for model in spec.models():
            run = runs.load(folder / model.run_name(one.fingerprint))
            rows += verify(run, [choice.file_name for choice in spec.attacks], DETECTORS)
    return Result(folder, attack_rows, rows)


@pytest.fixture
def run(study: Result, tmp_path: Path) -> Run:
    """One of its runs, in a folder that may change."""
    name = next(row.model.run for row in study.rows if row.model.loss == "lgm")
    shutil.copytree(study.folder / name, tmp_path / name)
    return runs.load(tmp_path / name)


def attack_file(run: Run, row: Attacked, n: int) -> str:
    """The name of the file of a row's attack on n images."""
    (name,) = (a for a in run.attacks if (r := run.attack_row(a)).is_attack_of(row) and r.n == n)
    return name


def labels_before_and_after(run: Run, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True labels, predictions before and after an attack, and what counts as its success."""
    clean = load_file(run.folder / "outputs" / "test.safetensors")
    made = load_file(run.folder / "attacks" / f"{name}.safetensors")
    n = len(made["labels"])
    before, after = clean["logits"][:n].argmax(1), made["logits"].argmax(1)
    hit = after == made["targets"] if "targets" in made else after != made["labels"]
    return clean["labels"][:n], before, after, hit


def attacked(study: Result) -> Iterator[tuple[AttackRow, dict[str, Tensor], dict[str, Tensor]]]:
    """Each attack row with the stored tensors of the clean test images and of those it made."""
    for row in study.attack_rows:
        run = study.run(row)
        made = load_file(run.folder / "attacks" / f"{attack_file(run, row, row.n)}.safetensors")
        yield row, load_file(run.folder / "outputs" / "test.safetensors"), made


# -- attack rows -------------------------------------------------------------------------------------------------


def test_attack_rates_are_the_counts_in_the_stored_files(study: Result) -> None:
    assert len(study.attack_rows) == 2 * (3 + 1)
    for row in study.attack_rows:
        run = study.run(row)
        label, before, after, hit = labels_before_and_after(run, attack_file(run, row, row.n))
        correct = before == label
        assert row.n == len(label)
        assert row.clean_error_rate == pytest.approx(int((before != label).sum()) / row.n, abs=1e-12)
        assert row.error_rate == pytest.approx(int((after != label).sum()) / row.n, abs=1e-12)
        lost = int((correct & (after != label)).sum())
        assert row.success_rate == pytest.approx(lost / int(correct.sum()), abs=1e-12)
        if row.attack == "fgsm":
            assert row.target_rate is None
        else:
            reached = int((correct & hit).sum())
            assert row.target_rate == pytest.approx(reached / int(correct.sum()), abs=1e-12)


def test_the_populations_are_all_there_to_tell_the_rates_apart(study: Result) -> None:
    # a rate over all images and one over clean-correct ones differ only where some clean image is wrong
    for row in study.attack_rows:
        assert 0 < row.clean_error_rate < 1
        assert row.error_rate != row.success_rate


def test_vanished_gradients_and_saturated_posteriors_are_counted(study: Result) -> None:
    for row, clean, made in attacked(study):
        posterior = torch.softmax(clean["logits"][: row.n], dim=1)
        own = posterior[torch.arange(row.n), made["labels"]]
        assert row.saturated == int((own == 1).sum())
        assert row.zero_gradients == int(made["zero_gradients"].sum())


def test_an_image_that_did_not_move_had_no_gradient(study: Result, digits: Splits) -> None:
    for row, _, made in attacked(study):
        moved = (made["images"] - digits.test.load_all()[: row.n]).flatten(1).abs()
        assert float(moved.max()) == pytest.approx(row.eps, abs=1e-6)
        assert torch.equal(made["zero_gradients"], moved.max(dim=1).values == 0)
        assert float(made["images"].min()) >= 0
        assert float(made["images"].max()) <= 1
        assert torch.equal(made["labels"], digits.test.labels[: row.n])


def test_the_target_is_the_second_most_likely_class_of_the_clean_image(study: Result) -> None:
    for row, clean, made in attacked(study):
        assert ("targets" in made) == (row.attack == "targeted-fgsm")
        if "targets" in made:
            logits = clean["logits"][: row.n]
            assert (made["targets"] == logits.argsort(dim=1)[:, -2]).double().mean() > 0.99


def test_stored_outputs_are_what_the_stored_model_says_of_the_stored_images(study: Result) -> None:
    for row in study.attack_rows:
        run = study.run(row)
        weights = load_file(run.folder / "model.safetensors")
        network = catalog.load("network", run.trained.network)((1, 8, 8), 100)
        network.load_state_dict({k.removeprefix("network."): v for k, v in weights.items() if k[0] == "n"})
        head = head_of(run, 10)
        made = artifacts.read_adversarials(run, attack_file(run, row, row.n))
        outputs = Victim(Composed(network, head), shape=(1, 8, 8), classes=10, device=CPU).outputs(made.images)
        assert torch.allclose(outputs.features, made.outputs.features, rtol=1e-4, atol=1e-4)
        assert torch.allclose(outputs.logits, made.outputs.logits, rtol=1e-4, atol=1e-4)


# -- verify rows -------------------------------------------------------------------------------------------------


def each_cell(study: Result) -> list[tuple[VerifyRow, pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """Each verify row with its scores: calibration, clean, and attacked of its population."""
    cells = []
    for row in study.rows:
        run = study.run(row)
        table = pd.read_parquet(run.folder / "scores.parquet")
        table = table[table.detector == row.detector]
        name = attack_file(run, row, row.n_clean)
        clean = table[table.source == "test"].sort_values("index").head(row.n_clean)
        attacked = table[table.source == name].sort_values("index")
        label, before, _, hit = (part.numpy() for part in labels_before_and_after(run, name))
        correct: Mask = before == label
        members = {"all": np.full(len(label), True), "successful": correct & hit, "failed": correct & ~hit}
        cells.append((row, table[table.source == "calibration"], clean, attacked[members[row.population]]))
    return cells


def test_every_population_of_every_attack_and_detector_has_a_row(study: Result) -> None:
    assert len(study.rows) == 2 * (3 + 1) * 2 * 3
    keys = {(r.model.run, r.attack, r.eps, r.detector, r.population, r.n_clean) for r in study.rows}
    assert len(keys) == len(study.rows)
    assert {row.n_clean for row in study.rows} == {300, 60}


def test_eer_and_auroc_are_those_of_scikit_learn(study: Result) -> None:
    for row, _, clean, attacked in each_cell(study):
        assert (row.n_clean, row.n_attacked) == (len(clean), len(attacked))
        if not len(attacked):
            assert row.eer is row.auroc is row.eer_low is row.auroc_high is None
            continue
        truth = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
        scores = np.r_[clean.score, attacked.score]
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        # both as functions of the way along the curve, on a fine grid of it
        way = np.linspace(0, len(fpr) - 1, 400_001)
        false, missed = np.interp(way, range(len(fpr)), fpr), 1 - np.interp(way, range(len(fpr)), tpr)
        assert row.eer == pytest.approx(false[np.argmin(np.abs(false - missed))], abs=2e-4)
        assert row.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)


def test_intervals_hold_their_estimate(study: Result) -> None:
    for row in study.rows:
        if row.n_attacked > 20:
            own = as_json(row)
            for key in ("eer", "auroc"):
                assert 0 <= own[f"{key}_low"] <= own[key] <= own[f"{key}_high"] <= 1
                assert own[f"{key}_low"] < own[f"{key}_high"]


def test_true_positive_rates_use_thresholds_fixed_on_calibration_images(study: Result) -> None:
    for row, calibration, clean, attacked in each_cell(study):
        assert len(calibration) == 297
        ordered = sorted(calibration.score)
        for fpr, rate in ((0.05, row.tpr_at_fpr05), (0.10, row.tpr_at_fpr10)):
            threshold = ordered[math.ceil(298 * (1 - fpr)) - 1]
            if len(attacked):
                assert rate == pytest.approx(np.mean(attacked.score > threshold), abs=1e-12)
            else:
                assert rate is None
        assert row.fpr05_realised == pytest.approx(
            np.mean(clean.score > ordered[math.ceil(298 * 0.95) - 1]), abs=1e-12
        )


def test_a_rate_that_calibration_is_too_small_for_is_undefined(study: Result) -> None:
    assert {row.tpr_at_fpr01 for row in study.rows} == {None}  # 1 % wants 1,000 images, digits have 297


def test_a_cell_pairs_each_attacked_image_with_its_own_clean_one() -> None:
    rng, some = np.random.default_rng(0), np.arange(60) % 3 == 0
    clean = np.append(rng.normal(size=59), np.inf)
    attacked = clean + rng.exponential(size=60)
    rows = rows_of(AWARE, "made", clean, clean, attacked, {"all": some | ~some, "successful": some})
    paired = metrics.bootstrap(clean, attacked[some], np.arange(0, 60, 3), rng=np.random.default_rng(0))
    assert (rows[1].auroc_low, rows[1].auroc_high) == (paired.auroc.low, paired.auroc.high)
    assert [r.n_nonfinite for r in rows] == [2, 1]


def test_no_row_holds_nan(study: Result) -> None:
    assert "NaN" not in json.dumps(as_json([study.rows, study.attack_rows]))
    assert {row.n_nonfinite for row in study.rows} == {0}


# -- scores ------------------------------------------------------------------------------------------------------


def test_scores_are_held_once_for_each_detector_source_and_image(study: Result) -> None:
    for name in {row.model.run for row in study.rows}:
        table = pd.read_parquet(study.folder / name / "scores.parquet")
        assert list(table.columns) == ["detector", "source", "index", "label", "prediction", "score"]
        assert not table.duplicated(["detector", "source", "index"]).any()
        assert len(table) == 2 * (297 + 300 + 3 * 300 + 60)
        assert table.score.dtype == np.float64


def test_labels_and_predictions_of_the_scores_are_those_of_the_images(study: Result) -> None:
    for name in {row.model.run for row in study.rows}:
        run = runs.load(study.folder / name)
        table = pd.read_parquet(run.folder / "scores.parquet")
        for source in table.source.unique():
            file = f"outputs/{source}" if source in ("calibration", "test") else f"attacks/{source}"
            tensors = load_file(run.folder / f"{file}.safetensors")
            for detector in DETECTORS:
                part = table[(table.source == source) & (table.detector == detector)].sort_values("index")
                assert list(part.label) == tensors["labels"].tolist()
                assert list(part.prediction) == tensors["logits"].argmax(1).tolist()


def test_scores_are_the_negated_log_likelihoods_of_the_stored_features(study: Result) -> None:
    for name in {row.model.run for row in study.rows}:
        run = runs.load(study.folder / name)
        weights = {k: v.double() for k, v in load_file(run.folder / "model.safetensors").items()}
        table = pd.read_parquet(run.folder / "scores.parquet")
        made = load_file(run.folder / "attacks" / "fgsm-eps0.3.safetensors")
        x, logits = made["features"].double(), made["logits"].double()
        at = logits.argmax(1)
        if run.trained.loss_name == "softmax":
            own = (x * weights["head.linear.weight"][at]).sum(1) + weights["head.linear.bias"][at]
        else:
            log_var = weights["head.log_var"].clamp(min=-4)[at]
            own = -((x - weights["head.mu"][at]) ** 2 / log_var.exp()).sum(1) / 2 - log_var.sum(1) / 2
        expected = {"likelihood": -own, "max-posterior": -torch.log_softmax(logits, 1).max(1).values}
        for detector, values in expected.items():
            part = table[(table.source == "fgsm-eps0.3") & (table.detector == detector)].sort_values("index")
            assert np.allclose(part.score, values.numpy(), rtol=1e-9, atol=1e-9)


# -- what is kept ------------------------------------------------------------------------------------------------


def written(run: Run) -> dict[str, int]:
    """When each file was written."""
    return {str(p): p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}


def test_what_is_scored_is_only_looked_up(run: Run, study: Result) -> None:
    before = written(run)
    rows = verify(run, ["fgsm-eps0.3", "fgsm-eps0.1"], ["max-posterior"])
    expected = [r for r in study.rows if r.model.run == run.name and r.detector == "max-posterior"]
    full = [r for r in expected if r.n_clean == 300 and r.attack == "fgsm"]
    assert rows == sorted(full, key=lambda r: -r.eps)
    assert written(run) == before


def test_a_detector_added_later_leaves_the_scores_that_were_there(run: Run, study: Result) -> None:
    run.drop("verify")
    first = verify(run, ["fgsm-eps0.1"], ["max-posterior"])
    old = artifacts.read_scores(run)
    both = verify(run, ["fgsm-eps0.1"], DETECTORS)
    table = artifacts.read_scores(run)
    kept = table[table.detector == "max-posterior"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, old)
    assert [r for r in both if r.detector == "max-posterior"] == first
    assert len(table) == 2 * len(old)
    assert both == [
        r for r in study.rows if (r.model.run, r.attack, r.eps, r.n_clean) == (run.name, "fgsm", 0.1, 300)
    ]


def altered(run: Run, name: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Put another attack file in the place of one, as a step of the run."""
    tensors = artifacts.unpack(run, f"attacks/{name}.safetensors")
    change(tensors)
    data = artifacts.pack(tensors)
    made = adversarials_of(run.folder, data)
    clean = artifacts.read_part(run, "test").outputs.take(slice(len(made.labels)))
    info = {"row": as_json(counts(run.attack_row(name), made, clean), whole=False)}
    run.write(f"attack {name}", {f"attacks/{name}.safetensors": data}, seconds=1.0, info=info)


def test_an_attack_made_again_is_scored_again(run: Run) -> None:
    other = artifacts.unpack(run, "attacks/fgsm-eps0.3.safetensors")
    (_, successful, _) = verify(run, ["fgsm-eps0.3"], ["likelihood"])
    altered(run, "fgsm-eps0.1", lambda tensors: tensors.update(other))
    rows = verify(run, ["fgsm-eps0.1"], ["likelihood"])
    assert rows[1] == dataclasses.replace(successful, eps=0.1)
    table = artifacts.read_scores(run)
    assert not table.duplicated(["detector", "source", "index"]).any()


def test_an_image_beyond_all_likelihood_is_counted_and_is_the_most_suspicious(run: Run) -> None:
    def explode(tensors: dict[str, Tensor]) -> None:
        tensors["features"][7] = math.inf

    (before, *_) = verify(run, ["fgsm-eps0.1"], ["likelihood"])
    altered(run, "fgsm-eps0.1", explode)
    (row, *_) = verify(run, ["fgsm-eps0.1"], ["likelihood"])
    assert (before.n_nonfinite, row.n_nonfinite) == (0, 1)
    assert row.n_attacked == 300
    assert (row.auroc or 0) >= (before.auroc or 1)
    json.dumps(as_json(row), allow_nan=False)
    scores = artifacts.read_scores(run)
    chosen = scores[(scores.source == "fgsm-eps0.1") & (scores.detector == "likelihood") & (scores["index"] == 7)]
    assert list(chosen.score) == [math.inf]


def test_an_altered_attack_file_is_not_scored(run: Run) -> None:
    run.drop("verify")
    path = run.folder / "attacks" / "fgsm-eps0.1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BadRun, match=r"fgsm-eps0\.1"):
        verify(run, ["fgsm-eps0.1"], ["likelihood"])


def test_verify_found_is_verify_of_each_run(study: Result) -> None:
    names = sorted({row.model.run for row in study.rows})
    found = [Found(runs.load(study.folder / name), ("fgsm-eps0.1",)) for name in names]
    from advbench.progress import Quiet

    rows = verify_found(found, ["likelihood"], Quiet())
    assert [row.model.run for row in rows] == [name for name in names for _ in range(3)]
