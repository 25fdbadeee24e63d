"""A classifier from elsewhere: what comes in, what is refused and in which words, and that data never run as code."""

import argparse
import copy
import importlib.util
import json
import pickle
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advbench.errors import AdvbenchError, BadData, BadSetting
from advbench.supplied.loading import code_file_of, identity_of, load_model
from tests.helpers.supplied import MODEL as NET, Net

SHAPE = (1, 8, 8)
Write = Callable[..., str]


class Evil:
    """Unpickling it creates the file it was made with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes m.py and gives `.../m.py:build`."""

    def put(text: str, name: str = "build", *, file: str = "m.py") -> str:
        (tmp_path / file).write_text(text, encoding="utf-8")
        return f"{tmp_path / file}:{name}"

    return put


def load(source: str, **more: object) -> nn.Module:
    return load_model(source, classes=10, shape=SHAPE, **more)  # type: ignore[arg-type]


def refused(source: str, **more: object) -> str:
    with pytest.raises(AdvbenchError) as caught:
        load(source, **more)
    text = str(caught.value)
    assert "\n" not in text
    return text


def same(model: nn.Module, state: Mapping[str, Tensor], *, atol: float = 0) -> bool:
    """Whether a model holds these weights."""
    return all(torch.allclose(own, state[name], rtol=0, atol=atol) for name, own in model.state_dict().items())


