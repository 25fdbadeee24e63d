"""`python -m advbench`, and the `advbench` command."""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit status."""
    from advbench import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    # `-m` puts the current folder first: unless advbench itself was found there, nothing is to be imported from it.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
        del sys.path[0]
    main()
