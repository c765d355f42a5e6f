"""Runs `kerastune`, as its script and as `python -m kerastune`."""

import sys

from kerastune.errors import INTERRUPTED


def main() -> None:
    """Runs the command line; Ctrl-C ends it without a traceback from its first import on."""
    try:
        from kerastune.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")  # what prints may not be imported yet
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
