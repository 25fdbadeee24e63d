"""Models that are not ours: what they answer by, what they are made of, and that they come back as they were."""

import copy
import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advbench
from advbench.data.sources.arrays import splits_of
from advbench.device import CPU
from advbench.errors import BadSetting
from advbench.study.evaluation import evaluating
from advbench.study.options import Evaluate
from advbench.study.workspace import Workspace
from advbench.supplied.features import NoFeatures, tap
from advbench.supplied.isolation import borrowed, own_state
from advbench.types import Splits

Around = Callable[[nn.Module, Tensor], Tensor]
GENERATOR = np.random.default_rng(0)  # of noise that no seed of torch reaches


class Wrap(nn.Module):
    """A model around another."""

    def __init__(self, inner: nn.Module, around: Around) -> None:
        super().__init__()
        self.inner = inner
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        return self.around(self.inner, x)


@pytest.fixture(scope="module")
def trained(digits: Splits) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    steps = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        steps.zero_grad()
        F.cross_entropy(net(digits.train.load_all()), digits.train.labels).backward()  # type: ignore[no-untyped-call]
        steps.step()
    return net.eval()


@pytest.fixture
def net(trained: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def plain(trained: nn.Sequential, digits: Splits) -> float:
    """The error rate of the model as it is."""
    return error(advbench.evaluate(copy.deepcopy(trained), *pair(digits), "pgd", "energy", eps=0.1, n=30))


def pair(digits: Splits) -> tuple[Tensor, Tensor]:
    return digits.test.load_all(), digits.test.labels


def evaluate(model: nn.Module, digits: Splits, **more: Any) -> advbench.Result:
    given: dict[str, Any] = {
        "attacks": {"name": "pgd", "steps": 40},
        "detectors": "energy",
        "eps": 0.1,
        "n": 30,
    } | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return advbench.evaluate(model, *pair(digits), **given)


def error(result: advbench.Result) -> float:
    (row,) = result.attacks.values()
    return float(row.error_rate)


# -- as it was ---------------------------------------------------------------------------------------------------


def state(model: nn.Module) -> list[Any]:
    """All that a caller can see of a model and of torch; tensors by what and where they are."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    seen = [(n, id(t), t.data_ptr(), t.dtype, t.requires_grad, t.grad is None, t.tolist()) for n, t in tensors]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    world = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    streams = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    return [seen, [part.training for part in model.modules()], hooks, world, streams]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_process_come_back_as_they_were(
    net: nn.Sequential, digits: Splits, plain: float, mode: Callable[[], AbstractContextManager[Any]], fails: bool
) -> None:
    norm = nn.BatchNorm1d(64, eps=0.0, affine=False, momentum=None)  # at first it changes nothing
    net.insert(1, norm)
    net.train()
    net[4].eval()
    net[2].weight.requires_grad_(False)
    net[4].bias.grad = torch.ones(10)
    net.register_forward_hook(lambda part, given, out: None)
    torch.set_default_dtype(torch.float64)
    before = state(net)
    try:
        with mode(), torch.autocast("cpu", torch.bfloat16):
            inside = state(net)[3]
            if fails:
                with pytest.raises(BadSetting, match="eps"):
                    evaluate(net, digits, eps=3.0)
                with pytest.raises(BadSetting, match="logits"):
                    evaluate(Wrap(net, lambda m, x: m(x)[:, :4]), digits)
            else:
                assert error(evaluate(net, digits)) == plain
            assert state(net)[3] == inside
        assert state(net) == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_eval_computes_into_the_weights_is_taken_back() -> None:
    class Merging(nn.Linear):  # as adapters do that are merged for evaluation
        merged = False

        def train(self, mode: bool = True) -> "Merging":
            if self.merged == mode:
                self.weight.data += -1.0 if mode else 1.0
                self.merged = not mode
            return super().train(mode)

    layer = Merging(2, 2, bias=False)
    before, tied = layer.weight.detach().clone(), nn.Sequential(layer, nn.Linear(2, 2))
    tied[1].weight = layer.weight
    with borrowed(tied, CPU):
        assert torch.equal(layer.weight, before + 1)
        assert tied[1].weight is layer.weight
    assert torch.equal(layer.weight, before)
    assert layer.training
    assert not layer.merged


class Refusing(nn.Sequential):
    """Will not be trained again."""

    def train(self, mode: bool = True) -> "Refusing":
        if mode:
            raise ValueError("frozen")
        return super().train(mode)


class Loop(nn.Sequential):
    """Its train() is another thing."""

    def train(self, loader: object, epochs: int) -> None:  # type: ignore[override]
        """Ten epochs."""


@pytest.mark.parametrize("make", [Refusing, Loop])
def test_a_train_method_of_another_kind_is_named_and_the_weights_come_back(net: nn.Sequential, make: Any) -> None:
    module = make(net)
    before = [(id(p), p.requires_grad) for p in module.parameters()]
    with pytest.raises(BadSetting, match=r"own train\(\) or eval\(\) raised"), borrowed(module, CPU):
        pass
    assert [(id(p), p.requires_grad) for p in module.parameters()] == before


def test_an_evaluation_can_be_run_twice(net: nn.Sequential, digits: Splits, tmp_path: Path) -> None:
    part = splits_of(*pair(digits), None, None, None, "data")
    options = Evaluate(name="x", attacks=("fgsm",), eps=(0.1,), detectors=("energy",), n=9)
    net.train()
    before, found = state(net), []
    for _ in range(2):
        with evaluating(options, Workspace(tmp_path), net, part) as study:
            found.append(study.attack())
    assert found[0] == found[1]
    assert state(net) == before


def test_autocast_and_default_device_do_not_reach_inside() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), own_state():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.ones(1).device == CPU


# -- what they are made of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda m: m.half(), ["weights-type"]),
        (lambda m: m.bfloat16(), ["weights-type"]),
        (lambda m: m.double(), ["weights-type"]),
        (lambda m: Wrap(m, lambda inner, x: inner(x).double()), ["precision"]),
        (lambda m: nn.Sequential(m), []),
    ],
)
def test_other_types_of_weights_give_the_same_figures(
    net: nn.Sequential, digits: Splits, plain: float, make: Any, found: list[str]
) -> None:
    result = evaluate(make(net), digits)
    assert [finding.name for finding in result.findings] == found
    assert error(result) == pytest.approx(plain, abs=1 / 30)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_is_taken_where_no_detector_asks_for_features(
    net: nn.Sequential, digits: Splits, plain: float
) -> None:
    traced = torch.jit.trace(net, digits.test.load_all()[:2])  # type: ignore[no-untyped-call]
    scripted = torch.jit.script(net)
    for model in (traced, scripted, nn.Sequential(scripted), torch.jit.freeze(torch.jit.script(copy.deepcopy(net)))):
        assert error(evaluate(model, digits)) == plain
        with pytest.raises(BadSetting, match="TorchScript"):
            evaluate(model, digits, detectors="knn", train=pair(digits))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda m: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "have no weights yet"),
        (lambda m: m.to("meta"), "meta device"),
        (lambda m: Wrap(m.half(), lambda inner, x: inner(x.half())), "leave half"),
        (lambda m: Wrap(m, lambda inner, x: inner(x.to("meta"))), "does not compute on cpu"),
        (lambda m: Wrap(m, lambda inner, x: inner(x.cuda())), "does not compute on cpu|images.device"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(
    net: nn.Sequential, digits: Splits, make: Any, said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        evaluate(make(net), digits, device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*quantiz")
def test_a_quantised_model_is_named_as_what_it_is(net: nn.Sequential, digits: Splits) -> None:
    with pytest.raises(BadSetting, match="quantised layers have no gradient"):
        evaluate(torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8), digits)  # type: ignore[no-untyped-call]


def test_a_model_let_in_without_gradients_is_looked_at_again_where_an_attack_needs_them(
    net: nn.Sequential, digits: Splits, tmp_path: Path
) -> None:
    model = Wrap(net, lambda m, x: m(x.detach()))
    evaluate(model, digits, attacks={"name": "square", "queries": 5}, runs_dir=tmp_path)
    with pytest.raises(BadSetting, match="no gradient of the logits"):
        evaluate(model, digits, attacks="fgsm", runs_dir=tmp_path)


# -- what they answer by -----------------------------------------------------------------------------------------


def every_tenth_call_otherwise(first: int) -> Around:
    calls = [0] * first

    def around(inner: nn.Module, x: Tensor) -> Tensor:
        calls.append(len(x))
        logits: Tensor = inner(x)
        return logits if len(calls) % 10 else -logits

    return around


@pytest.mark.parametrize(
    ("around", "said"),
    [
        (lambda m, x: m(x) if torch.is_grad_enabled() else m(x.flip(3)), "differ with and without gradients"),
        (lambda m, x: m(x.flip(0)).flip(0) + 3 * x.mean(), "other images of its batch"),
    ],
)
def test_a_model_that_is_two_functions_is_refused(
    net: nn.Sequential, digits: Splits, around: Around, said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        evaluate(Wrap(net, around), digits)


@pytest.mark.parametrize("first", range(4))
def test_a_model_that_counts_its_calls_is_refused_or_doubted(net: nn.Sequential, digits: Splits, first: int) -> None:
    try:
        said = [finding.name for finding in evaluate(Wrap(net, every_tenth_call_otherwise(first)), digits).findings]
    except BadSetting as error:
        said = [str(error)]
    words = ("used for a while", "changed while it was attacked", "stochastic")
    assert any(word in text for word in words for text in said)


@pytest.mark.parametrize(
    ("around", "found"),
    [
        (lambda m, x: m(x + torch.arange(len(x))[:, None, None, None] / 99), "place"),
        (lambda m, x: m(x) * (1 + (len(x) > 64)), "place"),
        (lambda m, x: m(x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))), "place"),
        (lambda m, x: m(x) + 1e6, "offset"),
        (lambda m, x: m(x)[:, torch.arange(9, -1, -1)], "class-order"),
    ],
)
def test_what_is_doubtful_is_a_warning_and_a_finding(
    net: nn.Sequential, digits: Splits, around: Around, found: str
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = advbench.evaluate(Wrap(net, around), *pair(digits), "fgsm", "energy", eps=0.1, n=30)
    assert found in [finding.name for finding in result.findings]
    assert [str(w.message) for w in caught] == [finding.text for finding in result.findings]


def test_a_gradient_that_is_not_finite_is_seen_beyond_the_first_images_and_counted(
    net: nn.Sequential, digits: Splits
) -> None:
    # NaN where the corner is black, which it is in five images alone
    images, labels = pair(digits)
    images = (images + 0.01).clamp(0, 1)
    images[40:45, 0, 0, 0] = 0.0
    model = Wrap(net, lambda m, x: m(x) + 0 * x[:, 0, :1, :1].sqrt().flatten(1))
    given: dict[str, Any] = {"calibration": (images, labels), "detectors": "energy", "eps": 0.004}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = advbench.evaluate(
            model, images[38:48], labels[38:48], ["fgsm", {"name": "mim", "steps": 2}], **given
        )
    assert any("NaN or infinite for 5 of 300 images" in str(w.message) for w in caught)
    assert [row.zero_gradients for row in result.attacks.values()] == [5, 5]


# -- features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "around",
    [
        lambda m, x: (m(torch.cat([x, x.roll(1, 3)])).unflatten(0, (2, -1))).mean(0),
        lambda m, x: m(torch.stack([x, x.roll(1, 3), x.roll(-1, 3)], 1).flatten(0, 1)).unflatten(0, (-1, 3)).mean(1),
    ],
)
def test_several_views_of_an_image_are_no_rows_of_features(
    net: nn.Sequential, digits: Splits, around: Around
) -> None:
    model = Wrap(net, around)
    part = evaluate(model, digits, attacks="fgsm", calibration=pair(digits), n=None)
    with torch.no_grad():
        wrong = (model(digits.test.load_all()).argmax(1) != digits.test.labels).double().mean()
    assert part.table().clean_error_rate.tolist() == [pytest.approx(float(wrong))]
    for layer in (None, "inner.2"):
        with pytest.raises(BadSetting, match="rows of features for 4 images"):
            evaluate(model, digits, detectors="knn", train=pair(digits), features=layer)


class SideBranch(nn.Module):
    """A gate in the middle has the sizes of a last layer; the head is a cosine with centres of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 12)
        self.gate = nn.Linear(12, 10)
        self.open = nn.Linear(10, 12)
        self.centres = nn.Parameter(torch.randn(10, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1)).relu()
        h = h * self.open(self.gate(h)).sigmoid()
        return 16 * F.linear(F.normalize(h), F.normalize(self.centres))


