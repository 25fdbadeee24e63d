"""Foreign text, a folder's own files and the shell's limits: none of them speaks, acts or ends in a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

from advbench import catalog, cli
from advbench.cli.listing import PluginRow
from advbench.cli.tables import show
from advbench.data.sources import arrays, source
from advbench.errors import LONGEST, AdvbenchError, BadSetting, UnknownName, one_line, printable
from advbench.progress import Terminal
from advbench.report import plots
from advbench.runs.rows import RunRow
from advbench.study.parsing import parse, read_toml
from advbench.study.spec import Spec
from advbench.supplied import weights
from tests.helpers.records import MODEL_ROW

ADVBENCH = Path(sys.executable).parent / "advbench"
HOSTILE = "a\x1b]0;t\x07\x1b[2J\n$ advbench evaluate\u202e\x9b"
IMAGES, LABELS = torch.rand(60, 1, 8, 8), torch.arange(60) % 3


@pytest.mark.parametrize("name", ["模型.py", "naïve café", "🏳️\u200d🌈", "a\\b"])
def test_names_of_every_script_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800"), ("\udcff", "\\xff")],
)
def test_what_is_no_character_is_written_by_its_number(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_an_error_is_one_line_and_keeps_its_start_and_its_way_out() -> None:
    said = str(UnknownName("loss", "x" * 10_000_000 + HOSTILE, ["lgm"]))
    assert said.isprintable()
    assert len(said) < LONGEST + 10
    assert said.startswith("no loss named 'xxx")
    assert said.endswith("Known: lgm.")
    assert str(BadSetting(HOSTILE)) == one_line(HOSTILE)


def test_tables_and_progress_print_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        [RunRow(model=replace(MODEL_ROW, run=HOSTILE), trained=True, attacks=["fgsm", HOSTILE.replace("\n", "")])],
    )
    show([PluginRow(name=HOSTILE, summary=HOSTILE)])
    with Terminal().bar(HOSTILE, 2) as advance:
        advance(1, HOSTILE)
    Terminal().say(HOSTILE)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert err.endswith(f"{printable(HOSTILE)}\n")


def spec(tmp_path: Path, text: str) -> Spec:
    (tmp_path / "s.toml").write_text(text)
    return parse(read_toml(tmp_path / "s.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 1000 + "]" * 1000,
        "n = " + "9" * 5000,
        "seeds = [0x" + "f" * 6000 + "]",
        "a" + ".a" * 5000 + " = 1",
    ],
    ids=["nested", "decimal", "hexadecimal", "dotted"],
)
def test_toml_that_no_message_could_repeat_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSetting, match="not valid TOML"):
        spec(tmp_path, text)


def test_a_spec_of_many_seeds_is_read_at_once_each_of_them_once(tmp_path: Path) -> None:
    assert spec(tmp_path, f"seeds = {[*range(50_000)] * 2}").seeds == tuple(range(50_000))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about nested and quantised tensors
@pytest.mark.parametrize(
    "make",
    [
        lambda: IMAGES.to(torch.complex64),
        lambda: torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
        lambda: torch.empty(60, 1, 8, 8, device="meta"),
    ],
    ids=["complex", "quantised", "nested", "meta"],
)
def test_tensors_of_no_plain_numbers_are_neither_images_nor_weights(
    tmp_path: Path, make: Callable[[], torch.Tensor]
) -> None:
    with pytest.raises(AdvbenchError, match="images are"):
        arrays.check(make(), LABELS)
    torch.save({"weight": make(), "bias": torch.rand(3)}, tmp_path / "w.pt")
    with pytest.raises(AdvbenchError, match=r"w\.pt"):
        weights.put(torch.nn.Linear(64, 3), tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_labels_of_any_whole_type_are_taken(dtype: torch.dtype) -> None:
    assert torch.equal(arrays.check(IMAGES, LABELS.to(dtype)).labels, LABELS)


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/x", "x" * 5000])
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_path_that_no_system_takes_is_one_sentence(kind: str, path: str) -> None:
    with pytest.raises(AdvbenchError):
        source(f"{kind}:{path}").load(None)


def test_a_class_named_by_half_a_character_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS, classes=np.array(["a", "\ud800", "c"]))
    assert source(f"npz:{tmp_path / 'a.npz'}").load(None).test.classes == ("a", "\\ud800", "c")


def chart(label: str) -> str:
    line = plots.Line(label, np.array([1.0, 20.0]), np.array([0.0, 0.5]))
    return plots.to_svg(plots.line_chart([line], xlabel="gradients", steps=True), "about", "key")


@pytest.mark.parametrize("name", [r"$\frac{$.py:build", "_m.py:build", "模型.py:build"])
def test_a_name_stands_in_a_legend_as_it_is(name: str) -> None:
    assert f"{name}: 50.0%</text>" in chart(name)


def test_settings_of_matplotlib_change_no_chart_of_a_page() -> None:
    draw: Callable[[str], str] = plots.own_style(chart)
    plain = draw("m")
    with mpl.rc_context({"lines.linewidth": 9, "axes.grid": True, "font.family": "serif", "text.usetex": True}):
        assert draw("m") == plain


@pytest.mark.long
def test_a_matplotlibrc_that_cannot_be_read_keeps_no_page_from_being_drawn(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    subprocess.run([sys.executable, "-c", "import advbench.report.page"], cwd=tmp_path, check=True)


@pytest.mark.long
def test_the_command_runs_nothing_that_lies_in_the_current_folder(tmp_path: Path) -> None:
    for name in ("sitecustomize", "usercustomize", "conftest", "setup", "typer", "matplotlib", "torch", "advbench"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w')")
    for name in ("pyproject.toml", "setup.cfg", "ruff.toml", ".env", ".python-version", "pip.conf"):
        (tmp_path / name).write_text("\0[\n=")
    for words in (
        ["list", "losses"],
        ["train", "--epochs", "1"],
        ["attack", "--epochs", "1", "--n", "200"],
        ["report"],
    ):
        done = subprocess.run([ADVBENCH, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("ran-*")) == []


@pytest.mark.skipif(os.name == "nt", reason="no ulimit")
@pytest.mark.parametrize("limit", ["-n 12", "-v 3000000"])
def test_a_limit_too_low_for_torch_is_one_sentence(tmp_path: Path, limit: str) -> None:
    def run(words: str) -> subprocess.CompletedProcess[str]:
        command = f'ulimit {limit}; exec "{sys.executable}" -m advbench {words}'
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = run("doctor")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"ulimit {limit[:2]}" in refused.stderr
    assert run("list losses").returncode == 0


def test_a_bug_is_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "names", lambda kind: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list", "losses"])