def test_a_users_function_gives_a_frozen_float32_model_in_evaluation_mode(write: Write) -> None:
    model = load(write(NET.replace("return Net()", "return Net().double().train()")))
    assert not any(part.training for part in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert model(torch.rand(3, *SHAPE)).shape == (3, 10)


@pytest.mark.parametrize("name", ["Net", "MADE", "build", "sized"])
def test_a_class_a_model_and_a_function_all_build(write: Write, name: str) -> None:
    text = NET + "\nMADE = Net()\ndef sized(num_classes): return Net(classes=num_classes)\n"
    assert load(write(text, name)).last.out_features == 10  # type: ignore[union-attr]


def test_a_parameter_for_the_number_of_classes_is_given_and_no_other(write: Write) -> None:
    text = NET + "\ndef seven(classes, width=3):\n    assert width == 3\n    return Net(classes=classes)\n"
    model = load_model(write(text, "seven"), classes=7, shape=SHAPE)
    assert model(torch.rand(1, *SHAPE)).shape == (1, 7)


def test_a_model_from_an_installed_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("some_package")
    module.__dict__["build"] = Net
    monkeypatch.setitem(sys.modules, "some_package", module)
    assert isinstance(load("some_package:build"), Net)


def test_two_models_each_get_their_own_sibling_and_leave_nothing_behind(tmp_path: Path) -> None:
    before = list(sys.path)
    for folder, classes in (("a", 10), ("b", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_layers.py").write_text(NET, encoding="utf-8")
        text = f"from my_layers import Net\ndef build(): return Net(classes={classes})"
        (tmp_path / folder / "m.py").write_text(text, encoding="utf-8")
        assert load(f"{tmp_path / folder / 'm.py'}:build")(torch.rand(1, *SHAPE)).shape == (1, classes)
        assert sys.path == before
        assert "my_layers" not in sys.modules
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["m.py", "my_layers.py"]


def test_random_weights_are_the_same_each_time_and_the_callers_generator_stays(write: Write) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = load(write(NET)), load(write(NET))
    assert torch.equal(torch.rand(3), expected)
    assert identity_of(first, "m.py:build", None) == identity_of(second, "m.py:build", None)


def test_prints_stay_off_stdout_and_a_default_dtype_does_not_stay(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    load(write("import torch\ntorch.set_default_dtype(torch.float64)\nprint('hello')\n" + NET))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")
    assert torch.get_default_dtype() == torch.float32


def test_an_error_in_a_users_code_names_file_line_and_exception(write: Write) -> None:
    text = refused(write("def helper():\n    raise KeyError('width')\n\ndef build():\n    return helper()\n"))
    assert "m.py, line 2 raised KeyError: 'width'" in text
    assert "line 1 raised ZeroDivisionError" in refused(write("1 / 0"))
    assert "m.py, line 2: SyntaxError" in refused(write("x = 1\ndef build(:\n"))
    assert "m.py, line 1 raised ModuleNotFoundError: No module named 'nowhere'" in refused(write("import nowhere"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def build(): pass", "returned None; is a `return` missing?"),
        ("def build(): return {}", "returned a dict; return the model, and give its weights by --weights"),
        ("def build(): return 3", "returned a int; return a torch.nn.Module"),
        ("import sys\ndef build(): sys.exit(3)", "line 2 calls sys.exit(3)"),
        ("def build(width): pass", "needs arguments (width)"),
        ("build = 3", "is a int; name a model, or a function or class that makes one"),
        ("def biuld(): pass", "no function, class or model in m.py named 'build'. Did you mean 'biuld'?"),
        ("import torch\ndef build():\n  with torch.device('meta'): return torch.nn.Linear(2, 2)", "meta device"),
    ],
)
def test_what_build_gives_instead_of_a_model_has_its_own_message(write: Write, text: str, said: str) -> None:
    assert said in refused(write(text))


def test_a_source_of_no_known_form_has_its_own_message(tmp_path: Path) -> None:
    assert "did you mean m.py:build?" in refused("m.py")
    assert "names no way to make a model. Write" in refused("m.onnx")
    timm = "; did you mean timm:resnet18?" if importlib.util.find_spec("timm") else "."
    assert f"names no way to make a model{timm} Write" in refused("resnet18")
    assert "there is no file" in refused(f"{tmp_path}/none.py:build")
    assert "no module 'nowhere.at_all' can be imported" in refused("nowhere.at_all:build")
    for name in ("w.pt", "w.safetensors", "deep/w.pth", "last.ckpt", "checkpoint.pth.tar"):
        assert f"--model m.py:build --weights {Path(name).name}" in refused(name)


def test_lazy_layers_take_their_size_before_weights_are_loaded(write: Write, tmp_path: Path) -> None:
    save_file({"1.weight": torch.ones(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    text = "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))"
    model = load(write(text), weights=tmp_path / "w.safetensors")
    assert torch.equal(model(torch.ones(1, *SHAPE)), torch.full((1, 10), 64.0))


def test_weights_of_both_formats_arrive(write: Write, tmp_path: Path) -> None:
    state, images = Net().state_dict(), torch.rand(4, *SHAPE)
    expected = Net()
    expected.load_state_dict(state)
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in state.items()}}, tmp_path / "w.bin")
    torch.save(
        {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        tmp_path / "old.pt",
        _use_new_zipfile_serialization=False,
    )
    others = ("checkpoint.pth.tar", "last.ckpt", "resnet20.th", "w.PT", "w.model", "w", "torch.safetensors")
    for name in others:  # what a file holds counts, not its name
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / name)
    for name in ("w.safetensors", "w.pt", "w.pth", "w.bin", "old.pt", *others):
        model = load(write(NET), weights=tmp_path / name)
        assert torch.equal(model(images), expected(images)), name


def test_code_in_a_weights_file_is_refused_and_not_run(write: Write, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"hidden.weight": Evil(trace)}, tmp_path / "new.pt")
    torch.save(Evil(trace), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(trace), protocol=2))
    (tmp_path / "newer.pt").write_bytes(pickle.dumps(Evil(trace)))
    torch.save(Net(), tmp_path / "whole.pt")
    for name in ("new.pt", "legacy.pt", "bare.pt", "whole.pt"):
        text = refused(write(NET), weights=tmp_path / name)
        assert text.startswith(f"{name} holds more than tensors"), text
        assert "nothing in it was run" in text
    assert refused(str(tmp_path / "whole.pt")).startswith("whole.pt holds more than tensors")
    assert "nothing in it was run" in refused(write(NET), weights=tmp_path / "newer.pt")
    assert not trace.exists()


def test_weights_that_do_not_fit_name_a_few_tensors(write: Write, tmp_path: Path) -> None:
    state = Net().state_dict()
    faulty = {
        "missing": {k: v for k, v in state.items() if k != "last.bias"},
        "extra": {**state, **{f"extra.{i}": torch.zeros(1) for i in range(5)}},
        "shape": {**state, "last.weight": torch.zeros(3, 32)},
    }
    for name, tensors in faulty.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    said = {name: refused(write(NET), weights=tmp_path / f"{name}.safetensors") for name in faulty}
    assert "missing: last.bias" in said["missing"]
    assert "not in the model: extra.0, extra.1, extra.2 and 2 more" in said["extra"]
    assert "last.weight is [3, 32] and must be [10, 32]" in said["shape"]


def test_a_broken_weights_file_is_one_sentence(write: Write, tmp_path: Path) -> None:
    state = Net().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pt", "old.pt"):
        whole, cut = (tmp_path / name).read_bytes(), tmp_path / f"cut-{name}"
        for length in (0, 1, 9, len(whole) // 2, len(whole) - 1):
            cut.write_bytes(whole[:length])
            assert "save it again" in refused(write(NET), weights=cut), (name, length)
    (tmp_path / "text.pt").write_text("not weights")
    assert "no whole PyTorch weights file" in refused(write(NET), weights=tmp_path / "text.pt")
    (tmp_path / "text.safetensors").write_bytes(b"\xff" * 64)
    assert "no whole safetensors file" in refused(write(NET), weights=tmp_path / "text.safetensors")
    assert "there is no weights file" in refused(write(NET), weights=tmp_path / "none.pt")
    assert "is a folder, not a weights file" in refused(write(NET), weights=tmp_path)
    for found in ([1, 2], {"epoch": 3}, torch.optim.SGD(Net().parameters()).state_dict()):
        torch.save(found, tmp_path / "none.pt")
        text = refused(write(NET), weights=tmp_path / "none.pt")
        assert f"none.pt holds a {type(found).__name__}, not a state dict of tensors" in text


@pytest.mark.parametrize("key", ["net", "model_state", "net_state_dict", "generator"])
def test_the_one_set_of_weights_is_found_beside_all_else(write: Write, tmp_path: Path, key: str) -> None:
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, *SHAPE)).sum().backward()
    optimizer.step()
    beside = {"optimizer": optimizer.state_dict(), "acc": np.float64(93.2), "best": torch.tensor([93.2]), "epoch": 9}
    beside |= {"args": argparse.Namespace(lr=0.1), "callbacks": {"best_k": {"a": torch.tensor(0.3)}}, "arch": "net"}
    state = OrderedDict((name, nn.Parameter(tensor)) for name, tensor in net.state_dict().items())
    for found in ({key: state}, {"state": {key: state}}, {key: {k: v.half() for k, v in state.items()}}, [state, 3]):
        torch.save(beside | found if isinstance(found, dict) else found, tmp_path / "w.pth")
        assert same(load(write(NET), weights=tmp_path / "w.pth"), state, atol=1e-3)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.net.", "module._orig_mod.", "_orig_mod.module."])
def test_a_prefix_and_a_counter_of_averages_are_left_out_and_said(write: Write, tmp_path: Path, prefix: str) -> None:
    state, said = Net().state_dict(), list[str]()
    averaged = {"n_averaged": torch.tensor(3)} if prefix == "module." else {}  # as AveragedModel saves them
    torch.save({**averaged, **{prefix + name: state[name] for name in state}}, tmp_path / "w.pt")
    assert same(load(write(NET), weights=tmp_path / "w.pt", say=said.append), state)
    counter = "n_averaged is left out, " if averaged else ""
    assert [text.startswith(f"w.pt: names are matched to the model's: {counter}{prefix}") for text in said] == [True]


def test_a_wrapped_part_of_the_model_or_of_the_file_makes_no_difference(write: Write, tmp_path: Path) -> None:
    state = Net().state_dict()
    torch.save({name.replace("hidden.", "hidden.module."): state[name] for name in state}, tmp_path / "w.pt")
    for build in ("torch.compile(Net())", "nn.DataParallel(Net())"):
        model = load(write(f"{NET}\ndef wrapped(): return {build}\n", "wrapped"), weights=tmp_path / "w.pt")
        assert same(getattr(model, "module", model), state)


@pytest.mark.parametrize("names", ["state_dict state_dict_ema", "model ema.net", "student teacher"])
def test_of_several_sets_of_weights_the_user_is_asked_for_one(write: Write, tmp_path: Path, names: str) -> None:
    raw, averaged = names.split()
    outer, _, inner = averaged.partition(".")
    first, second = Net().state_dict(), {f"module.{name}": tensor for name, tensor in Net().state_dict().items()}
    torch.save({raw: first, outer: {inner: second} if inner else second}, tmp_path / "best.pth")
    text = refused(write(NET), weights=tmp_path / "best.pth")
    assert text.endswith(f"give one of them: --weights best.pth:{raw} or best.pth:{averaged}")
    chosen = load(write(NET), weights=tmp_path / f"best.pth:{averaged}")
    assert same(chosen, {name.removeprefix("module."): tensor for name, tensor in second.items()})
    assert f"Did you mean 'best.pth:{raw}'?" in refused(write(NET), weights=tmp_path / f"best.pth:{raw}s")
    flat = {f"{key}.{name}": tensor for key, state in (("a", first), ("b", first)) for name, tensor in state.items()}
    torch.save(flat, tmp_path / "flat.pth")
    assert refused(write(NET), weights=tmp_path / "flat.pth").endswith("give --weights flat.pth:a or flat.pth:b")
    assert same(load(write(NET), weights=tmp_path / "flat.pth:b"), first)
    said: list[str] = []
    torch.save({"generator": {"a.weight": torch.ones(9, 9)}, "critic": first}, tmp_path / "gan.pt")
    assert same(load(write(NET), weights=tmp_path / "gan.pt", say=said.append), first)
    assert said == ["gan.pt:critic: these weights are taken, and not the tensors in gan.pt:generator"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of sparse tensors
@pytest.mark.parametrize("kind", ["sparse", "meta", "complex64", "int8"])
def test_tensors_that_hold_no_plain_numbers_are_refused_by_name(write: Write, tmp_path: Path, kind: str) -> None:
    bias = (state := Net().state_dict())["last.bias"]
    odd = bias.to_sparse() if kind == "sparse" else bias.to(kind if kind == "meta" else getattr(torch, kind))
    torch.save({**state, "last.bias": odd}, tmp_path / "odd.pt")
    text = refused(write(NET), weights=tmp_path / "odd.pt")
    assert re.search(rf"last.bias is torch.*{kind}.* and must be plain torch.float32", text)


def test_an_architecture_of_timm_takes_classes_and_channels_of_the_data() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:resnet10t", classes=7, shape=(1, 32, 32))
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    assert re.search(r"no architecture 'resnt18'; nearest: resnet18,", refused("timm:resnt18"))
    assert "no architecture 'hf-hub:someone/something'" in refused("timm:hf-hub:someone/something")


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'advbench[models]'" in refused("timm:resnet18")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with any.pt2 and two.pt2: one for batches of any size, one for two images."""
    folder = tmp_path_factory.mktemp("archives")
    torch.manual_seed(0)
    net, images = Net().eval(), torch.rand(2, *SHAPE)
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=dynamic), folder / "any.pt2")
    torch.export.save(torch.export.export(net, (images,)), folder / "two.pt2")
    return folder


