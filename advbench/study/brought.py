"""A supplied model: how it gets here, and what a study asks of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from advbench.data import duplicates
from advbench.errors import BadRun, BadSetting, Diagnostic, enforce
from advbench.runs import Run, artifacts
from advbench.runs.manifest import Inspection
from advbench.runs.repair import Say
from advbench.study import train
from advbench.study.options import Evaluate
from advbench.study.spec import StudiedModel, SuppliedModel
from advbench.study.workspace import Workspace
from advbench.supplied.features import Supplied
from advbench.supplied.inspection import MOST_IMAGES, gradient_at, inspect, same
from advbench.supplied.loading import code_file_of, identity_of, load_model, refuse_meta
from advbench.types import Splits
from advbench.victim import Meter, Victim

SAMPLE = 4  # images by which the features are found
PASSES = 50  # about, of the inspection
IN_MEMORY = "python:"  # before the type of a model that was handed over as an object
NO_SURROGATE = (
    "transfer makes its attack on another model trained here on the victim's training part, and a supplied model has "
    "parts of its own; take square or art:HopSkipJump for a black box"
)


def bring(options: Evaluate, given: nn.Module | None, splits: Splits, say: Say) -> tuple[nn.Module, dict[str, Any]]:
    """The model in memory, or the one that options name, which may run its code; and what tells it from others.

    Raises BadSetting or BadData.
    """
    if given is not None:
        module = getattr(given, "_orig_mod", given)  # of a compiled one what was compiled
        source = IN_MEMORY + type(module).__name__
        refuse_meta(module, source)
        if any(is_lazy(t) for t in (*module.parameters(), *module.buffers())):
            raise BadSetting(
                f"{source}: the model has lazy layers that have no weights yet; run it on one image and train it, or "
                "load its weights, before it is evaluated"
            )
        return module, identity_of(module, source, None)
    source, weights = options.model or "", None if options.weights is None else Path(options.weights)
    own: dict[str, Any] = {"classes": len(splits.test.classes), "shape": splits.test.shape, "say": say}
    module = load_model(source, weights=weights, trust=options.trust, **own)
    identity = identity_of(module, source, code_file_of(source))
    return module, identity | ({} if weights is None else {"weights": weights.name})


@dataclass
class BroughtModel(StudiedModel):
    """A supplied model, borrowed for as long as its evaluation lasts.

    gradients   whether attacks ask for them, so that they are inspected too
    """

    model: SuppliedModel
    module: Supplied
    splits: Splits
    workspace: Workspace
    gradients: bool
    findings: tuple[Diagnostic, ...] = ()

    def prepare(self, run: Run) -> None:
        """Inspect it, where that was not done, and store its outputs."""
        followed = run.has("door") and run.noted(Inspection).gradients
        splits, progress = self.splits, self.workspace.progress
        if not run.has("door") or (self.gradients and not followed):
            found = (*splits.findings, *duplicates(splits, progress), *self.findings, *self._inspected())
            needed, slopes = self.gradients, tuple(self._slopes)
            info = Inspection(findings=found, gradients=needed, test_part=splits.test_part, slopes=slopes)
            run.write("door", {}, info=info)
        self.findings = run.noted(Inspection).findings
        for finding in self.findings:
            progress.say(f"{finding.severity}: {finding.text}")
        train.ensure_outputs(run, splits, lambda: self.victim(run), progress)

    def victim(self, run: Run) -> Victim:  # noqa: ARG002
        """The model as it was brought."""
        return train.victim(self.module, self.splits, self.workspace)

    def surrogate(self, source: str) -> StudiedModel:  # noqa: ARG002
        """None is made of a supplied model."""
        raise BadSetting(NO_SURROGATE)

    def confirm(self, run: Run) -> None:
        """Raise BadSetting where its outputs changed while it was attacked."""
        if not self.gave(run):
            mixed = f"so the figures of {run.name} mix several models"
            what = f"the model's outputs for the same images changed while it was attacked, {mixed}"
            raise BadSetting(f"{what}; let forward depend on its images alone")

    def gave(self, run: Run) -> bool:
        """Whether a run's outputs on some test images are this model's; yes where it holds none."""
        try:
            stored = artifacts.read_part(run, "test").outputs if "outputs" in run.steps else None
        except BadRun:
            return True  # what goes on from it says what is wrong
        if stored is None or len(stored) != len(self.splits.test):
            return True
        batch = slice(min(len(stored), self.workspace.batch_size))  # as it was stored: some models look at the batch
        victim, images = self.victim(run), self.splits.test.take(batch).load_all()
        now, again = victim.outputs(images), victim.outputs(images)
        own = torch.tensor(self._slopes)
        was = torch.tensor(self._slopes if (noted := run.noted(Inspection).slopes) is None else noted)
        near = len(was) == len(own) and bool((was - own).abs().max() <= 1e-2 * torch.cat([was, own]).abs().max())
        return (near and same(stored.take(batch), now)) or not same(now, again)  # noise of its own: nobody can tell

    @property
    def _slopes(self) -> list[float]:
        """How steep the model is at a few test images: a stand-in for a gradient changes no output."""
        few = self.splits.test.take(slice(SAMPLE)).load_all().to(self.workspace.device).requires_grad_()
        found = None
        with suppress(Exception):  # whatever a backward pass of the user's own raises: the inspection says it
            found = gradient_at(self.module, few)
        direction = torch.randn(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
        slopes = direction.new_zeros(len(few)) if found is None else (found * direction).flatten(1).sum(dim=1)
        return slopes.nan_to_num(posinf=0, neginf=0).tolist()

    def _inspected(self) -> Sequence[Diagnostic]:
        """What is doubtful about the model, on calibration images; raises BadSetting for what is wrong."""
        some = self.splits.calibration
        some = some.take(torch.linspace(0, len(some) - 1, min(len(some), MOST_IMAGES)).long())
        settings: dict[str, Any] = {"batch_size": self.workspace.batch_size, "gradients": self.gradients}
        with self.workspace.progress.bar("check of the model", len(some)) as advance:
            told = Meter(self.module, lambda done: advance(done, ""), PASSES)
            with told.batch(slice(0, len(some))):
                found = inspect(self.module, some.load_all(), some.labels, len(some.classes), **settings)
        return enforce(found)
