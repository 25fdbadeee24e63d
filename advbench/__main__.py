"""`python -m advbench`, and the `advbench` command."""

import sys


def main() -> None:
    """Run the command line and end the process with its exit status."""
    from advbench import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
