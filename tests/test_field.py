"""Cases from other people's threads on the command line, as a user gets it: processes, files, redirected output."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from advbench import runs

pytestmark = pytest.mark.long
ADVBENCH = Path(sys.executable).parent / "advbench"
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.m = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, k))

    def forward(self, x):
        return self.m({})
"""
EVALUATE = "evaluate --model m.py:build --dataset folder:{} --attack fgsm --eps 4/255 --detector energy --json"


def made(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [n 3 8 8] around three pictures, and their labels."""
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return 0.7 * pictures[y] + 0.3 * torch.rand(n, 3, 8, 8, generator=rng), y


def lay_out(root: Path, part: str, seed: int, suffix: str = "png", kind: str = "PNG") -> None:
    for i, (x, y) in enumerate(zip(*made(90, seed), strict=True)):
        file = root / part / "abc"[int(y)] / f"{i}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((x.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(file, kind)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a model that is right on nearly all images, its weights, and a train and a test part."""
    (tmp_path / "m.py").write_text("from net import Net\n\ndef build(num_classes):\n    return Net(num_classes)\n")
    (tmp_path / "net.py").write_text(NET.format("x"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3))
    steps = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        steps.zero_grad()
        x, y = made(300, 1)
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        steps.step()
    save_file({f"m.{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.safetensors")
    for part, seed in (("train", 2), ("test", 3)):
        lay_out(tmp_path / "d", part, seed)
    return tmp_path


def run(here: Path, words: str, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, rows and standard error."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [ADVBENCH, *words.split()], cwd=here, env=own, capture_output=True, text=True, errors="replace"
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)["rows"] if done.stdout.startswith("{") else [], done.stderr


def errors(here: Path) -> list[float]:
    """The clean error rates in the folder's runs."""
    found = runs.find(here / "runs")
    return sorted(run.attack_row(name).clean_error_rate for run in found for name in run.attacks)


def test_a_changed_import_is_another_run(here: Path) -> None:
    words = EVALUATE.format("d") + " --weights w.safetensors"
    assert run(here, words)[0] == 0
    (here / "net.py").write_text(NET.format("1 - x"))
    assert "gets a run of its own" in run(here, words)[2]
    assert errors(here)[0] < 0.1 < 0.5 < errors(here)[1]


def test_val_is_the_test_part_and_training_images_alone_are_refused(here: Path) -> None:
    (here / "d" / "test").rename(here / "d" / "Val")
    status, rows, said = run(here, EVALUATE.format("d") + " --weights w.safetensors")
    assert (status, {r["test_part"] for r in rows}, {r["n_clean"] for r in rows}) == (0, {"validation"}, {45})
    assert "warning:" in said
    (here / "d" / "Val").rename(here / "elsewhere")
    status, _, said = run(here, EVALUATE.format("d") + " --weights w.safetensors")
    assert (status, "add test or val" in said) == (2, True)


def test_averaged_weights_beside_raw_ones_are_named_and_chosen(here: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(here / "w.safetensors")
    both = {"state_dict": {k: v * 0 for k, v in weights.items()}, "state_dict_ema": weights, "epoch": 3}
    torch.save(both, here / "best.pth.tar")
    status, _, said = run(here, EVALUATE.format("d") + " --weights best.pth.tar")
    assert (status, "best.pth.tar:state_dict_ema" in said) == (2, True)
    assert run(here, EVALUATE.format("d") + " --weights best.pth.tar:state_dict_ema")[0] == 0
    assert errors(here)[0] < 0.1


def test_pictures_by_their_content_and_names_that_a_terminal_cannot_write(here: Path) -> None:
    for part, seed in (("Training", 2), ("Testing", 3)):
        lay_out(here / "dátos", part, seed, "jfif", "JPEG")
    words = EVALUATE.format("dátos").removesuffix(" --json") + " --weights w.safetensors"
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}):
        assert run(here, words, **environment)[0] == 0
    assert errors(here)[0] < 0.1
    assert len(list(here.glob("reports/*/index.html"))) == 1


def test_work_that_is_redirected_says_when_it_began_and_how_long_it_took(here: Path) -> None:
    _, _, said = run(here, "train --loss softmax --epochs 2")
    assert sum(line.endswith(": training 2 epochs on 1000 images") for line in said.splitlines()) == 1
    assert sum(": done in " in line for line in said.splitlines()) == 2  # the training, and the outputs
