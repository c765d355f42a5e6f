"""Where Keras is: traces a family and writes what it says. python trace_family.py FAMILY WORK SIGNATURE…"""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # kerastune's children start with -P

import families
import numpy as np

from kerastune.formats import graphs


def write_examples(made: Any, family: Any, work: Path) -> None:
    """The inputs, what Keras says about them, and what int8 is calibrated on.

    Raises:
        ValueError: it says nearly the same about all of them, and so would a broken file.
    """
    singles = families.samples(made, family)
    several = {name: np.concatenate([one[name] for one in singles]) for name in singles[0]}
    examples = [*singles, several, *families.samples(made, family, count=1, shorter=family.free)]
    call, names = families.function(made), list(singles[0])
    expected = [{key: value.numpy() for key, value in call(*(one[n] for n in names)).items()} for one in examples]
    if not any(np.ptp([one[key] for one in expected[: len(singles)]], axis=0).max() > 0.01 for key in expected[0]):
        raise ValueError("the outputs hardly vary")
    calibration = [
        {name: value[0] for name, value in one.items()} for one in families.samples(made, family, count=8, seed=1)
    ]
    for name, stored in (("examples", examples), ("expected", expected), ("calibration", calibration)):
        flat = {f"{n:03}/{key}": value for n, one in enumerate(stored) for key, value in one.items()}
        np.savez(work / f"{name}.npz", allow_pickle=False, **flat)


def write_graphs(made: Any, family: Any, work: Path, *names: str) -> None:
    """What the formats start from: the model with signatures of `measure.EXAMPLES`; "serving" takes the most."""
    for name in names:
        batch = 1 if name in ("one", "length") else None
        free = name in ("length", "any") or (name == "serving" and family.free)
        signature = (families.function(made), families.specs(made, family, batch, free=free))
        graphs.saved_model({"serving_default" if name == "serving" else name: signature}, work / name)
        if name != "serving":
            graphs.frozen(name, signature, work)


def main(name: str, work: str, *names: str) -> None:
    (family,) = (one for one in families.FAMILIES if one.name == name)
    made = families.model(family)
    if "serving" in names:
        write_examples(made, family, Path(work))
    write_graphs(made, family, Path(work), *names)


if __name__ == "__main__":
    main(*sys.argv[1:])
