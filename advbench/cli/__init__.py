"""The command line: options to one call, and its rows to a table."""

from advbench.cli.commands import app, main
