"""Whether two runs are the same, bit for bit."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kerastune import run


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a training decides: weights, history without times, predictions."""
    found: dict[str, Any] = {"phases": [(p.ran.frozen_sha256, p.ran.best) for p in run.load(folder).record.phases]}
    found["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in run.load(folder).history]
    for path in sorted(folder.glob("*.h5")):  # some tasks save no more than the backbone

        def keep(name: str, item: Any, of: str = path.name) -> None:
            if isinstance(item, h5py.Dataset):
                found[f"{of}/{name}"] = item[()]

        with h5py.File(path) as file:
            file.visititems(keep)
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        found |= {name: stored[name] for name in stored.files}
    return found


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = contents(one), contents(other)
    assert a.keys() == b.keys()
    assert not [name for name in a if not np.array_equal(a[name], b[name])]
