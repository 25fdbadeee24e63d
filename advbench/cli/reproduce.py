"""`advbench reproduce`: go on with a reproduction, or check it against its kept weights."""

from advbench.cli.context import workspace_of
from advbench.cli.grid import device_of, engine_of
from advbench.cli.output import emit
from advbench.errors import BadSetting, FailedCheck
from advbench.reproduce.experiment import load
from advbench.reproduce.run import check, complete
from advbench.study.options import Reproduce


def reproduce(options: Reproduce) -> None:
    """Raises FailedCheck where `--check` finds a figure further off than allowed."""
    experiment = load(options.what)
    if options.check and (options.on is not None or options.jobs is not None):
        raise BadSetting("--check computes in this process; leave --on and --jobs out")
    workspace, names = workspace_of(options), options.cell
    if options.check:
        found = check(experiment, workspace, names)
        emit("reproduce", found, options, table="check")
        if missed := sum(not row.met for row in found):
            raise FailedCheck(f"{missed} of {len(found)} figures differ from the committed ones by more than allowed")
        return
    train, cells = not options.no_train, not options.security
    engine, device = engine_of(options), device_of(options, str(workspace.device))
    page, rows = complete(experiment, workspace, names, train=train, cells=cells, engine=engine, device=device)
    emit("reproduce", rows, options, page)
