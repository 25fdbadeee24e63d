"""`advbench evaluate`: somebody's model on somebody's data, from the command line to the page."""

import getpass
import html
import json
import math
import re
import shlex
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from advbench import runs
from advbench.cli.audit import complete
from advbench.data import for_supplied
from advbench.data.sources import source
from advbench.errors import BadSetting
from advbench.runs import AdaptiveRow, Run, artifacts
from advbench.study.spec import Spec
from advbench.study.study import Study
from advbench.study.workspace import Workspace
from advbench.types import Splits
from tests.helpers.command_line import VERIFY_FIELDS, Result, advbench, assert_refused
from tests.helpers.supplied import MODEL, weights_of

FEW = ("--attack", "fgsm", "--detector", "energy", "--n", "20")


def refusal(result: Result) -> str:
    """The one sentence of a refused command; work may have begun before it."""
    return assert_refused(result, after_progress=True)


@dataclass(frozen=True)
class Bench:
    """A folder with a model file m.py, its weights w.safetensors and data d.npz; runs and reports go there too."""

    folder: Path

    def evaluate(
        self, *words: object, weights: str = "w.safetensors", data: str = "d.npz", m: str = "m.py:build"
    ) -> Result:
        """`advbench evaluate --json` with these further words; `weights` may be empty."""
        named = ["--weights", self.folder / weights] if weights else []
        where = ["--model", self.folder / m, *named, "--dataset", f"npz:{self.folder / data}"]
        return advbench("evaluate", *where, *words, *self.places, "--json")

    @property
    def places(self) -> list[object]:
        """The options of its folders."""
        return ["--runs-dir", self.folder / "runs", "--reports-dir", self.folder / "reports", "--threads", 1]

    @property
    def runs(self) -> list[Run]:
        """What lies in its runs folder."""
        return runs.find(self.folder / "runs")

    def model(self, body: str, name: str = "x.py") -> str:
        """Write a subclass M of Net with this body; how to name it."""
        (self.folder / name).write_text(f"{MODEL}\nclass M(Net):\n{body}", encoding="utf-8")
        return f"{name}:M"

    def data(self, name: str, **arrays: Any) -> str:
        """Write d.npz anew with some arrays replaced; how to name it."""
        with np.load(self.folder / "d.npz") as old:
            np.savez(self.folder / name, **{**old, **arrays})
        return name