def test_a_layer_that_does_not_decide_the_logits_is_not_taken_for_the_last() -> None:
    torch.manual_seed(0)
    with pytest.raises(NoFeatures, match="'gate' has the sizes, but does not decide the logits"):
        tap(SideBranch().eval(), torch.rand(4, 1, 8, 8))


@pytest.mark.parametrize(
    "around",
    [
        lambda m, x: (m(x) / 3).log_softmax(1),
        lambda m, x: m(x)[:, torch.arange(9, -1, -1)] - 5,
        lambda m, x: F.dropout(m(x), 0.01),
    ],
)
def test_a_layer_whose_output_is_only_rearranged_decides_the_logits(net: nn.Sequential, around: Around) -> None:
    assert tap(Wrap(net, around), torch.rand(4, 1, 8, 8)).layer == "inner.3"


# -- other code, the same weights --------------------------------------------------------------------------------


def test_other_code_with_the_same_weights_is_another_run_and_the_first_is_found_again(
    net: nn.Sequential, digits: Splits, tmp_path: Path
) -> None:
    def run(act: nn.Module) -> str:
        result = evaluate(nn.Sequential(net[0], net[1], act, net[3]), digits, runs_dir=tmp_path)
        assert error(result) == error(evaluate(nn.Sequential(net[0], net[1], act, net[3]), digits))
        return str(result.rows[0].model.run)

    names = [run(act) for act in (nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.ELU(), nn.Tanh())]
    assert names[0] == names[2]
    assert names[1] == names[4]
    assert len(set(names)) == len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "around",
    [
        lambda m, x: m(x + 0.02 * torch.randn_like(x)),
        lambda m, x: m(x.roll(int(torch.randint(-1, 2, ())), 3)),  # one shift for the whole batch
        lambda m, x: m(x + 0.05 * torch.randn_like(x) * (torch.rand(len(x), 1, 1, 1) < 0.1)),
        lambda m, x: m(x + torch.from_numpy(GENERATOR.normal(0, 0.02, x.shape).astype("float32"))),
    ],
)
def test_a_random_model_goes_on_from_its_run(
    net: nn.Sequential, digits: Splits, tmp_path: Path, around: Around
) -> None:
    attack = {"name": "pgd", "steps": 3, "samples": 2}
    given: dict[str, Any] = {"attacks": attack, "runs_dir": tmp_path}
    names = {evaluate(Wrap(net, around), digits, **given).rows[0].model.run for _ in range(3)}
    assert len(names) == 1


