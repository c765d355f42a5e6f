"""`python -m kerastune` is `kerastune`."""

from kerastune.cli import main

main()