@pytest.fixture(autouse=True)
def _no_folders_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADVBENCH_DATA", raising=False)
    monkeypatch.delenv("ADVBENCH_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits: Splits) -> Bench:
    """Model, weights and data; nothing evaluated."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "m.py").write_text(MODEL, encoding="utf-8")
    save_file(weights_of(digits.train.load_all(), digits.train.labels), folder / "w.safetensors")
    rest = (digits.test, digits.calibration)  # 597 images: 298 to fix thresholds, 299 to attack
    np.savez(
        folder / "d.npz",
        train_images=digits.train.load_all().numpy(),
        train_labels=digits.train.labels.numpy(),
        test_images=torch.cat([part.load_all() for part in rest]).numpy(),
        test_labels=torch.cat([part.labels for part in rest]).numpy(),
    )
    return Bench(folder)


@pytest.fixture(scope="module")
def done(made: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Result]:
    """An evaluation with an attack that knows a detector and one that does not."""
    bench = Bench(tmp_path_factory.mktemp("done") / "b")
    shutil.copytree(made.folder, bench.folder)
    words = ("--attack", "fgsm,detector-aware", "--eps", "8/255,0.1", "--detector", "energy,mahalanobis")
    result = bench.evaluate(*words, "--budget", "quick", "--n", 10)
    assert result.code == 0, result.err
    return bench, result


@pytest.fixture
def bench(made: Bench, tmp_path: Path) -> Bench:
    """A folder of one's own."""
    shutil.copytree(made.folder, tmp_path / "b")
    return Bench(tmp_path / "b")


@pytest.fixture
def copy(done: tuple[Bench, Result], tmp_path: Path) -> Bench:
    """The finished evaluation in a folder of one's own."""
    shutil.copytree(done[0].folder, tmp_path / "b")
    return Bench(tmp_path / "b")


# -- what comes out ----------------------------------------------------------------------------------------------


def test_json_is_the_verify_rows_alone_with_no_loss(done: tuple[Bench, Result]) -> None:
    document = json.loads(done[1].out)
    assert (document["schema"], document["command"], done[1].out.count("\n")) == (1, "evaluate", 1)
    rows = document["rows"]
    assert len(rows) == (2 + 2 * 2) * 2 * 3  # FGSM, and the ensemble at two eps on two detectors; scored; populations
    for row in rows:
        assert set(row) == VERIFY_FIELDS | {"test_part"}
        assert row["test_part"] == "given"
        assert {row[k] for k in ("loss", "alpha", "lam", "covariance", "seed", "training")} == {None}
    assert {row["eps"] for row in rows} == {8 / 255, 0.1}


def test_verify_report_and_list_know_a_supplied_run(done: tuple[Bench, Result]) -> None:
    bench, result = done
    rows = sorted(json.dumps(row, sort_keys=True) for row in result.rows)
    energy = [row for row in rows if '"detector": "energy", "eer"' in row]
    verified = advbench("verify", "--runs-dir", bench.folder / "runs", "--detector", "energy,mahalanobis", "--json")
    assert sorted(json.dumps(row, sort_keys=True) for row in verified.rows) == rows
    selected = advbench("verify", "--runs-dir", bench.folder / "runs", "--detector", "energy", "--json")
    assert sorted(json.dumps(row, sort_keys=True) for row in selected.rows) == energy
    (listed,) = advbench("list", "runs", "--runs-dir", bench.folder / "runs", "--json").rows
    assert listed["run"] == result.rows[0]["run"]
    assert len(listed["attacks"]) == 6
    assert listed["loss"] is None


def test_a_supplied_run_is_scored_by_its_detectors_or_by_those_named_that_need_no_head(copy: Bench) -> None:
    words = ("verify", "--runs-dir", copy.folder / "runs", "--attack", "fgsm", "--json")
    assert {row["detector"] for row in advbench(*words).rows} == {"energy", "mahalanobis"}
    named = advbench(*words, "--detector", "likelihood,knn,max-logit,class-gaussian,mixture-likelihood")
    assert {row["detector"] for row in named.rows} == {"knn", "max-logit", "class-gaussian", "mixture-likelihood"}
    assert "without likelihood" in named.err


def test_the_page_names_the_command_that_made_it_and_the_command_parses(
    done: tuple[Bench, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, _ = done
    (page,) = (bench.folder / "reports").glob("*/index.html")
    assert page.parent.name == "m-build-npz-d.npz"
    (run,) = bench.runs
    audited = advbench(
        "audit", run.name, "--runs-dir", bench.folder / "runs", "--dataset", f"npz:{bench.folder / 'd.npz'}", "--json"
    )
    assert audited.code == 0, audited.err
    said = re.findall(r"<code>(advbench [^<]*)</code>", page.read_text(encoding="utf-8"))
    said = [*map(html.unescape, said), *(row["command"] or "" for row in audited.rows)]
    lines = [one for line in said for one in line.split(" && ") if one.startswith("advbench ")]
    assert any(line.startswith("advbench evaluate --dataset npz:PATH/d.npz --model m.py:build") for line in lines)
    assert not [line for line in lines if "--model" in line and not line.startswith("advbench evaluate")]
    monkeypatch.chdir(bench.folder)

    def stop(spec: Spec, *_: object) -> None:
        raise BadSetting(f"understood, {spec.dataset}")

    monkeypatch.setattr("advbench.study.evaluation.load", stop)
    seen = set()
    for line in lines:
        command, *words = shlex.split(line)[1:]
        if command == "evaluate" and line not in seen:
            seen.add(line)
            assert (
                advbench(command, *(word.replace("PATH/", "") for word in words)).err
                == "advbench: understood, npz:d.npz\n"
            )
    assert len(seen) >= 4


def test_nothing_says_where_it_was_made_or_by_whom(done: tuple[Bench, Result]) -> None:
    bench, _ = done
    texts = [*(bench.folder / "runs").rglob("*.json"), *(bench.folder / "reports").rglob("*.html")]
    assert len(texts) >= 3
    for file in texts:
        text = file.read_text(encoding="utf-8")
        text = re.sub(r"base64,[\w+/=]+", "", text)
        for word in (bench.folder, Path.home(), f"/{getpass.getuser()}/", socket.gethostname()):
            assert not re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text), (file.name, word)


def test_names_out_of_files_are_escaped_on_the_page(bench: Bench) -> None:
    odd = "<script>alert(1)</script>"
    name = "<b>x.py"
    text = MODEL.replace("self.last =", "self.add_module('<i>relu', nn.ReLU())\n        self.last =")
    (bench.folder / name).write_text(text.replace("torch.relu(", "getattr(self, '<i>relu')("), encoding="utf-8")
    classes = np.array([f"{odd}{i}" for i in range(10)])
    bench.data("<s>d.npz", classes=classes)
    result = bench.evaluate(*FEW, "--features", "<i>relu", m=f"{name}:build", data="<s>d.npz")
    assert result.code == 0, result.err
    (page,) = (bench.folder / "reports").glob("*/index.html")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script|<i>relu|<b>x|<s>d", text)
    assert "&lt;i&gt;relu" in text


# -- what is kept ------------------------------------------------------------------------------------------------


def test_a_second_call_computes_nothing_and_a_new_attack_only_itself(copy: Bench) -> None:
    words = ("--attack", "fgsm,detector-aware", "--eps", "8/255,0.1", "--detector", "energy,mahalanobis")
    (before,) = copy.runs
    again = copy.evaluate(*words, "--budget", "quick", "--n", 10)
    (after,) = copy.runs
    assert after.manifest == before.manifest
    assert " on 10 images" not in again.err
    more = copy.evaluate("--attack", "fgsm,mim", "--eps", "0.1", "--detector", "energy", "--n", 10)
    (grown,) = copy.runs
    assert more.err.count(" on 10 images") == 1
    page = Path(more.err.splitlines()[-1]).read_text(encoding="utf-8")  # of all that the run holds
    assert all(name in page for name in ("mim", "fgsm", "detector-aware"))
    assert set(grown.steps) - set(before.steps) == {s for s in grown.steps if s.startswith("attack mim")}
    assert {s: v for s, v in grown.steps.items() if s != "verify" and s in before.steps} == {
        s: v for s, v in before.steps.items() if s != "verify"
    }


@pytest.mark.parametrize(
    "name", ["outputs/test.safetensors", "attacks/fgsm-eps0.1*", "metrics.json", "manifest.json"]
)
def test_a_damaged_file_is_named_and_made_again_and_the_door_is_remembered(
    done: tuple[Bench, Result], copy: Bench, name: str
) -> None:
    (before,) = copy.runs
    (path,) = before.folder.glob(name)
    path.write_bytes(path.read_bytes()[:-7])
    words = ("--attack", "fgsm,detector-aware", "--eps", "8/255,0.1", "--detector", "energy,mahalanobis")
    result = copy.evaluate(*words, "--budget", "quick", "--n", 10)
    assert (result.code, result.rows) == (0, done[1].rows)
    assert len([line for line in result.err.splitlines() if path.name in line]) == 1
    (after,) = copy.runs
    assert next(iter(after.steps)) == "door"
    assert after.read("outputs/test.safetensors") == before.read("outputs/test.safetensors")


def test_other_weights_and_other_code_are_other_runs(bench: Bench) -> None:
    first = bench.evaluate(*FEW).rows[0]["run"]
    state = {k: v * 1.5 for k, v in weights_of(torch.rand(40, 1, 8, 8), torch.arange(40) % 10).items()}
    save_file(state, bench.folder / "w2.safetensors")
    second = bench.evaluate(*FEW, weights="w2.safetensors").rows[0]["run"]
    (bench.folder / "m.py").write_text(MODEL + "# changed\n", encoding="utf-8")
    third = bench.evaluate(*FEW).rows[0]["run"]
    assert len({first, second, third}) == len(bench.runs) == 3


def test_calibration_is_half_of_the_test_part_and_fixes_the_thresholds(done: tuple[Bench, Result]) -> None:
    bench, _ = done
    (run,) = bench.runs
    whole = source(f"npz:{bench.folder / 'd.npz'}").load(None)
    parts = for_supplied(whole)
    rows = {
        name: {row.numpy().tobytes() for row in getattr(parts, name).load_all()}
        for name in ("calibration", "test", "train")
    }
    assert not rows["calibration"] & rows["test"]
    assert not rows["calibration"] & rows["train"]
    assert rows["calibration"] | rows["test"] == {row.numpy().tobytes() for row in whole.test.load_all()}
    clean = artifacts.read_part(run, "calibration")
    assert torch.equal(clean.labels, parts.calibration.labels)
    energy = (-clean.outputs.logits.double().logsumexp(1)).sort().values
    rows_of = [row for row in map(run.attack_row, run.attacks) if isinstance(row, AdaptiveRow)]
    row = next(row for row in rows_of if row.detector == "energy")
    assert row.threshold == pytest.approx(float(energy[math.ceil((len(energy) + 1) * 0.95) - 1]), rel=1e-6)


def test_ctrl_c_in_the_middle_exits_130_and_the_same_command_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--attack", "fgsm,mim", "--detector", "energy", "--n", 20)
    perturbed = Study.perturb

    def interrupt(*given: Any) -> Any:
        if given[3].choice.name == "mim":
            raise KeyboardInterrupt
        return perturbed(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "perturb", interrupt)
        stopped = bench.evaluate(*words)
    assert (stopped.code, stopped.out) == (130, "")
    assert "stopped" in stopped.err
    assert "Traceback" not in stopped.err
    result = bench.evaluate(*words)
    assert (result.code, result.err.count(" on 20 images")) == (0, 1)


# -- the same figures by another way -----------------------------------------------------------------------------


def figures(result: Result, *without: str) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("run", "dataset", "test_part", *without)} for row in result.rows
    ]