def test_batches_smaller_than_what_the_door_looks_at_give_the_same_figures(
    net: nn.Sequential, digits: Splits, plain: float
) -> None:
    for size in (1, 3, 7):
        result = evaluate(net, digits, batch_size=size)
        assert (error(result), result.findings) == (plain, ())


def test_a_model_that_differentiates_inside_itself_or_maps_over_its_parts_is_taken(
    net: nn.Sequential, digits: Splits
) -> None:
    def sharpened(m: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(m(leaf).logsumexp(1).sum(), leaf)
        logits: Tensor = m(x - 0.01 * slope.sign())
        return logits

    def mapped(m: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = torch.func.vmap(lambda shift: m(x + shift))(torch.tensor([0.0, 0.01])).mean(0)
        return logits

    for around in (sharpened, mapped):
        with torch.no_grad():
            wrong = (around(net, digits.test.load_all()).argmax(1) != digits.test.labels).double().mean()
        found = evaluate(Wrap(net, around), digits, attacks="fgsm", calibration=pair(digits), n=None)
        assert found.table().clean_error_rate.tolist() == [pytest.approx(float(wrong), abs=1 / 300)]


def test_recurrent_models_are_attacked_in_evaluation_mode(digits: Splits) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.GRU(8, 16, 2, batch_first=True, dropout=0.5)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.rows(x[:, 0])[0][:, -1])
            return logits

    torch.manual_seed(0)
    model, (images, labels) = Rows().eval(), pair(digits)
    leaf = images[:50].clone().requires_grad_()
    F.cross_entropy(model(leaf), labels[:50]).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    moved = (leaf.detach() + 0.1 * leaf.grad.sign()).clamp(0, 1)
    wrong = float((model(moved).argmax(1) != labels[:50]).double().mean())
    found = evaluate(model, digits, attacks="fgsm", n=50, calibration=pair(digits))
    assert error(found) == pytest.approx(wrong)


def test_another_stand_in_for_a_gradient_is_another_run(net: nn.Sequential, digits: Splits, tmp_path: Path) -> None:
    def stepped(scale: float) -> nn.Module:
        return Wrap(net, lambda m, x: m(scale * x + ((x * 16).round() / 16 - scale * x).detach()))

    runs = [
        evaluate(stepped(s), digits, attacks="fgsm", runs_dir=tmp_path).rows[0].model.run for s in (1.0, -1.0, 1.0)
    ]
    assert runs[0] == runs[2] != runs[1]


def test_caches_that_a_pass_makes_are_gone_afterwards(net: nn.Sequential, digits: Splits) -> None:
    class Cached(nn.Module):
        late: Tensor | None
        new: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.inner = net
            self.register_buffer("late", None)

        def forward(self, x: Tensor) -> Tensor:
            self.late = torch.zeros(1) if self.late is None else self.late
            if not hasattr(self, "new"):
                self.register_buffer("new", torch.zeros(1))
            logits: Tensor = self.inner(x) + self.late + self.new
            return logits

    model = Cached().double()
    evaluate(model, digits, attacks="fgsm")
    assert model.late is None
    assert "new" not in model._buffers
    assert model(digits.test.load_all()[:2].double()).dtype == torch.float64


# -- labels ------------------------------------------------------------------------------------------------------


def test_classes_without_a_test_image_are_the_models(net: nn.Sequential, digits: Splits) -> None:
    images, labels = pair(digits)
    for kept in (labels < 8, labels > 1, labels == 9):
        part = images[kept], labels[kept]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = advbench.evaluate(net, *part, "fgsm", "energy", eps=0.1, calibration=part)
        assert any("classes have no test image" in str(w.message) for w in caught)
        with torch.no_grad():
            wrong = net(part[0]).argmax(1) != part[1]
        (row,) = result.attacks.values()
        assert row.n == int(kept.sum())
        assert row.clean_error_rate == pytest.approx(float(wrong.double().mean()))
    with pytest.raises(BadSetting, match="subtract 1"):
        advbench.evaluate(net, images, labels + 1, "fgsm", "energy", eps=0.1)


@pytest.mark.parametrize("label", [float("inf"), 2**31 - 1, -100])
def test_labels_that_are_none_are_refused_in_a_sentence(net: nn.Sequential, digits: Splits, label: float) -> None:
    labels = torch.cat([digits.test.labels[:-1].double(), torch.tensor([label], dtype=torch.float64)])
    given = labels if label == float("inf") else labels.long()
    with pytest.raises(advbench.BadData):
        advbench.evaluate(net, digits.test.load_all(), given, "fgsm", "energy")


def test_the_table_refuses_a_population_that_there_is_not(net: nn.Sequential, digits: Splits) -> None:
    with pytest.raises(advbench.BadSetting, match="Did you mean 'successful'"):
        evaluate(net, digits).table("succesful")
