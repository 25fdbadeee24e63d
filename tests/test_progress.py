"""The bar and its lines, and what they are told while a batch is at work."""

import io
import re
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.modules import module as torch_modules

from advbench.detection import AcceptAll, Guard, calibration
from advbench.evasion import perturb
from advbench.progress import Terminal
from advbench.study.parsing import attack_choices
from advbench.types import ImageSet
from advbench.victim import Meter, Victim, meter


class Clocked(Terminal):
    """A terminal that writes to a text, its clock set by hand."""

    def __init__(self, **console: Any) -> None:
        super().__init__(lambda: self.time)
        self.time, self.text = 0.0, io.StringIO()
        self.console = Console(file=self.text, highlight=False, **console)


def test_redirected_work_gets_a_line_at_the_start_one_every_30_s_at_most_and_its_duration() -> None:
    with (progress := Clocked()).bar("pgd", 4000) as advance:
        for progress.time in (1, 29, 30, 31, 59, 60, 95.5):
            advance(10 * progress.time, "epoch 2/9")
    progress.say("digits: fgsm on 300 images")  # names the work: it is the line at the start
    with progress.bar("fgsm", 300):
        pass
    assert progress.text.getvalue() == (
        "pgd: 0 of 4,000\npgd: 7.5%, epoch 2/9, 6.2 min left\npgd: 15.0%, epoch 2/9, 5.7 min left\n"
        "pgd: 23.9%, epoch 2/9, 5.1 min left\npgd: done in 1.6 min\n"
        "digits: fgsm on 300 images\nfgsm: done in 0.0 s\n"
    )


def test_what_was_done_before_is_not_counted_in_the_pace_and_the_share_never_falls() -> None:
    with (progress := Clocked()).bar("training", 100) as advance:
        for progress.time, done in ((0, 50), (30, 60), (60, 55)):  # 55: a batch again, after memory ran out
            advance(done, "")
    assert "training: 60.0%, 2.0 min left\ntraining: 60.0%, 4.0 min left\n" in progress.text.getvalue()


@pytest.mark.parametrize(("width", "note"), [(60, "epoch 12/61"), (80, "epoch 12/61 loss 0.1 acc 99.9%"), (120, "")])
def test_a_bar_shows_share_note_and_time_left_on_one_line(width: int, note: str) -> None:
    progress = Clocked(force_terminal=True, width=width, height=20)
    with progress.bar("digits-lgm-adversarial-seed0-3d539bf4", 1000) as advance:
        for progress.time, done in ((2, 10), (4, 12.5)):
            advance(done, note)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", progress.text.getvalue())
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= width
    assert re.search(rf"digits-lgm.* 1\.25% {note} 5\.3 min left", plain)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """All that a meter tells."""
    monkeypatch.setattr(meter, "PAUSE", -1)
    return []


NETWORK = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(inplace=True))).requires_grad_(False)


@pytest.mark.parametrize(("slow", "steps"), [(0.0, 8), (60.0, 2)])
def test_in_slow_passes_every_module_counts(slow: float, steps: int, told: list[float]) -> None:
    one = Meter(NETWORK, told.append, passes=2)
    for part in (slice(0, 8), slice(8, 16)):
        with patch.object(meter, "SLOW", slow), one.batch(part):
            NETWORK(torch.rand(8, 4, requires_grad=True)).sum().backward()
    assert len({done for done in told if 8 < done < 16}) >= steps


def test_no_hook_stays_behind_an_error() -> None:
    with pytest.raises(RuntimeError, match="shapes"), Meter(NETWORK).batch(slice(0, 8)):
        NETWORK(torch.rand(8, 5))
    assert not torch_modules._global_forward_hooks
    assert not any(part._forward_hooks for part in NETWORK.modules())


@pytest.mark.parametrize("passes", [4, 40, 400])
def test_the_share_rises_to_the_end_however_wrong_the_expected_passes_are(passes: int, told: list[float]) -> None:
    with Meter(NETWORK, told.append, passes=40).batch(slice(0, 100)):
        for _ in range(passes):
            NETWORK(torch.rand(1, 4))
    assert len(set(told)) > passes
    assert told == [*sorted(told[:-1]), 100]


@pytest.mark.parametrize("name", ["fgsm", "targeted-fgsm", "pgd", "apgd", "detector-aware", "art:DeepFool"])
def test_the_share_rises_in_one_batch(
    name: str, victims: dict[str, Victim], few: ImageSet, told: list[float]
) -> None:
    more = {"detector": "none", "budget": "quick"} if name == "detector-aware" else {}
    victim, (choice,) = victims["softmax"], attack_choices({"name": name, "eps": 0.1, **more})
    clean = victim.outputs(few.load_all())
    guard = Guard("none", AcceptAll(), 1.0, False, clean, few.labels)
    perturb(choice.attack, victim, few, clean, told.append, guard)
    assert all(0 <= b - a < 24 / 2 for a, b in pairwise([*told, 24]))


def test_scores_are_told_block_by_block(victims: dict[str, Victim], few: ImageSet, told: list[float]) -> None:
    outputs = victims["lgm"].outputs(few.load_all()).take(torch.arange(600) % 24)
    assert len(calibration.score("none", AcceptAll(), outputs, "test", told.append)) == 600
    assert told == [256 / 600, 512 / 600, 1]
