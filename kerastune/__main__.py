"""Runs `kerastune` as `python -m kerastune`."""

from kerastune.cli import main

main()
