"""The inspection: a sound model passes without a word, and each mistake gets its own message and no other."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from advbench.errors import BadSetting, Diagnostic, enforce
from advbench.supplied.features import Supplied, tap
from advbench.supplied.inspection import inspect
from advbench.supplied.normalisation import clearly_better
from advbench.types import Splits

Change = Callable[[Tensor], Any]


def fit(images: Tensor, labels: Tensor, *, layer: nn.Module | None = None, epochs: int = 15) -> nn.Sequential:
    """A small network trained on images as they are, in plain PyTorch."""
    torch.manual_seed(0)
    middle = [] if layer is None else [layer]
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 32), *middle, nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(images)), 100):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(images[index]), labels[index]))
            optimiser.step()
    return net.eval()


class Around(nn.Module):
    """A network with a function before it and one after it."""

    def __init__(self, net: nn.Module, *, before: Change = lambda x: x, after: Change = lambda z: z) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, images: Tensor) -> Any:
        return self.after(self.net(self.before(images)))


@pytest.fixture(scope="module")
def net(digits: Splits) -> nn.Sequential:
    return fit(digits.train.load_all(), digits.train.labels)


@pytest.fixture(scope="module")
def coloured(digits: Splits) -> Splits:
    """The digits in three channels of unlike brightness."""

    def paint(images: Tensor) -> Tensor:
        x = images.expand(-1, 3, -1, -1)
        return x * torch.tensor([0.9, 0.6, 0.3]).reshape(1, 3, 1, 1)

    parts = [
        type(part)(part.name, paint(part.load_all()), part.labels, part.classes)
        for part in (digits.train, digits.validation, digits.calibration, digits.test)
    ]
    return Splits(*parts)


def check(module: nn.Module, splits: Splits, **settings: object) -> list[Diagnostic]:
    test, given = splits.test, {"features": "net" if isinstance(module, Around) else None, **settings}
    model = tap(module, test.load_all()[:2], **given)  # type: ignore[arg-type]
    return inspect(model, test.load_all(), test.labels, 10)


def the_one(found: list[Diagnostic], name: str, severity: str) -> str:
    assert [(finding.name, finding.severity) for finding in found] == [(name, severity)], found
    assert "\n" not in found[0].text
    return found[0].text


def test_a_sound_model_passes_without_a_word(net: nn.Module, digits: Splits) -> None:
    assert check(net, digits) == []
    assert check(Around(net), digits) == []
    assert check(fit(digits.train.load_all(), digits.train.labels, layer=nn.BatchNorm1d(32)), digits) == []
    few = digits.test.take(slice(1))
    assert inspect(tap(net, few.load_all()), few.load_all(), few.labels, 10) == []


def test_random_weights_are_accepted_with_the_warning_of_chance(digits: Splits) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        text = the_one(check(net, digits), "chance", "warning")
        assert "untrained" in text
        enforce(check(net, digits))


def test_constant_predictions_name_the_class(net: nn.Module, digits: Splits) -> None:
    offset = torch.eye(10)[3] * 1000
    text = the_one(check(Around(net, after=lambda z: z / 1000 + offset), digits), "chance", "warning")
    assert "every image is predicted as class 3" in text


def test_two_classes_and_small_positive_logits_are_no_sigmoid(digits: Splits) -> None:
    torch.manual_seed(0)
    last = nn.Linear(32, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), last)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(torch.tensor([0.4, 0.5]))
    images = digits.test.load_all()
    found = inspect(tap(net, images[:2]), images, torch.arange(len(images)) % 2, 2)
    the_one(found, "chance", "warning")


def test_a_last_layer_of_zeros_is_accepted_and_named(digits: Splits) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.zeros_(net[3].weight)  # type: ignore[arg-type]
    assert "last layer of zeros" in the_one(check(net, digits), "constant-logits", "warning")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (lambda x: (x - 0.5) / 0.5, "--mean 0.5 --std 0.5"),
        (lambda x: x * 255, "--mean 0 --std 0.00392157"),
        (lambda x: 1 - x, "hands over 1 - images"),
    ],
)
def test_a_normalisation_that_is_missing_is_named(before: Change, said: str, digits: Splits) -> None:
    net = fit(before(digits.train.load_all()), digits.train.labels)
    assert said in the_one(check(net, digits), "scale", "warning")


def test_a_normalisation_inside_or_given_passes_and_the_remedy_for_a_missing_one_is_one(coloured: Splits) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shift, width = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mean, std))
    net = fit((coloured.train.load_all() - shift) / width, coloured.train.labels)
    assert check(Around(net, before=lambda x: (x - shift) / width), coloured) == []
    assert check(net, coloured, mean=mean, std=std) == []
    text = the_one(check(net, coloured), "scale", "warning")
    words = text.split()
    given = [[float(v) for v in words[words.index(option) + 1].split(",")] for option in ("--mean", "--std")]
    assert check(net, coloured, mean=given[0], std=given[1]) == []


def test_a_normalisation_done_twice_is_named(digits: Splits) -> None:
    class Sine(nn.Module):  # layers with ReLU hardly mind a larger scale
        def forward(self, x: Tensor) -> Tensor:
            return x.sin()

    net = fit((digits.train.load_all() - 0.5) / 0.25, digits.train.labels, layer=Sine())
    inside = Around(net, before=lambda x: (x - 0.5) / 0.25)
    text = the_one(check(inside, digits, mean=[0.5], std=[0.25]), "scale", "warning")
    assert "done twice: leave --mean and --std out" in text


def test_channels_in_another_order_are_named(coloured: Splits) -> None:
    torch.manual_seed(0)
    code = torch.randint(0, 2, (10, 3, 1, 1)).float()  # the class shows in the colour alone
    images = coloured.test.load_all() * 0 + code[coloured.test.labels] + 0.01
    labels = (code[coloured.test.labels].flatten(1) * torch.tensor([1, 2, 4])).sum(1).long()
    net = fit(images.flip(1), labels)
    test = type(coloured.test)("colours", images, labels, coloured.test.classes)
    text = the_one(check(net, Splits(test, test, test, test)), "scale", "warning")
    assert "images.flip(1)" in text


def test_classes_in_another_order_are_named(net: nn.Module, digits: Splits) -> None:
    order = torch.arange(10)
    order[[2, 7]] = torch.tensor([7, 2])
    text = the_one(check(Around(net, after=lambda z: z[:, order]), digits), "class-order", "warning")
    assert "class 2 as 7, 7 as 2" in text
    shifted = check(Around(net, after=lambda z: z.roll(1, dims=1)), digits)
    assert "class 0 as 1, 1 as 2, 2 as 3, 3 as 4, ..." in the_one(shifted, "class-order", "warning")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            lambda z: torch.cat([z[:, :1], z], dim=1),
            "one more than the data's 10 classes; if it has a background class",
        ),
        (lambda z: z[:, 1:], "one fewer than the data's 10 classes"),
        (lambda z: z[:, :1], "one value an image"),
        (lambda z: z.repeat(1, 100), "gives 1000 logits and the data have 10 classes"),
    ],
)
def test_a_wrong_number_of_classes_is_refused_by_what_it_likely_is(
    net: nn.Module, digits: Splits, after: Change, said: str
) -> None:
    assert said in the_one(check(Around(net, after=after), digits), "class-count", "error")


def test_values_that_are_no_numbers_are_counted_and_refused(net: nn.Module, digits: Splits) -> None:
    dark = digits.test.load_all().mean(dim=(1, 2, 3)).median()

    def spoil(value: float) -> nn.Module:
        class Spoilt(Around):
            def forward(self, images: Tensor) -> Tensor:
                bad = images.mean(dim=(1, 2, 3), keepdim=True).flatten(1) < dark
                return torch.where(bad, torch.full((), value), self.net(images))

        return Spoilt(net)

    bad = int((digits.test.load_all().mean(dim=(1, 2, 3)) < dark).sum())
    assert f"NaN logits for {bad} of 300 images" in the_one(check(spoil(math.nan), digits), "nan-logits", "error")
    text = the_one(check(spoil(math.inf), digits), "infinite-logits", "error")
    assert f"infinite logits for {bad} of 300 images" in text


def test_weights_that_hold_nan_are_refused_by_their_name(digits: Splits) -> None:
    net = fit(digits.train.load_all(), digits.train.labels, epochs=1)
    with torch.no_grad():
        net[3].bias[2] = math.nan  # type: ignore[operator]
    text = the_one(check(net, digits), "weights-not-finite", "error")
    assert "1 of the model's 4 tensors hold NaN or infinite values, 3.bias first" in text


def test_random_outputs_are_reported_and_leave_the_callers_random_state(net: nn.Module, digits: Splits) -> None:
    model = tap(Around(net, before=lambda x: F.dropout(x, 0.05)), digits.test.load_all()[:2], features="net")
    state = torch.get_rng_state()
    found = inspect(model, digits.test.load_all(), digits.test.labels, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert "--set samples=20" in the_one(found, "stochastic", "warning")


def test_logits_that_depend_on_the_neighbours_are_refused(digits: Splits) -> None:
    class BatchStatistics(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True)

    net = fit(digits.train.load_all(), digits.train.labels, layer=BatchStatistics())
    assert "BatchNorm in training mode" in the_one(check(net, digits), "batch", "error")


def test_a_part_that_stays_in_training_mode_is_named(digits: Splits) -> None:
    class Stubborn(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "Stubborn":
            return super().train(mode or True)

    net = fit(digits.train.load_all(), digits.train.labels, layer=Stubborn(32))
    assert the_one(check(net, digits), "training-mode", "error").startswith("2 is still in training mode")


@pytest.mark.parametrize(
    ("name", "before", "said"),
    [
        ("no-gradient", lambda x: x.detach(), "no gradient of the logits reaches the pixels"),
        ("no-gradient", lambda x: torch.from_numpy(x.detach().numpy()), "a detour over NumPy"),
        ("zero-gradient", lambda x: (x * 16).round() / 16, "zero for all of 300 images"),
        ("nan-gradient", lambda x: x.sqrt() ** 2, "NaN or infinite for 300 of 300 images"),
    ],
)
def test_a_missing_gradient_is_refused_where_an_attack_needs_one(
    net: nn.Module, digits: Splits, name: str, before: Change, said: str
) -> None:
    assert said in the_one(check(Around(net, before=before), digits), name, "error")
    model = tap(Around(net, before=before), digits.test.load_all()[:2], features="net")
    without = inspect(model, digits.test.load_all(), digits.test.labels, 10, gradients=False)
    the_one(without, name, "warning")


@pytest.mark.parametrize(
    ("name", "severity", "after"),
    [
        ("probabilities", "error", lambda z: z.softmax(1)),
        ("log-probabilities", "warning", lambda z: z.log_softmax(1)),
        ("sigmoid", "warning", lambda z: z.sigmoid()),
        ("precision", "warning", lambda z: z.double()),
        ("precision", "warning", lambda z: z.bfloat16()),
    ],
)
def test_outputs_that_are_no_float32_logits_say_what_they_are(
    net: nn.Module, digits: Splits, name: str, severity: str, after: Change
) -> None:
    scale = 1.0 if name in ("sigmoid", "precision") else 0.3  # so small that no probability is exactly 0 or 1
    found = check(Around(net, after=lambda z: after(z * scale)), digits)
    the_one([finding for finding in found if finding.name != "zero-gradient"], name, severity)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda z: {"logits": z, "loss": 0}, "a dict with the keys logits, loss"),
        (lambda z: (z, z[:, :3]), r"a tuple of 2 \(\[2, 10\], \[2, 3\]\)"),
        (lambda z: None, "returns NoneType"),
        (lambda z: z[:, 0], r"shape \[2\] for 2 images"),
        (lambda z: z[:, :, None, None], r"shape \[2, 10, 1, 1\] for 2 images"),
        (lambda z: z.argmax(1, keepdim=True), "torch.int64 values, which have no gradient"),
        (lambda z: z.t(), r"shape \[10, 2\] for 2 images"),
    ],
)
def test_an_answer_that_is_no_tensor_of_logits_is_refused(
    net: nn.Module, digits: Splits, answer: Change, said: str
) -> None:
    images = digits.test.load_all()[:2]
    with pytest.raises(BadSetting, match=said):
        tap(Around(net, after=answer), images, features="net")
    found = inspect(Supplied(Around(net, after=answer), "net"), images, digits.test.labels[:2], 10)
    the_one(found, "answer", "error")


def conv(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        (conv(3), (1, 8, 8), r"takes 3 channels and the images have 1 \(1x8x8\); .* images.expand\(-1, 3, -1, -1\)"),
        (conv(1), (3, 8, 8), "takes 1 channels and the images have 3 .* a model made for 3 channels"),
        (Around(conv(3), before=lambda x: x.permute(0, 3, 1, 2)), (3, 8, 9), r"as \[n h w c\]"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
            (1, 8, 8),
            "takes 784 values and got 64 from images of 1x8x8",
        ),
        (
            Around(conv(1), before=lambda x: x.nope),  # type: ignore[attr-defined]
            (1, 8, 8),
            "test_inspection.py, line .* raised AttributeError",
        ),
    ],
)
def test_images_that_do_not_fit_the_model_are_explained(
    module: nn.Module, shape: tuple[int, int, int], said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        tap(module, torch.rand(2, *shape))


def test_only_errors_are_enforced() -> None:
    soft, hard = Diagnostic("a", "warning", "soft"), Diagnostic("b", "error", "hard")
    assert enforce([soft]) == (soft,)
    with pytest.raises(BadSetting, match="hard"):
        enforce([soft, hard])


def test_the_paired_test_is_the_exact_one_of_mcnemar() -> None:
    won, right = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    won[:12], right[10:15] = True, True  # 10 gained, 3 lost
    p = binomtest(10, 13, 0.5, alternative="greater").pvalue
    assert clearly_better(won, right, float(p) * 1.001)
    assert not clearly_better(won, right, float(p) * 0.999)
