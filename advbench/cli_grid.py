"""From the options of a command line to an engine, and a study's cells through it."""

from __future__ import annotations

from advbench import runs
from advbench.cells import cells_of
from advbench.cli_options import Options
from advbench.engines import Engine
from advbench.engines import go_through as through
from advbench.engines.local import Local, cores
from advbench.errors import BadSetting, UnknownName
from advbench.pipeline import Study

ENGINES = ("local",)
MOST_JOBS = 1024


def engine_of(options: Options) -> Engine:
    """The engine that --on names (default: local)."""
    name = "local" if options["on"] is None else options["on"]
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    threads = options["threads"] or 1
    jobs = max(1, cores() // threads) if options["jobs"] is None else options["jobs"]
    if not 1 <= jobs <= MOST_JOBS:
        raise BadSetting(f"jobs = {jobs} is out of range; it must be from 1 to {MOST_JOBS}, at best one a core")
    return Local(jobs, threads)


def go_through(study: Study, options: Options) -> None:
    """Perform the study's cells on the engine that the options name; raises FailedCells where one could not be."""
    engine = engine_of(options)
    runs.check_folder(study.place.reports_dir / study.spec.name)
    through(cells_of(study), engine, study.place.progress)
