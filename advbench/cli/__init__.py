"""The command line: options to one call, and its rows to a table."""

from advbench.cli.commands import app as app
from advbench.cli.commands import main as main
