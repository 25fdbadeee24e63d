"""The command line's twin in TOML: every key has an option that means the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advbench import catalog, losses
from advbench.study.parsing import parse, read_toml
from advbench.study.spec import Spec
from advbench.study.study import Study
from tests.helpers.command_line import Small, advbench, contents


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spec]:
    """The spec that a `run` command line means, without running it."""
    seen: list[Spec] = []

    def stop(study: Study) -> tuple[Path, list[Any]]:
        seen.append(study.spec)
        return Path("nowhere"), []

    monkeypatch.setattr("advbench.report.write.run", stop)

    def ask(*words: str | Path) -> Spec:
        result = advbench("run", *words, "--json")
        assert result.code == 0, result.err
        return seen.pop()

    return ask


TWIN = """
name = "twin"
dataset = "digits"
network = "digits-cnn"
feature_dim = 2
losses = ["softmax", { name = "lgm", alpha = 0.5, lam = 0.2, covariance = "diagonal", log_var_floor = -3 }]
seeds = [3, 4]
attacks = [
  { name = "fgsm", eps = ["8/255", 0.1], clip = false, exact_gradient = true },
  { name = "targeted-fgsm", eps = ["8/255", 0.1], clip = false, exact_gradient = true },
]
detectors = ["max-posterior"]
n = 40
[training]
epochs = 1
batch_size = 100
learning_rate = 0.01
momentum = 0.5
weight_decay = 0.001
warmup = 0.5
precision = "bf16"
augmentation = "mirror-crop"
full_train = true
"""
TWIN_WORDS = """
--name twin --dataset digits --network digits-cnn --feature-dim 2 --loss softmax,lgm --alpha 0.5 --lam 0.2
--covariance diagonal --log-var-floor -3 --seed 3,4 --attack fgsm,targeted-fgsm --eps 8/255,0.1 --no-clip
--exact-gradient --detector max-posterior --n 40 --epochs 1 --train-batch-size 100 --learning-rate 0.01
--momentum 0.5 --weight-decay 0.001 --warmup 0.5 --precision bf16 --augmentation mirror-crop --full-train
"""


def test_every_key_of_a_spec_has_an_option_that_means_the_same(tmp_path: Path, spec_of: Callable[..., Spec]) -> None:
    path = tmp_path / "twin.toml"
    path.write_text(TWIN)
    by_options = spec_of(*TWIN_WORDS.split())
    assert by_options == spec_of(path) == parse(read_toml(path))
    assert by_options != spec_of()
    assert by_options.training["precision"] == "bf16"
    assert by_options.training["augmentation"] == "mirror-crop"


def test_center_settings_have_options_too(spec_of: Callable[..., Spec]) -> None:
    table = {"losses": [{"name": "center", "weight": 0.3, "centre_step": 0.25}]}
    assert spec_of("--loss", "center", "--weight", "0.3", "--centre-step", "0.25") == parse(table)


def test_the_settings_of_adversarial_training_have_options_too(spec_of: Callable[..., Spec]) -> None:
    table = {"eps": "8/255", "steps": 3, "step": 0.01, "ramp": 0.5}
    words = "--adversarial-eps 8/255 --adversarial-steps 3 --adversarial-step 0.01 --adversarial-ramp 0.5"
    meant = parse({"losses": [{"name": "lgm", "adversarial": table}]})
    assert spec_of("--loss", "lgm", *words.split()) == meant
    assert spec_of("--loss", "lgm", "--adversarial", *words.split()) == meant


def test_a_run_without_options_is_the_digits_study(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of()
    assert spec == parse({})
    assert (spec.name, spec.dataset) == ("digits-study", "digits")


@pytest.mark.parametrize(
    ("toml", "words", "meant"),
    [
        ("seeds = [5, 6]", "--seed 1", "seeds = [1]"),
        ("name = 'a'", "--name b", "name = 'b'"),
        ("n = 5\nattacks = 'fgsm'", "--n 7", "n = 7\nattacks = 'fgsm'"),
        ("attacks = [{ name = 'fgsm', n = 5 }]", "--n 7", "n = 7\nattacks = 'fgsm'"),
        ("n = 5", "--n 7", "n = 7"),
        ("detectors = ['likelihood']\nattacks = 'fgsm'", "--detector max-posterior",
         "detectors = ['max-posterior']\nattacks = 'fgsm'"),
        ("losses = ['center']", "--loss lgm", "losses = ['lgm']"),
        ("losses = ['lgm']", "--alpha 0.5", "losses = [{ name = 'lgm', alpha = 0.5 }]"),
        ("losses = { name = 'lgm', lam = 0.3 }", "--alpha 0.5", "losses = [{ name='lgm', alpha=0.5, lam=0.3 }]"),
        ("losses = [{ name = 'lgm', alpha = 2, lam = 0.3 }]", "--alpha 0.5",
         "losses = [{ name = 'lgm', alpha = 0.5, lam = 0.3 }]"),
        ("losses = ['softmax', 'lgm']", "--alpha 0.5", "losses = ['softmax', { name = 'lgm', alpha = 0.5 }]"),
        ("losses = ['lgm']", "--adversarial", "losses = [{ name = 'lgm', adversarial = true }]"),
        ("losses = ['lgm']", "--adversarial-eps 0.2", "losses = [{ name = 'lgm', adversarial = { eps = 0.2 } }]"),
        ("losses = [{ name = 'lgm', adversarial = { steps = 4 } }]", "--adversarial",
         "losses = [{ name = 'lgm', adversarial = { steps = 4 } }]"),
        ("losses = [{ name = 'lgm', adversarial = { steps = 4 } }]", "--adversarial-eps 0.2",
         "losses = [{ name = 'lgm', adversarial = { eps = 0.2, steps = 4 } }]"),
        ("losses = ['lgm', { name = 'lgm', adversarial = true }]", "--no-adversarial", "losses = ['lgm']"),
        ("", "--no-adversarial", "losses = ['softmax', 'center', 'lgm']"),
        ("losses = [{ name = 'lgm', adversarial = true }]", "--alpha 0.5",
         "losses = [{ name = 'lgm', alpha = 0.5, adversarial = true }]"),
        ("[training]\nepochs = 9\nmomentum = 0.5", "--epochs 4", "[training]\nepochs = 4\nmomentum = 0.5"),
        ("attacks = ['targeted-fgsm']", "--eps 0.1", "attacks = [{ name = 'targeted-fgsm', eps = 0.1 }]"),
        ("attacks = [{ name = 'fgsm', eps = 0.1 }]", "--attack targeted-fgsm --eps 0.2",
         "attacks = [{ name = 'targeted-fgsm', eps = 0.2 }]"),
        ("attacks = [{ name = 'fgsm', eps = 0.1, exact_gradient = true }]", "--eps 0.2",
         "attacks = [{ name = 'fgsm', eps = 0.2, exact_gradient = true }]"),
        ("attacks = [{ name = 'fgsm', eps = [0.1, 0.2] }]", "--no-clip",
         "attacks = [{ name = 'fgsm', eps = [0.1, 0.2], clip = false }]"),
        ("", "--exact-gradient",
         "attacks = [{ name = 'fgsm', eps = [0.1, 0.2, 0.3], exact_gradient = true },"
         " { name = 'targeted-fgsm', eps = 0.3, exact_gradient = true },"
         " { name = 'detector-aware', eps = [0.1, 0.3], detector = ['likelihood', 'max-posterior'], budget = 'quick',"
         " n = 200 }]"),
    ],
    ids=lambda value: value if value.startswith("--") else "",
)  # fmt: skip
def test_an_option_overrides_its_key_and_no_other(
    tmp_path: Path, spec_of: Callable[..., Spec], toml: str, words: str, meant: str
) -> None:
    (tmp_path / "given.toml").write_text(toml)
    (tmp_path / "meant.toml").write_text(meant)
    assert spec_of(tmp_path / "given.toml", *words.split()) == parse(read_toml(tmp_path / "meant.toml"))


def aimed(spec: Spec) -> list[tuple[str, float, str | None, float | None, int | None]]:
    """The attacks of a study that know a detector: name, eps, detector, fpr, n."""
    found = [c for c in spec.attacks if c.detector is not None]
    return [(c.choice.name, c.choice.settings["eps"], c.detector, c.fpr, c.n) for c in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--eps 0.1",
         [("detector-aware", 0.1, "likelihood", 0.05, 200), ("detector-aware", 0.1, "max-posterior", 0.05, 200)]),
        ("--detector likelihood --eps 0.2", [("detector-aware", 0.2, "likelihood", 0.05, 200)]),
        ("--attack joint --detector likelihood --eps 0.1", [("joint", 0.1, "likelihood", 0.05, None)]),
        ("--attack joint --eps 0.1 --n 9",
         [("joint", 0.1, "likelihood", 0.05, 9), ("joint", 0.1, "max-posterior", 0.05, 9)]),
        ("--attack fgsm", []),
    ],
)  # fmt: skip
def test_a_study_aims_its_adaptive_attacks_at_its_detectors(
    spec_of: Callable[..., Spec], words: str, expected: list[Any]
) -> None:
    assert aimed(spec_of(*words.split())) == expected


def test_a_spec_file_keeps_the_detector_that_its_attack_names(tmp_path: Path, spec_of: Callable[..., Spec]) -> None:
    path = tmp_path / "study.toml"
    path.write_text("attacks = [{ name = 'joint', detector = 'likelihood', eps = 0.1 }]")
    assert aimed(spec_of(path, "--detector", "max-posterior")) == [("joint", 0.1, "likelihood", 0.05, None)]


def test_a_spec_finds_the_run_folders_that_options_made(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("""
losses = ["softmax", "lgm"]
attacks = [{ name = "fgsm", eps = [0.1, "8/255"] }]
[training]
epochs = 2
""")
    before = contents(small.runs)
    result = advbench("run", path, "--threads", "1", *small.places, "--json")
    assert result.out == small.result.out
    assert contents(small.runs) == before


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--loss lgm --set log_var_floor=-3", {"losses": [{"name": "lgm", "log_var_floor": -3}]}),
        ("--loss lgm --log-var-floor -3", {"losses": [{"name": "lgm", "log_var_floor": -3}]}),
        ("--loss softmax,l-softmax --set loss.margin=2", {"losses": ["softmax", {"name": "l-softmax", "margin": 2}]}),
        ("--loss lgm --set alpha=2 --attack mim --set decay=0.5",
         {"losses": [{"name": "lgm", "alpha": 2}], "attacks": [{"name": "mim", "decay": 0.5}]}),
        ("--attack pgd,mim --set steps=3",
         {"attacks": [{"name": "pgd", "steps": 3}, {"name": "mim", "steps": 3}]}),
    ],
)  # fmt: skip
def test_set_gives_a_setting_to_every_loss_or_attack_that_has_it(
    spec_of: Callable[..., Spec], words: str, meant: dict[str, Any]
) -> None:
    assert spec_of(*words.split()) == parse(meant)


@pytest.mark.parametrize("name", catalog.names("loss"))
def test_every_loss_can_be_imported_by_its_class(name: str) -> None:
    cls = catalog.load("loss", name)
    assert getattr(losses, cls.__name__) is cls
