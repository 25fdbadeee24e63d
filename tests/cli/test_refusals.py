"""What the command line refuses, in one sentence, leaving all as it was."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.command_line import SMALL, Small, advbench, assert_refused, contents

EPS = ["-0.1", "0", "1.01", "nan", "inf", "-inf", "1e400", "", " ", "abc", "0.1,,0.2", "0.1,", "1/0", "0/1", "2/1"]


def refusal(small: Small, *words: str | Path) -> str:
    """The sentence in which a command on a finished study is refused; nothing there has changed."""
    before = contents(small.folder)
    places = small.places[:2] if words[0] in ("list", "verify") else small.places
    said = assert_refused(advbench(*words, *places, "--json"))
    assert contents(small.folder) == before
    return said


@pytest.mark.parametrize("command", ["attack", "verify", "report", "run"])
@pytest.mark.parametrize("eps", EPS)
def test_an_eps_that_is_no_eps_is_refused(small: Small, command: str, eps: str) -> None:
    assert "eps" in refusal(small, command, f"--eps={eps}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--loss", "lgm", "--alpha=-0.5"), "alpha"),
        (("train", "--loss", "lgm", "--alpha=nan"), "alpha"),
        (("train", "--loss", "lgm", "--lam=-1"), "lam"),
        (("train", "--loss", "lgm", "--log-var-floor=nan"), "log_var_floor"),
        (("train", "--loss", "center", "--weight=-1"), "weight"),
        (("train", "--loss", "center", "--centre-step=-1"), "centre_step"),
        (("train", "--loss", "softmax", "--alpha", "1"), "alpha"),
        (("attack", "--loss", "center", "--lam", "1"), "lam"),
        (("run", "--loss", "softmax,center", "--alpha", "1"), "alpha"),
        (("train", "--loss", ""), "loss"),
        (("run", "--loss", ""), "loss"),
        (("run", "--loss", "softmax,,lgm"), "loss"),
        (("train", "--epochs", "0"), "epochs"),
        (("train", "--epochs=-1"), "epochs"),
        (("train", "--train-batch-size", "0"), "batch_size"),
        (("train", "--learning-rate", "0"), "learning_rate"),
        (("train", "--learning-rate", "nan"), "learning_rate"),
        (("train", "--momentum=-0.1"), "momentum"),
        (("train", "--momentum", "1"), "momentum"),
        (("train", "--weight-decay=-0.1"), "weight_decay"),
        (("train", "--warmup=-1"), "warmup"),
        (("train", "--adversarial-eps", "0"), "adversarial eps"),
        (("attack", "--adversarial-eps", "1.1"), "adversarial eps"),
        (("run", "--adversarial-eps", "x"), "adversarial_eps"),
        (("train", "--adversarial-steps", "0"), "adversarial steps"),
        (("train", "--adversarial-step=-1"), "adversarial step"),
        (("train", "--adversarial-ramp", "2"), "adversarial ramp"),
        (("train", "--no-adversarial", "--adversarial-eps", "0.1"), "--no-adversarial"),
        (("verify", "--training", "robust"), "adversarial"),
        (("report", "--training", "standard,"), "training"),
        (("train", "--batch-size", "0"), "batch_size"),
        (("run", "--batch-size", "0"), "batch_size"),
        (("train", "--threads", "0"), "threads"),
        (("train", "--threads", "1000000"), "at most 1024"),
        (("attack", "--eps", ""), "--eps 0.1,0.2"),
        (("train", "--seed=-1"), "seed"),
        (("train", "--seed", "x"), "seed"),
        (("attack", "--seed", "0,1"), "seed"),
        (("run", "--seed", "0,x"), "seed"),
        (("run", "--seed", ""), "seed"),
        (("verify", "--seed", "x"), "seed"),
        (("verify", "--alpha", "x"), "alpha"),
        (("attack", "--n", "0"), "n = 0"),
        (("attack", "--n", "301"), "301"),
        (("run", "--n", "0"), "n = 0"),
        (("run", "--n", "301"), "300"),
        (("train", "--feature-dim", "3"), "feature_dim"),
        (("train", "--feature-dim", "x"), "feature_dim"),
        (("run", "--feature-dim", "1e2"), "feature_dim"),
        (("train", "--device", "gpu"), "cpu"),
        (("train", "--device", "cuda:63"), "cuda:63"),
        (("train", "--device", ""), "device"),
        (("train", "--dataset", ""), "data set"),
        (("train", "--network", ""), "network"),
        (("attack", "--attack", ""), "attack"),
        (("run", "--detector", ""), "detector"),
        (("list", "nothing"), "nothing"),
        (("list", "runz"), "'runs'"),
        (("run", "no-such-file.toml"), "no-such-file.toml"),
        (("run", "."), "spec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_value_is_refused_in_one_sentence(small: Small, words: tuple[str, ...], said: str) -> None:
    assert said in refusal(small, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--epochs", "x"),
        ("train", "--alpha", "abc"),
        ("attack", "--n", "1.5"),
        ("train", "--batch-size", "x"),
        ("train", "--no-such-option"),
        ("train", "surplus"),
        ("no-such-command",),
        ("verify", "--epochs", "2"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_parsed_is_refused_in_one_line(words: tuple[str, ...]) -> None:
    assert_refused(advbench(*words))


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("train", "--loss", "sofmax"), "softmax"),
        (("run", "--loss", "softmax,lgn"), "lgm"),
        (("attack", "--attack", "fgms"), "fgsm"),
        (("attack", "--attack", "targeted_fgsm"), "targeted-fgsm"),
        (("run", "--detector", "likelyhood"), "likelihood"),
        (("verify", "--detector", "max-posteriour"), "max-posterior"),
        (("verify", "--attack", "fgms"), "fgsm"),
        (("verify", "--loss", "lgn"), "lgm"),
        (("report", "--dataset", "digit"), "digits"),
        (("train", "--dataset", "minst"), "mnist"),
        (("train", "--loss", "lgm", "--covariance", "diagnal"), "diagonal"),
        (("train", "--precision", "fp23"), "fp32"),
        (("train", "--augmentation", "miror-crop"), "mirror-crop"),
        (("train", "--network", "digit-cnn"), "digits-cnn"),
        (("list", "atacks"), "attacks"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(
    small: Small, words: tuple[str, ...], near: str
) -> None:
    assert f"Did you mean {near!r}?" in refusal(small, *words)


@pytest.mark.parametrize("name", ["../x", "", " ", ".", "..", ".x", "a/b", "a\\b", "a\nb", "a\0b", "x" * 300, "x "])
@pytest.mark.parametrize("command", ["run", "report"])
def test_a_study_name_that_is_no_folder_name_is_refused(small: Small, command: str, name: str) -> None:
    said = refusal(small, command, f"--name={name}")
    assert "name" in said
    assert len(said) < 400


@pytest.mark.parametrize("command", ["verify", "report"])
def test_nothing_to_verify_is_refused_with_a_command_that_makes_something(
    small: Small, tmp_path: Path, command: str
) -> None:
    for words in (
        ("--runs-dir", str(tmp_path / "none")),
        ("--runs-dir", str(small.runs), "--eps", "0.77"),
        ("--runs-dir", str(small.runs), "--seed", "9"),
        ("--runs-dir", str(small.runs), "--loss", "center"),
    ):
        assert "advbench attack" in assert_refused(advbench(command, *words, "--json"))
    assert list(tmp_path.iterdir()) == []


def test_a_runs_folder_that_is_a_file_is_refused_by_every_command(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for words in (("train", *SMALL), ("attack", *SMALL), ("run", *SMALL), ("verify",), ("report",), ("list", "runs")):
        assert str(file) in assert_refused(advbench(*words, "--runs-dir", file, "--json"))
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_folder_that_is_a_file_is_refused_before_any_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    words = ("--loss", "softmax", "--attack", "fgsm", "--eps", "0.1", "--epochs", "1", "--threads", "1")
    assert_refused(advbench("run", *words, "--runs-dir", tmp_path / "runs", "--reports-dir", file))
    assert list(tmp_path.iterdir()) == [file]


def idx(magic: int, shape: tuple[int, ...], data: bytes) -> bytes:
    """An IDX file: magic number, sizes, bytes."""
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + data


def four(images: Callable[[int], bytes], labels: Callable[[int], bytes]) -> dict[str, bytes]:
    """The four files of MNIST, from the number of images in each part."""
    files = {}
    for prefix, n in (("train", 60_000), ("t10k", 10_000)):
        files[f"{prefix}-images-idx3-ubyte"] = images(n)
        files[f"{prefix}-labels-idx1-ubyte"] = labels(n)
    return files


def some_images(n: int) -> bytes:
    return idx(0x803, (n, 28, 28), bytes(28 * 28 * 10))


def some_labels(n: int) -> bytes:
    return idx(0x801, (n,), bytes(range(10)))


MNIST_FOLDERS: dict[str, dict[str, bytes]] = {
    "no files": {},
    "truncated": four(some_images, some_labels),
    "empty files": four(lambda _: b"", lambda _: b""),
    "text files": four(lambda _: b"<html>404 not found</html>", lambda _: b"<html>404 not found</html>"),
    "noise": four(lambda n: bytes((7 * i + n) % 256 for i in range(999)), lambda n: bytes([255, n % 256] * 50)),
    "ten images": four(lambda _: some_images(10), lambda _: some_labels(10)),
    "labels missing": {k: v for k, v in four(some_images, some_labels).items() if "images" in k},
}


@pytest.mark.parametrize("case", MNIST_FOLDERS)
def test_mnist_with_bad_files_is_refused_and_names_their_folder(tmp_path: Path, case: str) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in MNIST_FOLDERS[case].items():
        (raw / name).write_bytes(data)
    before = contents(tmp_path)
    said = assert_refused(advbench("train", "--dataset", "mnist", "--data-dir", tmp_path / "data", "--json"))
    assert str(raw) in said
    assert "--download" in said or "original" in said
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_mnist_without_a_data_folder_says_how_to_name_one(tmp_path: Path) -> None:
    words = ("run", "--dataset", "mnist", "--json")
    assert "--data-dir" in assert_refused(advbench(*words))
    assert str(tmp_path / "none") in assert_refused(advbench(*words, "--data-dir", tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_the_data_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVBENCH_DATA", str(tmp_path / "from-the-environment"))
    assert "from-the-environment" in assert_refused(advbench("train", "--dataset", "mnist"))


def test_the_runs_folder_may_come_from_the_environment(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVBENCH_RUNS", str(small.runs))
    assert {"softmax", "lgm"} <= {row["loss"] for row in advbench("list", "runs", "--json").rows}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilon = 0.3", "epsilon"),
        ("attack = ['fgsm']", "'attacks'"),
        ("[training]\nepoch = 3", "'epochs'"),
        ("losses = [{ name = 'lgm', lambda = 0.1 }]", "'lambda'"),
        ("losses = [{ name = 'softmax', alpha = 1.0 }]", "alpha"),
        ("attacks = [{ name = 'fgsm', epz = 0.3 }]", "'eps'"),
        ("attacks = [{ name = 'fgsm', n = 0 }]", "n"),
        ("losses = ['lgm'", "TOML"),
        ("name = 5", "name"),
        ("dataset = 5", "dataset"),
        ("dataset = ['digits']", "dataset"),
        ("network = 5", "network"),
        ("feature_dim = '100'", "feature_dim"),
        ("feature_dim = true", "feature_dim"),
        ("feature_dim = 3", "feature_dim"),
        ("losses = 5", "loss"),
        ("losses = []", "losses"),
        ("losses = [true]", "loss"),
        ("losses = [{ alpha = 1.0 }]", "name"),
        ("losses = [{ name = 5 }]", "name"),
        ("losses = [{ name = 'lgm', alpha = 'much' }]", "alpha"),
        ("losses = [{ name = 'lgm', alpha = [1.0] }]", "alpha"),
        ("losses = [{ name = 'lgm', covariance = 1 }]", "covariance"),
        ("losses = [{ name = 'lgm', adversarial = 1 }]", "adversarial"),
        ("losses = [{ name = 'lgm', adversarial = { epz = 0.1 } }]", "'eps'"),
        ("losses = [{ name = 'lgm', adversarial = { eps = 2 } }]", "adversarial eps"),
        ("seeds = 'x'", "seed"),
        ("seeds = []", "seeds"),
        ("attacks = 5", "attack"),
        ("attacks = []", "attacks"),
        ("attacks = [{ eps = 0.3 }]", "name"),
        ("attacks = [{ name = 'fgsm', eps = [] }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = true }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = [[0.1]] }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = 0 }]", "eps"),
        ("attacks = [{ name = 'fgsm', eps = inf }]", "eps"),
        ("attacks = [{ name = 'fgsm', clip = 1 }]", "clip"),
        ("attacks = [{ name = 'fgsm', exact_gradient = 'yes' }]", "exact_gradient"),
        ("detectors = 5", "detectors"),
        ("detectors = [5]", "detectors"),
        ("detectors = []", "detectors"),
        ("detectors = ['likelyhood']", "'likelihood'"),
        ("n = '5'", "n"),
        ("n = true", "n"),
        ("n = 0", "n"),
        ("n = 301", "301"),
        ("n = [5]", "n"),
        ("training = 5", "training"),
        ("training = ['epochs']", "training"),
        ("[training]\nepochs = '3'", "epochs"),
        ("[training]\nepochs = 0", "epochs"),
        ("[training]\nbatch_size = 0", "batch_size"),
        ("[training]\nlearning_rate = 'x'", "learning_rate"),
        ("[training]\nlearning_rate = inf", "learning_rate"),
        ("[training]\nmomentum = [0.9]", "momentum"),
        ("[training]\nweight_decay = false", "weight_decay"),
        ("[training]\nwarmup = 'x'", "warmup"),
        ("[training]\nprecision = 16", "precision"),
        ("[training]\nprecision = 'fp23'", "'fp32'"),
        ("[training]\nfull_train = 1", "full_train"),
    ],
)
def test_a_bad_spec_is_refused_in_one_sentence(small: Small, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert said in refusal(small, "run", path)


@pytest.mark.parametrize(
    "text",
    [
        "losses = 5",
        "losses = [5]",
        "losses = [{ alpha = 1.0 }]",
        "attacks = 5",
        "attacks = [5]",
        "attacks = [{ eps = 0.1 }]",
        "training = 5",
    ],
)
def test_a_bad_spec_stays_bad_when_options_override_parts_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert_refused(advbench("run", path, "--alpha", "1", "--eps", "0.1", "--epochs", "1"))


def test_a_spec_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00name")
    assert_refused(advbench("run", tmp_path / "noise.toml"))
