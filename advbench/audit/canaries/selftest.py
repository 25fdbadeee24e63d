"""Run the checks on every canary and compare the findings with those expected."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from advbench import catalog
from advbench.audit import CanaryRow, Selftest, protocol
from advbench.audit.canaries import Canary
from advbench.audit.canaries.broken_defences import BROKEN_DEFENCES
from advbench.audit.canaries.honest import controls
from advbench.audit.canaries.in_memory import lacking
from advbench.audit.canaries.toy_models import trained
from advbench.audit.protocol import SELFTEST, findings
from advbench.audit.provenance import ART_PGD
from advbench.data import QUIET
from advbench.progress import Progress
from advbench.runs import sealed_json, write_whole
from advbench.types import Splits
from advbench.victim.art_classifier import announce

# checks that attacks of other libraries are for: not run, whatever a canary is, where the library is missing
OF_OTHERS = {"decision-based": "art:HopSkipJump", "parity": ART_PGD, "adversarially-trained": "autoattack"}


def hatch(progress: Progress = QUIET) -> list[Canary]:
    """All canaries and controls, attacked: a few models of the digits, on the CPU."""
    found: list[Canary] = []
    with progress.bar("canaries", len(BROKEN_DEFENCES) + 4) as advance:
        splits: Splits = catalog.load("data set", "digits")().load(None)
        softmax = trained(splits, "softmax")
        for done, make in enumerate(BROKEN_DEFENCES, start=1):
            advance(done, make.__name__)
            found.append(make(splits, softmax))
        advance(len(BROKEN_DEFENCES) + 1, "controls")
        return [*found, *controls(splits, softmax)]


def compare(canaries: Sequence[Canary]) -> list[CanaryRow]:
    """A row for each expectation, and one that is not met for each check that no canary expects anything of."""
    rows: list[CanaryRow] = []
    blocked = {check for check, attack in OF_OTHERS.items() if lacking(attack)}
    for canary in canaries:
        found = {f.name: f for f in findings(canary.evidence)}
        for name, usual in canary.findings.items():
            state = "not run" if name in blocked else usual
            said, evidence, met = "no such check", canary.what, False
            if (finding := found.get(name)) is not None:
                said, evidence, met = f"{name}: {finding.state}", finding.evidence, finding.state == state
            rows.append(CanaryRow(canary.name, f"{name}: {state}", said, met, evidence))
        rows += [CanaryRow(canary.name, f.expected, f.found, f.met, canary.what) for f in canary.figures]
    expected = {name for canary in canaries for name in canary.findings}
    unseen = [c for c in protocol.CHECKS if c.name not in expected]
    return rows + [CanaryRow("-", f"a canary for {c.name}", "none", False, c.title) for c in unseen]


def selftest(runs_dir: Path, progress: Progress = QUIET) -> list[CanaryRow]:
    """The rows of all canaries, also noted beside the runs, where `audit` finds them."""
    announce(progress.say)
    with torch.random.fork_rng(devices=[]):
        rows = compare(hatch(progress))
    noted = Selftest(advbench=version("advbench"), rows=tuple(rows))
    write_whole(runs_dir / SELFTEST, sealed_json.to_json(noted))
    return rows
