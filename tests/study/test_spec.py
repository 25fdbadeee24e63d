"""A study's record: what its keys mean, and what its models and attack files are called."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from advbench import catalog
from advbench.errors import BadSetting, UnknownName
from advbench.study.parsing import USUAL, folder_name, parse, read_toml
from advbench.study.spec import AttackChoice, Choice, Model


def models(**table: Any) -> list[Model]:
    """The models of a spec."""
    return parse(table).models()


def file_names(*attacks: object, n: int | None = None) -> list[str]:
    """The attack files of a spec."""
    return [choice.file_name for choice in parse({"attacks": list(attacks), "n": n}).attacks]


def test_the_default_study_is_the_one_that_the_readers_are_told() -> None:
    spec = parse({})
    assert (spec.name, spec.dataset, spec.seeds) == ("digits-study", "digits", (0,))
    assert [(loss.name, loss.adversarial is not None) for loss in spec.losses] == [
        ("softmax", False), ("center", False), ("lgm", False), ("softmax", True), ("lgm", True),
    ]  # fmt: skip
    assert [choice.file_name for choice in spec.attacks] == [
        "fgsm-eps0.1",
        "fgsm-eps0.2",
        "fgsm-eps0.3",
        "targeted-fgsm-eps0.3",
        *(f"detector-aware-eps{eps}-{end}" for eps in (0.1, 0.3) for end in ("1e2dbef6", "7315ddf8")),
    ]
    aware = [(c.choice.settings["eps"], c.detector, c.fpr, c.n) for c in spec.attacks[4:]]
    assert aware == [(eps, name, 0.05, 200) for eps in (0.1, 0.3) for name in spec.detectors]
    assert spec.detectors == ("likelihood", "max-posterior")


def test_the_study_is_named_after_its_data_set() -> None:
    assert parse({"dataset": "mnist"}).name == "mnist-study"
    assert parse({"dataset": "mnist", "name": "mine"}).name == "mine"


def test_a_single_value_is_a_list_of_one() -> None:
    one = parse({"losses": "lgm", "seeds": 3, "attacks": "fgsm", "detectors": "likelihood"})
    many = parse({"losses": ["lgm"], "seeds": [3], "attacks": ["fgsm"], "detectors": ["likelihood"]})
    assert one == many
    assert parse({"losses": {"name": "lgm"}}) == parse({"losses": ["lgm"]})


def test_what_is_said_twice_counts_once_and_order_stays() -> None:
    spec = parse({
        "losses": ["lgm", "softmax", {"name": "lgm", "alpha": 1}],
        "seeds": [4, 0, 4],
        "attacks": [{"name": "fgsm", "eps": [0.2, 0.1]}, {"name": "fgsm", "eps": "1/10"}],
        "detectors": ["max-posterior", "likelihood", "max-posterior"],
    })  # fmt: skip
    assert [loss.name for loss in spec.losses] == ["lgm", "softmax"]
    assert spec.seeds == (4, 0)
    assert [choice.choice.settings["eps"] for choice in spec.attacks] == [0.2, 0.1]
    assert spec.detectors == ("max-posterior", "likelihood")


def test_two_settings_of_one_loss_are_two_models() -> None:
    made = models(losses=["lgm", {"name": "lgm", "alpha": 0.0}], seeds=[0, 1])
    assert [(m.loss.settings["alpha"], m.seed) for m in made] == [(1.0, 0), (1.0, 1), (0.0, 0), (0.0, 1)]


def test_training_settings_override_the_data_sets_own_and_leave_the_rest() -> None:
    (plain, *_), (changed, *_) = models(dataset="mnist"), models(dataset="mnist", training={"epochs": 3})
    assert changed.training == dataclasses.replace(plain.training, epochs=3)
    assert dataclasses.asdict(plain.training).items() >= catalog.load("data set", "mnist").recipe.training.items()
    assert (plain.network, models()[0].network) == ("mnist-cnn", "digits-cnn")
    assert models(network="mnist-cnn")[0].network == "mnist-cnn"


# -- models ------------------------------------------------------------------------------------------------------


CHANGES: list[dict[str, Any]] = [
    {"seeds": 1},
    {"feature_dim": 2},
    {"losses": {"name": "lgm", "alpha": 0.5}},
    {"losses": {"name": "lgm", "lam": 0.5}},
    {"losses": {"name": "lgm", "covariance": "diagonal"}},
    {"losses": {"name": "lgm", "log_var_floor": -3}},
    {"losses": "center"},
    {"network": "mnist-cnn"},
    {"training": {"epochs": 29}},
    {"training": {"batch_size": 65}},
    {"training": {"learning_rate": 0.051}},
    {"training": {"momentum": 0.91}},
    {"training": {"weight_decay": 5.1e-4}},
    {"training": {"warmup": 1.1}},
    {"training": {"precision": "bf16"}},
    {"training": {"full_train": True}},
]


def test_whatever_determines_the_weights_determines_the_folder() -> None:
    names = [models(**{"losses": "lgm", **change})[0].run_name("data") for change in ({}, *CHANGES)]
    names.append(models(losses="lgm")[0].run_name("other data"))
    assert len(set(names)) == len(CHANGES) + 2


def test_whatever_does_not_determine_the_weights_does_not_move_the_folder() -> None:
    plain = models(losses="lgm")[0].run_name("data")
    for table in (
        {"name": "other"},
        {"attacks": [{"name": "fgsm", "eps": 0.05}]},
        {"n": 7},
        {"detectors": "likelihood"},
        {"training": {"epochs": 30}},
        {"losses": {"name": "lgm", "alpha": 1}},
        {"network": "digits-cnn"},
    ):
        assert models(**{"losses": "lgm", **table})[0].run_name("data") == plain


def test_a_run_name_is_readable_and_ends_in_a_digest() -> None:
    (model,) = models(losses={"name": "lgm", "alpha": 0.5, "covariance": "diagonal"}, seeds=7, feature_dim=2)
    assert re.fullmatch(r"digits-lgm-alpha0\.5-covariancediagonal-2d-seed7-[0-9a-f]{8}", model.run_name("data"))
    (plain,) = models(losses="softmax")
    assert re.fullmatch(r"digits-softmax-seed0-[0-9a-f]{8}", plain.run_name("data"))


def test_a_record_says_all_settings_defaults_included() -> None:
    record = models(losses="lgm", seeds=5)[0].record("abc")
    assert record.loss == {
        "name": "lgm", "alpha": 1.0, "lam": 0.1, "covariance": "identity", "log_var_floor": -4.0,
    }  # fmt: skip
    assert (record.data_sha256, record.regime, record.seed) == ("abc", "standard", 5)
    assert (record.network, record.feature_dim) == ("digits-cnn", 100)
    assert record.training["epochs"] == 30


# -- attack files ------------------------------------------------------------------------------------------------


def test_an_attack_file_is_called_after_its_attack_and_eps() -> None:
    assert file_names({"name": "fgsm", "eps": [0.3, 1, "1/4"]}) == ["fgsm-eps0.3", "fgsm-eps1", "fgsm-eps0.25"]
    assert file_names({"name": "targeted-fgsm", "eps": 0.1}) == ["targeted-fgsm-eps0.1"]


@pytest.mark.parametrize("settings", [{"clip": False}, {"exact_gradient": True}])
def test_a_setting_that_is_not_the_default_gives_a_file_of_its_own(settings: dict[str, Any]) -> None:
    (choice,) = parse({"attacks": [{"name": "fgsm", "eps": 0.3, **settings}]}).attacks
    assert re.fullmatch(r"fgsm-eps0\.3-[0-9a-f]{8}", choice.file_name)
    assert choice.settings == settings


def test_a_setting_at_its_default_gives_no_file_of_its_own() -> None:
    given = {"name": "fgsm", "eps": 0.3, "clip": True, "exact_gradient": False}
    assert file_names(given) == ["fgsm-eps0.3"]
    assert parse({"attacks": [given]}).attacks[0].settings == {}


def test_every_n_and_every_combination_of_settings_has_its_own_file() -> None:
    names = [
        file_names({"name": "fgsm", "eps": 0.3, "clip": clip, "exact_gradient": exact}, n=n)[0]
        for clip in (True, False)
        for exact in (True, False)
        for n in (None, 10, 11)
    ]
    assert len(set(names)) == 12


def test_two_eps_that_print_alike_do_not_share_a_file() -> None:
    names = file_names({"name": "fgsm", "eps": [0.3, 0.3000001, 0.30000011, "8/255", 0.0313725]})
    assert len(set(names)) == 5
    assert names[0] == "fgsm-eps0.3"


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_files_are_as_different_as_their_eps(one: float, other: float) -> None:
    names = [
        AttackChoice(Choice("fgsm", {"eps": eps, "clip": True, "exact_gradient": False})).file_name
        for eps in (one, other)
    ]
    assert (names[0] == names[1]) == (one == other)
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_the_attack_has_the_settings_of_its_choice() -> None:
    (choice,) = parse({"attacks": [{"name": "fgsm", "eps": "8/255", "clip": False}]}).attacks
    assert choice.attack.eps == 8 / 255
    assert choice.attack.clip is False


# -- numbers that are whole --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("as_float", "as_int"),
    [
        ({"n": 5.0}, {"n": 5}),
        ({"feature_dim": 100.0}, {"feature_dim": 100}),
        ({"seeds": [1.0]}, {"seeds": [1]}),
        ({"training": {"epochs": 3.0}}, {"training": {"epochs": 3}}),
    ],
)
def test_a_whole_float_is_the_whole_number_or_is_refused(as_float: dict[str, Any], as_int: dict[str, Any]) -> None:
    try:
        spec = parse(as_float)
    except BadSetting:
        return
    assert repr(spec) == repr(parse(as_int))


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "my study", "digits-study", "eps=0.1", "Größe", "<b>", "x" * 100, "a.b"])
def test_a_folder_may_be_called(name: str) -> None:
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", " a", "a ", ".", "..", ".hidden", "a/b", "/a", "../a", "a\\b", "a:b", "a\n", "a\0b", "a\x1bb",
     "x" * 101, "ß" * 51, 5, None, ["a"]],
)  # fmt: skip
def test_a_folder_may_not_be_called(name: object) -> None:
    with pytest.raises(BadSetting, match="name") as caught:
        folder_name(name)
    assert "\n" not in str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------


def test_a_spec_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"none\.toml"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(BadSetting, match="spec"):
        read_toml(tmp_path)


def test_toml_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("name = 'a'\nseeds = = 0\n")
    with pytest.raises(BadSetting, match=r"bad\.toml.*line 2"):
        read_toml(path)


def test_an_unknown_key_is_refused_with_all_known_ones() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'seeds'") as caught:
        parse({"seed": 0})
    assert all(key in str(caught.value) for key in vars(USUAL))


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
def test_seeds_up_to_32_bits_are_allowed(value: int) -> None:
    assert parse({"seeds": value}).seeds == (value,)


@pytest.mark.parametrize("value", [-1, 2**32, 0.5, "0", True, None])
def test_other_seeds_are_refused(value: object) -> None:
    with pytest.raises(BadSetting, match="seed"):
        parse({"seeds": [value]})
