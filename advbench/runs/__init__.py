"""Runs on disk: the only room that reads or writes them."""

from advbench.runs.run import MANIFEST as MANIFEST
from advbench.runs.run import SCHEMA as SCHEMA
from advbench.runs.run import SUPPLIED as SUPPLIED
from advbench.runs.run import Run as Run
from advbench.runs.run import find as find
from advbench.runs.run import holds_run as holds_run
from advbench.runs.run import load as load
from advbench.runs.run import open_or_new as open_or_new
