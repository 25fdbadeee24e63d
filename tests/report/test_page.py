"""The page: one file that loads nothing, says what the rows say, and shows strange names as text."""

import html
import io
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from advbench import metrics, runs
from advbench.audit.protocol import audit
from advbench.errors import BadSetting
from advbench.formatting import as_text, percent
from advbench.report import plots
from advbench.report.page import render
from advbench.report.write import page_at
from advbench.runs import VerifyRow, artifacts, as_json, from_json
from advbench.study import selection
from advbench.study.options import Selected
from advbench.study.workspace import Workspace
from tests.helpers.command_line import contents
from tests.helpers.page_reader import (
    Element,
    Page,
    Reader,
    Row,
    advbench,
    assert_loads_nothing,
    assert_well_formed,
    ends,
    per_cent,
)
from tests.helpers.records import forge, manifest_of

NAME = "<script>alert(1)<b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    machine = ("--runs-dir", str(folder / "runs"), "--threads", "1")
    models = ("--feature-dim", "2", "--epochs", "2", "--train-batch-size", "100", "--learning-rate", "0.02")
    lgm = ("--loss", "lgm", "--alpha", "0.5", "--log-var-floor", "-3", "--covariance", "diagonal")
    softmax = ("--loss", "softmax", "--seed", "1")
    for loss in (lgm, softmax):
        advbench("attack", *loss, *models, *machine, "--eps", "8/255,0.3")
        advbench("attack", *loss, *models, *machine, "--attack", "targeted-fgsm", "--eps", "0.3")
    advbench("attack", *lgm, *models, *machine, "--eps", "0.3", "--n", "50", "--no-clip", "--exact-gradient")
    rows = advbench("report", "--name", NAME, *machine[:2], "--reports-dir", folder / "reports")
    source = (folder / "reports" / NAME / "index.html").read_text(encoding="utf-8")
    return Page(folder, rows, source, Reader(source).root)


# -- one file ----------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_loads_nothing(page: Page) -> None:
    assert [p.name for p in (page.folder / "reports" / NAME).iterdir()] == ["index.html"]
    assert_loads_nothing(page.tree)
    assert_well_formed(page.tree)


def test_the_page_begins_as_html_5_in_utf_8_for_any_screen(page: Page) -> None:
    assert page.source.startswith("<!doctype html>")
    (root,) = page.tree.all("html")
    assert root["lang"] == "en"
    assert [m["charset"] for m in page.tree.all("meta") if m["charset"]] == ["utf-8"]
    assert [m["content"] for m in page.tree.all("meta") if m["name"] == "viewport"] == [
        "width=device-width, initial-scale=1"
    ]
    (head,) = page.tree.all("head")
    assert [title.text for title in head.all("title")] == [f"{NAME} - advbench"]
    assert len(page.tree.all("h1")) == len(page.tree.all("main")) == 1


def test_every_reference_has_its_target(page: Page) -> None:
    ids = [e["id"] for e in page.tree.all() if "id" in e.attributes]
    assert all(ids)
    for element in page.tree.all():
        for name, value in element.attributes.items():
            targets = re.findall(r"url\(#([^)]+)\)", value or "")
            targets += [(value or "")[1:]] if name in ("href", "xlink:href") else []
            targets += (value or "").split() if name == "aria-labelledby" else []
            assert set(targets) <= set(ids), (element.tag, name, value)


def test_charts_and_pictures_have_words_for_those_who_do_not_see_them(page: Page) -> None:
    charts = [e for e in page.tree.all("svg") if e["role"] == "img"]
    assert charts == page.tree.all("svg")
    assert len(charts) > 10
    assert all(e["aria-label"].strip() and e["viewbox"] for e in charts)
    pictures = page.tree.all("img")
    assert len(pictures) == 2 * 2 * 8  # models, clean and attacked, images
    assert all(e["alt"].strip() for e in pictures)


def test_tables_have_captions_and_their_heads_say_what_they_head(page: Page) -> None:
    models = {row["run"] for row in page.rows}
    assert len(page.tree.all("table")) == 5 + len(models)  # an audit of each
    for table in page.tree.all("table"):
        (caption,) = table.all("caption")
        assert len(caption.text) > 20
        assert all(head["scope"] in ("col", "row") for head in table.all("th"))


