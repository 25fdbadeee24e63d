"""Command lines in this process, and what they said."""

import hashlib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from advbench import cli

SMALL = ("--epochs", "2", "--threads", "1")
MODEL_FIELDS = {"dataset", "loss", "alpha", "lam", "covariance", "seed", "training", "run"}
VERIFY_FIELDS = MODEL_FIELDS | {
    "attack", "settings", "norm", "eps", "detector", "population", "n_clean", "n_attacked", "n_nonfinite",
    "eer", "eer_low", "eer_high", "auroc", "auroc_low", "auroc_high",
    "tpr_at_fpr01", "tpr_at_fpr05", "tpr_at_fpr10", "fpr05_realised",
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Exit status and both streams of one command line."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of `--json`; NaN and Infinity are refused."""

        def refuse(word: str) -> NoReturn:
            raise AssertionError(f"{word} on stdout")

        rows: list[dict[str, Any]] = json.loads(self.out, parse_constant=refuse)["rows"]
        return rows


def advbench(*words: object) -> Result:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def assert_refused(result: Result, *, after_progress: bool = False) -> str:
    """Exit 2, nothing on stdout, one sentence on stderr (the last line, where work had begun); that sentence."""
    assert (result.code, result.out) == (2, ""), result
    assert result.err.endswith("\n")
    *before, last = result.err.splitlines()
    assert last.startswith("advbench: "), result.err
    assert after_progress or not before, result.err
    assert not [line for line in before if line.startswith(("advbench:", "Traceback"))], result.err
    return last


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder but for locks, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


@dataclass(frozen=True)
class Small:
    """A finished study of two models, one attack, two eps."""

    folder: Path
    words: tuple[str, ...]
    result: Result

    @property
    def runs(self) -> Path:
        """Its runs folder."""
        return self.folder / "runs"

    @property
    def places(self) -> tuple[str, ...]:
        """The options that name its folders."""
        return ("--runs-dir", str(self.runs), "--reports-dir", str(self.folder / "reports"))
