"""`make gpu`: the device tests on a GPU by each of its names, and a table of what passed."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

FILE = Path(__file__).parents[1] / "test_device.py"


def outcomes(device: str) -> Counter[tuple[str, str]]:
    """(test, outcome) -> how many of its cases, on that device."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", str(FILE), "-q", "-p", "no:xdist", f"--junitxml={report}"]
        done = subprocess.run(
            words, env={**os.environ, "ADVBENCH_TEST_DEVICE": device}, capture_output=True, text=True
        )
        if done.returncode:
            sys.stderr.write(done.stdout[-4000:] + done.stderr[-1000:])
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
        found = Counter((case.get("name", "").partition("[")[0], _outcome(case)) for case in cases)
    return found or Counter({("(none ran)", "failed"): 1})


def _outcome(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def main() -> None:
    """The table; exit status 1 where a case failed, 2 where there is no GPU."""
    import torch

    devices = sys.argv[1:] or ["cuda", "cuda:0"]
    if "cuda" in devices and not torch.cuda.is_available():
        sys.exit("no GPU here, so nothing was measured on one; on the CPU: make test ARGS=tests/test_device.py")
    found = {device: outcomes(device) for device in devices}
    names = dict.fromkeys(name for counts in found.values() for name, _ in counts)
    width = max(map(len, names)) - len("test_")
    print("passed of cases".ljust(width), *(device.rjust(8) for device in devices))
    for name in names:
        ran = [[found[d][name, o] for o in ("passed", "failed")] for d in devices]
        print(name.removeprefix("test_").ljust(width), *(f"{p} of {p + f}".rjust(8) for p, f in ran))
    failed = sum(count for counts in found.values() for (_, outcome), count in counts.items() if outcome == "failed")
    print(f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}: {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