def test_an_exported_archive_is_code_and_needs_trust(archives: Path) -> None:
    assert "can run code when it is opened" in refused(str(archives / "any.pt2"))
    torch.manual_seed(0)
    expected, images = Net().eval(), torch.rand(5, *SHAPE)
    model = load(str(archives / "any.pt2"), trust=True)
    assert torch.allclose(model(images), expected(images), atol=1e-6)
    assert not any(part.training for part in model.modules())
    assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_an_archive_for_other_images_or_one_batch_size_says_so(archives: Path, tmp_path: Path) -> None:
    assert "for batches of exactly 2" in refused(str(archives / "two.pt2"), trust=True)
    with pytest.raises(BadSetting, match=r"for images of 1x8x8 .* and these are 3x32x32"):
        load_model(str(archives / "any.pt2"), trust=True, classes=10, shape=(3, 32, 32))
    (tmp_path / "bad.pt2").write_bytes(b"PK" + bytes(60))
    assert "cannot be opened as a torch.export archive" in refused(str(tmp_path / "bad.pt2"), trust=True)
    with pytest.raises(BadData, match="there is no file"):
        load(str(tmp_path / "none.pt2"), trust=True)


def test_an_exported_module_that_a_users_file_builds_has_its_mode_taken_as_it_is(
    archives: Path, write: Write
) -> None:
    text = f"import torch\ndef build(): return torch.export.load({str(archives / 'any.pt2')!r}).module()"
    model = load(write(text))
    assert not any(part.training for part in nn.Sequential(model).eval().modules())


def test_the_identity_follows_code_and_weights_and_holds_no_path(write: Write, tmp_path: Path) -> None:
    source = write(NET)
    model = load(source)
    first = identity_of(model, source, code_file_of(source))
    assert first["source"] == "m.py:build"
    assert str(tmp_path) not in json.dumps(first)
    write(NET + "\n# a comment")
    assert identity_of(model, source, code_file_of(source))["code_sha256"] != first["code_sha256"]
    with torch.no_grad():
        model.last.bias[3] += 1e-3  # type: ignore[union-attr, operator, index]
    assert identity_of(model, source, code_file_of(source))["state_sha256"] != first["state_sha256"]
    assert identity_of(model, "timm:resnet10t", code_file_of("timm:resnet10t"))["code_sha256"] is None
