"""Trains every recipe of a folder, as one of several workers or as one that plays them: `joined.py FOLDER OUT N`."""

import sys
from pathlib import Path

from kerastune import fine_tune, read_recipe
from kerastune.training.following import follow
from kerastune.workers import cluster
from kerastune.workers.group import Group, joined


def main(folder: Path, out: Path, count: int) -> None:
    here = cluster.found()
    group = joined(here) if here.count > 1 else Group(count)
    for path in sorted(folder.glob("*.toml")):
        if group.is_chief:
            fine_tune(read_recipe(path), out / path.stem, group=group)
        else:
            follow(group)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