def test_headings_leave_out_no_level(page: Page) -> None:
    levels = [int(e.tag[1]) for e in page.tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


# -- what it says ------------------------------------------------------------------------------------------------


def interval(row: Row, key: str) -> str:
    """As on the page."""
    return f"{per_cent(row[key])} {ends(row[key + '_low'], row[key + '_high'])}"


def test_every_row_stands_in_the_table_of_all_rows(page: Page) -> None:
    head, *lines = page.table("Populations")
    assert len(page.rows) == (2 * 3 + 1) * 2 * 3
    found = sorted(tuple(line[1:]) for line in lines)
    expected = []
    for row in page.rows:
        settings = "".join(f", {k} {v}" for k, v in row["settings"].items())
        expected.append((
            row["attack"] + settings,
            f"{as_text(row['eps'])}",
            row["detector"],
            row["population"],
            str(row["n_clean"]),
            str(row["n_attacked"]),
            interval(row, "eer"),
            interval(row, "auroc"),
            *(per_cent(row[key]) for key in ("tpr_at_fpr01", "tpr_at_fpr05", "tpr_at_fpr10", "fpr05_realised")),
            str(row["n_nonfinite"]),
        ))  # fmt: skip
    assert found == sorted(expected)
    assert head[1:6] == ["attack", "eps", "detector", "population", "clean"]


def test_the_first_table_holds_the_eer_of_each_model_against_each_attack(page: Page) -> None:
    head, *lines = page.table("EER")
    assert len(lines) == 4 * 2 + 2
    for column, loss in enumerate(("lgm", "softmax"), 2):
        assert loss in head[column]
        rows = [r for r in page.rows if r["loss"] == loss and r["population"] == "all"]
        cells = {
            (line[0], line[1]): line[column].replace(" ▲", "") for line in lines if "not run" not in line[column]
        }
        assert len(cells) == len(rows)
        for row in rows:
            settings = "".join(f", {k} {v}" for k, v in row["settings"].items())
            attack = f"{row['attack']} eps {as_text(row['eps'])}{settings} {row['n_clean']} + {row['n_attacked']}"
            assert cells[attack, row["detector"]] == interval(row, "eer")


def test_an_eer_above_one_half_is_marked_and_no_other_is(page: Page) -> None:
    _, *lines = page.table("EER")
    cells = [cell for line in lines for cell in line[2:] if "%" in cell]
    assert all(("▲" in cell) == (float(cell.partition(" ")[0]) > 50) for cell in cells if not cell.startswith("50.0"))
    assert sum("▲" in cell for cell in cells) == sum(
        row["eer"] > 0.5 for row in page.rows if row["population"] == "all"
    )


def test_the_attack_that_knows_a_detector_is_said_not_to_have_run_and_how_to_run_it(page: Page) -> None:
    for caption in ("EER", "Undetected errors"):
        aware = [line for line in page.table(caption) if line[0].startswith("detector-aware")]
        assert [line[1] for line in aware] == ["likelihood", "max-posterior"]
        assert all(line[2:] == ["not run", "not run"] for line in aware)
    (missing,) = (e for e in page.tree.all("ul") if e["class"] == "commands")
    assert [("--loss lgm" in li.text, "--loss softmax" in li.text) for li in missing.all("li")] == [
        (True, False),
        (False, True),
    ]
    assert all(
        "--attack detector-aware --eps 0.3 --detector likelihood,max-posterior" in e.text for e in missing.all("li")
    )
    assert "zero-knowledge" in page.tree.text.lower()


def test_classification_errors_stand_with_their_counts_and_intervals(page: Page) -> None:
    head, *lines = page.table("Share of images classified wrongly")
    attack_rows = [row for run in runs.find(page.folder / "runs") for row in selection.attack_rows(run).values()]
    for column, loss in enumerate(("lgm", "softmax"), 1):
        assert loss in head[column]
        for row in (r for r in attack_rows if r.model.loss == loss):
            settings = "".join(f", {k} {v}" for k, v in row.settings.items())
            (cell,) = (li[column] for li in lines if li[0] == f"{row.attack} eps {as_text(row.eps)}{settings}")
            wrong = round(row.error_rate * row.n)
            bounds = metrics.wilson(wrong, row.n)
            assert bounds is not None
            limits = ends(bounds.low, bounds.high)
            assert cell.startswith(f"{per_cent(row.error_rate)} {wrong} / {row.n} {limits}")
            assert ("target reached" in cell) == (row.target_rate is not None)
            if row.target_rate is not None:
                assert f"target reached: {per_cent(row.target_rate)}" in cell
            counts = (row.zero_gradients, row.saturated)
            assert (f"({counts[0]} zero gradients, {counts[1]} saturated)" in cell) == any(counts)
        clean = next(r for r in attack_rows if r.model.loss == loss and r.n == 300)
        assert lines[0][column].startswith(
            f"{100 * clean.clean_error_rate:.2f} % {round(300 * clean.clean_error_rate)} / 300 ["
        )


def test_the_charts_say_the_eers_of_the_rows(page: Page) -> None:
    labels = [e["aria-label"] for e in page.tree.all("svg") if e["aria-label"].startswith("ROC")]
    for row in page.rows:
        if (row["attack"], row["eps"], row["settings"], row["population"]) != ("fgsm", 0.3, {}, "all"):
            continue
        assert any(row["detector"] in label and f"EER {per_cent(row['eer'])}" in label for label in labels)


def test_how_each_model_was_made_is_said_in_full(page: Page) -> None:
    lists = [d.text for d in page.tree.all("dl")]
    for run in runs.find(page.folder / "runs"):
        (text,) = (t for t in lists if run.name in t)
        for word in (
            "digits-cnn",
            "2-D features",
            "epochs 2",
            "batch_size 100",
            "learning_rate 0.02",
            "1,000 images",
        ):
            assert word in text
        assert run.environment.versions["torch"] in text


def made_again_with(tree: Element) -> list[str]:
    """The command lines under "How this was made"."""
    return [e.text for made in tree.all("dl") for e in made.all("code") if e.text.startswith("advbench ")]


def test_the_commands_on_the_page_find_what_they_made(page: Page, tmp_path: Path) -> None:
    shutil.copytree(page.folder / "runs", tmp_path / "runs")
    before = contents(tmp_path / "runs")
    lines = made_again_with(page.tree)
    assert len(lines) == 2 * 2 + 1  # models x attacks, and one attack with settings of its own
    rows = []
    for line in lines:
        _, *words = shlex.split(line)
        rows += advbench(*words, "--runs-dir", tmp_path / "runs", "--threads", "1")
    stored = [row for run in runs.find(page.folder / "runs") for row in selection.attack_rows(run).values()]
    models = {
        name: found for name, found in contents(tmp_path / "runs").items() if name.endswith("model.safetensors")
    }
    assert models == {name: before[name] for name in models}  # nothing is trained again
    assert contents(tmp_path / "runs") == before  # and nothing attacked again
    assert sorted(map(json.dumps, rows)) == sorted(json.dumps(as_json(row)) for row in stored)


def test_a_page_is_the_same_bytes_each_time(page: Page) -> None:
    found = selection.find(page.folder / "runs", Selected())
    reported, rows = [one.run for one in found], [from_json(VerifyRow, row, "row") for row in page.rows]
    assert render(NAME, found, rows, {run.name: audit(run, reported) for run in reported}) == page.source


# -- strange names -----------------------------------------------------------------------------------------------


def test_a_name_with_tags_is_shown_as_text(page: Page) -> None:
    (title,) = page.tree.all("h1")
    assert title.text == NAME
    assert html.escape(NAME, quote=False) in page.source
    assert "<script" not in page.source


def test_strange_words_in_a_run_folder_are_shown_as_text(page: Page, tmp_path: Path) -> None:
    evil = "'><script>x<img src=y onerror=z>"
    (old,) = (run.name for run in runs.find(page.folder / "runs") if run.trained.loss_name == "softmax")
    shutil.copytree(page.folder / "runs" / old, tmp_path / "runs" / evil)
    path = tmp_path / "runs" / evil / "manifest.json"
    manifest = json.loads(json.dumps(manifest_of(page.folder / "runs" / old)).replace(old, evil))
    manifest["environment"] |= {"device": evil, "system": evil, "commit": evil}
    manifest["environment"]["versions"][evil] = evil
    del manifest["steps"]["verify"]
    for step in manifest["steps"].values():
        if "row" in step["info"]:
            step["info"]["row"] |= {"attack": "art:Strange", "settings": {evil: evil}}
    forge(path.parent, manifest)
    found = selection.find(tmp_path / "runs", Selected(eps=(0.3,)))
    from advbench.study.verify import verify

    rows = [row for one in found for row in verify(one.run, one.attacks, ["max-posterior"])]
    source = render("name", [selection.Found(runs.load(found[0].run.folder), found[0].attacks)], rows)
    tree = Reader(source).root
    assert_loads_nothing(tree)
    assert "<script" not in source
    assert any(evil in code.text for code in tree.all("code"))
    assert any("<script>" in chart["aria-label"] for chart in tree.all("svg"))


def test_a_page_is_replaced_by_one_over_all_its_models_and_by_no_other(page: Page, tmp_path: Path) -> None:
    lgm, softmax = (run.name for run in runs.find(page.folder / "runs"))
    there = tmp_path / "study" / "index.html"
    there.parent.mkdir()
    assert page_at(there, [lgm], Workspace()) == there
    there.write_text(page.source)
    assert page_at(there, [softmax, "more", lgm], Workspace()) == there
    for text in (page.source, "somebody's own"):
        there.write_text(text)
        with pytest.raises(BadSetting, match="--overwrite"):
            page_at(there, [lgm], Workspace())
        assert page_at(there, [lgm], Workspace(others="replaced")) == there
        assert page_at(there, [lgm], Workspace(others="beside")) == tmp_path / lgm / "index.html"
    assert page_at(there, ["a", "b"], Workspace(others="beside")).parent.name.startswith("study-")


# -- parts -------------------------------------------------------------------------------------------------------


def test_undefined_is_not_available_and_never_zero() -> None:
    assert percent(None) == "n/a"
    assert percent(0.0) == "0.0 %"
    assert percent(0.12345) == "12.3 %"
    assert percent(0.12345, 2) == "12.35 %" or percent(0.12345, 2) == "12.34 %"


def test_a_chart_escapes_its_label_and_keeps_its_ids_to_itself() -> None:
    curve = plots.Curve("<b>&\"'", metrics.roc(np.array([0.0, 1.0]), np.array([1.0, 2.0])))
    one, other = (plots.to_svg(plots.roc_chart([curve]), "<i>&\"'", key) for key in ("a", "b"))
    for source in (one, other):
        (chart,) = (e for e in Reader(source).root.all("svg"))
        assert chart["aria-label"] == "<i>&\"'"
        assert chart["role"] == "img"
        assert "<b>" not in source
    ids = [set(re.findall(r'\bid="([^"]+)"', source)) for source in (one, other)]
    assert not ids[0] & ids[1]


def test_a_histogram_of_equal_values_is_one_bar() -> None:
    source = plots.to_svg(plots.histogram(np.ones(5), np.zeros(5), xlabel="p"), "two bars", "k")
    assert Reader(source).root.all("svg")[0]["aria-label"] == "two bars"


def test_a_picture_is_an_embedded_png_of_its_own_grey_levels() -> None:
    import base64

    from matplotlib.image import imread

    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    address = plots.picture(image)
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    pixels = imread(io.BytesIO(base64.b64decode(data)), format="png")
    assert np.allclose(pixels[..., 0], image[0], atol=0.5 / 255 + 1e-3)


def test_pictures_are_the_first_test_images(page: Page) -> None:
    (run,) = (r for r in runs.find(page.folder / "runs") if r.trained.loss_name == "softmax")
    part = artifacts.read_part(run, "test")
    assert part.examples is not None
    sources = [e["src"] for e in page.tree.all("img")]
    for image in part.examples:
        assert plots.picture(image.numpy()) in sources


# -- two regimes -------------------------------------------------------------------------------------------------


def test_an_adversarially_trained_model_is_told_from_a_standard_one_and_made_again(tmp_path: Path) -> None:
    places = ("--runs-dir", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports"))
    common = (*places, "--epochs", "1", "--eps", "0.1", "--n", "20")
    advbench("attack", "--loss", "lgm", *common)
    advbench("attack", "--loss", "lgm", *common, "--adversarial-steps", "2", "--adversarial-step", "0.03")
    advbench("report", "--name", "all", *places)
    tree = Reader((tmp_path / "reports" / "all" / "index.html").read_text(encoding="utf-8")).root
    assert [h.text for h in tree.all("h4") if h.text.endswith("lgm")][-2:] == ["adversarial lgm", "lgm"]
    assert "adversarial, on attacked images: eps 0.1, steps 2, step 0.03, ramp 0.0" in tree.text
    before = contents(tmp_path / "runs")
    lines = made_again_with(tree)
    assert len(lines) == 2
    for line in lines:
        advbench(*shlex.split(line)[1:], *places)
    assert contents(tmp_path / "runs") == before
    rows = advbench("report", "--name", "one", "--training", "adversarial", *places)
    assert {row["training"] for row in rows} == {"adversarial"}
    advbench("attack", "--loss", "lgm", *common, "--adversarial-eps", "0.2")
    advbench("report", "--name", "all", *places)
    labels = Reader((tmp_path / "reports" / "all" / "index.html").read_text(encoding="utf-8")).root.text
    assert "adversarial lgm, training eps 0.2, seed 0" in labels
