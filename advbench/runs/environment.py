"""What a run was made with: package versions, commit, device; no host, user or path."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from advbench.runs.manifest import Environment

PACKAGES = (
    "advbench", "torch", "torchvision", "numpy", "adversarial-robustness-toolbox", "scikit-learn", "pandas",
)  # fmt: skip


def describe(device: str) -> Environment:
    """Versions, commit and device, for a manifest."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    commit, dirty = git_state()
    system = f"{platform.system()} {platform.machine()}"
    return Environment(versions=versions, commit=commit, dirty=dirty, device=device, system=system)


def git_state() -> tuple[str | None, bool | None]:
    """(commit, uncommitted changes) of the checkout advbench runs from; None outside one."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "advbench/runs/environment.py") is None:
        return None, None  # installed elsewhere, perhaps below somebody else's repository
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