def test_normalisation_inside_the_model_and_outside_give_the_same_figures(bench: Bench) -> None:
    (bench.folder / "n.py").write_text(MODEL.replace("return Net()", "return Net(0.5, 0.25)"), encoding="utf-8")
    words = ("--attack", "fgsm", "--detector", "energy,mahalanobis", "--n", 40)
    inside = bench.evaluate(*words, m="n.py:build")
    outside = bench.evaluate(*words, "--mean", "0.5", "--std", "0.25")
    assert figures(inside) == figures(outside)


COPY = """
from collections import OrderedDict
import torch
from advbench import catalog

def build():
    network = catalog.load('network', 'digits-cnn')((1, 8, 8), 100)
    parts = OrderedDict(network=network, head=catalog.load('loss', 'softmax')(100, 10))
    return torch.nn.Sequential(parts).to(memory_format=torch.channels_last)
"""


def test_a_copy_of_a_model_trained_here_gives_what_it_gives(tmp_path: Path) -> None:
    places = ["--runs-dir", tmp_path / "runs", "--reports-dir", tmp_path / "reports", "--threads", 1]
    named = ("--loss", "softmax", "--epochs", 1, "--attack", "fgsm", "--eps", "0.1")
    assert advbench("attack", *named, *places).code == 0
    (trained,) = runs.find(tmp_path / "runs")
    tensors = artifacts.unpack(trained, artifacts.MODEL)
    save_file(tensors, tmp_path / "w.safetensors")
    (tmp_path / "m.py").write_text(COPY, encoding="utf-8")
    parts = source("digits").load(None)
    arrays = {
        f"{p}_{k}": getattr(getattr(parts, p), {"images": "pixels"}.get(k, k)).numpy()
        for p in ("train", "validation", "calibration", "test")
        for k in ("images", "labels")
    }
    np.savez(tmp_path / "d.npz", **arrays)
    words = [
        "--model",
        f"{tmp_path / 'm.py'}:build",
        "--weights",
        tmp_path / "w.safetensors",
        "--features",
        "network",
    ]
    supplied = advbench(
        "evaluate", *words, "--dataset", f"npz:{tmp_path / 'd.npz'}", *("--attack", "fgsm", "--eps", 0.1),
        *("--detector", "max-posterior,energy"), *places, "--json",
    )  # fmt: skip
    assert supplied.code == 0, supplied.err
    ours = advbench(
        "verify", "--runs-dir", tmp_path / "runs", "--loss", "softmax", "--detector", "max-posterior,energy", "--json"
    )
    assert ours.code == 0, ours.err
    assert figures(supplied, "loss", "seed", "training") == figures(ours, "loss", "seed", "training")
    (copied,) = [run for run in runs.find(tmp_path / "runs") if run.name != trained.name]
    for part in artifacts.PARTS[1:]:
        mine, theirs = (artifacts.read_part(run, part).outputs for run in (trained, copied))
        assert torch.allclose(mine.features, theirs.features, atol=1e-5)
    mixed = advbench("report", "--runs-dir", tmp_path / "runs", "--reports-dir", tmp_path / "reports", "--json")
    assert mixed.code == 0, mixed.err
    assert {row["loss"] for row in mixed.rows} == {None, "softmax"}
    audited = advbench("audit", copied.name, "--runs-dir", tmp_path / "runs", "--json")
    assert (audited.code, {row["state"] for row in audited.rows}) == (0, {"met", "not met", "not run"})


