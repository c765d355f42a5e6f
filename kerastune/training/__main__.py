"""Trains beside the chief that TF_CONFIG names: python -m kerastune.training. `kerastune run --workers N` starts it."""

import sys

from kerastune.errors import KerastuneError
from kerastune.training.following import follow
from kerastune.workers import cluster, group

if __name__ == "__main__":
    try:
        follow(group.joined(cluster.found()))
    except KerastuneError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        sys.exit(error.exit_code)