def test_a_folder_of_pictures_is_evaluated_like_the_arrays_that_it_holds(bench: Bench) -> None:
    with np.load(bench.folder / "d.npz") as old:
        arrays = dict(old)
    for part in ("train", "test"):
        for label in range(10):
            folder = bench.folder / "pictures" / part / str(label)
            folder.mkdir(parents=True)
            for i, image in enumerate(arrays[f"{part}_images"][arrays[f"{part}_labels"] == label][:20]):
                Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(folder / f"{i}.png")
    (bench.folder / "pictures" / "test" / "0" / "zz.png").write_bytes(b"")
    where = ["--model", bench.folder / "m.py:build", "--weights", bench.folder / "w.safetensors"]
    result = advbench(
        "evaluate", *where, "--dataset", f"folder:{bench.folder / 'pictures'}", *FEW, *bench.places, "--json"
    )
    assert result.code == 0, result.err
    assert result.rows[0]["dataset"] == "folder:pictures"
    assert "left out 1 empty" in result.err


# -- what is refused, and in which words -------------------------------------------------------------------------


def test_a_mistake_in_the_data_is_refused_before_there_is_a_run(bench: Bench) -> None:
    with np.load(bench.folder / "d.npz") as old:
        shifted = bench.data("x.npz", test_labels=old["test_labels"] + 1)
    assert "10 where there are 10 classes" in refusal(bench.evaluate(*FEW, data=shifted))
    assert bench.runs == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    def forward(self, x):\n        return self.logits(x).softmax(1)\n", "probabilities"),
        ("    def forward(self, x):\n        raise ValueError('odd\\nbatch')\n", "ValueError: odd"),
        ("    def forward(self, x):\n        import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("    def forward(self, x):\n        return self.logits(x.reshape(16, 64))\n", "invalid for input of size"),
        ("    def forward(self, x):\n        self.last.bias += 1\n        return self.logits(x)\n", "changes 1 of"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_is_said_in_one_sentence(body: str, said: str, bench: Bench) -> None:
    assert said in refusal(bench.evaluate(*FEW, m=bench.model(body), weights=""))


def test_a_model_that_fails_only_under_attack_is_refused_in_one_sentence(bench: Bench) -> None:
    hole = "((x.flatten(1) - 0.5).abs() < 0.01).any(1, keepdim=True)"  # no digit has such a pixel: they are 16ths
    shifted = "0.5 + 8 / 255"
    for what, said in (
        (f"torch.where({hole.replace('0.5', shifted)}, torch.nan, self.logits(x))", "NaN or infinite for"),
        (f"self.logits(x) if not {hole.replace('0.5', shifted)}.any() else 1 / 0", "ZeroDivisionError"),
    ):
        body = f"    def forward(self, x):\n        return {what}\n"
        assert said in refusal(bench.evaluate("--attack", "fgsm", "--detector", "energy", m=bench.model(body)))


def test_a_model_may_look_at_its_images_and_refuse_others(bench: Bench) -> None:
    body = "    def forward(self, x):\n        assert x.max() <= 1 and x.min() >= 0\n        return self.logits(x)\n"
    assert bench.evaluate(*FEW, m=bench.model(body)).code == 0


def test_half_precision_is_taken_with_a_warning(bench: Bench) -> None:
    result = bench.evaluate(*FEW, m=bench.model("    def forward(self, x):\n        return self.logits(x).half()\n"))
    assert result.code == 0
    assert "float16" in result.err


def test_what_a_model_prints_stays_off_stdout(bench: Bench) -> None:
    result = bench.evaluate(
        *FEW, m=bench.model("    def forward(self, x):\n        print('hi')\n        return self.logits(x)\n")
    )
    assert len(result.rows) == 3
    assert "hi\n" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mean", "0.5"], "mean is given without std"),
        (["--std", "0.5"], "std is given without mean"),
        (["--mean", ".5,.5,.5", "--std", "1"], "mean has 3 values"),
        (["--mean", "0", "--std", "0"], "std = 0"),
        (["--mean", "0", "--std", "inf"], "not finite"),
        (["--features", "nosuch"], "its layers: hidden, last"),
        (["--eps", "8/255,abc"], "'abc' is not a number"),
        (["--attack", "nosuch"], "no attack named"),
        (["--attack", "transfer"], "takes? square|square"),
        (["--detector", "nosuch"], "no detector named"),
        (["--detector", "energy,likelihood"], "unknown of a supplied model"),
        (["--n", "300"], "more than the 299 test images of npz:d.npz"),
        (["--n", "0"], "at least 1"),
        (["--fpr", "0.01"], "take an fpr of 0.034 or more"),
        (["--runs-dir", "m.py"], "Not a directory|it is a file"),
        (["--reports-dir", "m.py"], "it is a file"),
        (["--weights", "none.pt"], "no weights file"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_attacked(
    words: list[str], said: str, made: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(made.folder)
    places = {"--runs-dir": str(tmp_path / "runs"), "--reports-dir": str(tmp_path / "reports")}
    given = {"--model": "m.py:build", "--weights": "w.safetensors", "--dataset": "npz:d.npz", **places}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    result = advbench("evaluate", *(w for pair in given.items() for w in pair))
    assert re.search(said, refusal(result))
    assert not re.search(r" on \d+ images", result.err)


def test_an_archive_is_opened_only_behind_trust(bench: Bench) -> None:
    (bench.folder / "a.pt2").write_bytes(b"no archive")
    assert "--trust" in refusal(bench.evaluate(*FEW, m="a.pt2", weights=""))


def test_no_detector_is_the_classifier_alone(bench: Bench) -> None:
    result = bench.evaluate("--attack", "detector-aware", "--detector", "none", "--budget", "quick", "--n", 10)
    assert result.code == 0, result.err
    assert {row["settings"]["detector"] for row in result.rows} == {"none"}


def test_an_audit_completes_no_run_by_code_that_its_record_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = bench.model("    pass\nfrom pathlib import Path\nPath(__file__).with_name('it-ran').touch()\n")
    where = ["--model", bench.folder / m, "--weights", bench.folder / "w.safetensors", "--dataset", "digits"]
    assert advbench("evaluate", *where, *FEW, *bench.places).code == 0
    (bench.folder / "it-ran").unlink()
    monkeypatch.chdir(bench.folder)
    (run,) = bench.runs
    asked: list[str] = []
    complete(run.name, Workspace(runs_dir=Path("runs")), lambda words: asked.append(words[0]))
    assert asked
    assert "evaluate" not in asked
    assert not (bench.folder / "it-ran").exists()


# -- few images --------------------------------------------------------------------------------------------------


def few(bench: Bench, n: int) -> str:
    """Data with n test images, the classes in turn."""
    with np.load(bench.folder / "d.npz") as old:
        images, labels = old["test_images"], old["test_labels"]
    turns = [(labels[:i] == label).sum() for i, label in enumerate(labels)]  # how many of its class stand before each
    order = np.argsort(turns, kind="stable")[:n]
    return bench.data(f"few{n}.npz", test_images=images[order], test_labels=labels[order])


@pytest.mark.parametrize(
    ("n", "fprs", "said"),
    [(240, {0.1}, "run at 10%"), (150, set(), "left out; 100 or more"), (20, set(), "left out")],
)
def test_the_usual_attacks_want_no_more_calibration_images_than_there_are(
    n: int, fprs: set[float], said: str, bench: Bench
) -> None:
    result = bench.evaluate("--detector", "max-posterior", data=few(bench, n), m="m.py:build")
    assert result.code == 0, result.err
    assert said in result.err
    assert {r["settings"]["fpr"] for r in result.rows if "fpr" in r["settings"]} == fprs
    assert {r["tpr_at_fpr05"] for r in result.rows} == {None}
    (run,) = bench.runs
    rows = advbench("audit", run.name, "--runs-dir", bench.folder / "runs", "--json").rows
    short = [row for row in rows if f"has {n // 2};" in row["evidence"]]
    assert {row["state"] for row in short} <= {"not run"}
    assert bool(short) == (not fprs)
    assert all("fpr of" not in row["evidence"] for row in short) or n > 20
    again = advbench("report", "--runs-dir", bench.folder / "runs", "--reports-dir", bench.folder / "again")
    assert again.code == 0, again.err


def test_a_named_rate_that_calibration_cannot_fix_is_refused_at_once(bench: Bench) -> None:
    data = few(bench, 240)
    assert "take an fpr of 0.084 or more" in refusal(bench.evaluate("--fpr", "0.05", data=data))
    assert "more test images" in refusal(bench.evaluate("--attack", "detector-aware", data=few(bench, 20)))
    assert bench.runs == []


def test_two_classes_are_enough_and_one_is_not(bench: Bench) -> None:
    with np.load(bench.folder / "d.npz") as old:
        parts = {p: old[f"{p}_labels"] for p in ("train", "test")}
        kept = {f"{p}_{k}": old[f"{p}_{k}"][parts[p] < 2] for p in parts for k in ("images", "labels")}
        one = {f"{p}_{k}": old[f"{p}_{k}"][parts[p] < 1] for p in parts for k in ("images", "labels")}
    m = bench.model("    def __init__(self):\n        super().__init__(classes=2)\n")
    words = ("--attack", "fgsm", "--detector", "max-posterior", "--n", 10)
    assert bench.evaluate(*words, m=m, weights="", data=bench.data("two.npz", **kept)).code == 0
    assert "at least two" in refusal(bench.evaluate(*words, m=m, weights="", data=bench.data("one.npz", **one)))
