"""Measures every quantisation of a run in every runtime: size, latency and accuracy on the validation images.

    python bench/ladder.py RUN > docs/ladder.md        (make ladder RUN=…)

Prints Markdown; exit code 1 where a file is refused, or an int8 file misses its goal.
"""

import sys
import tempfile
from datetime import date
from pathlib import Path
from shutil import copytree, ignore_patterns

from kerastune import environment, export, run
from kerastune.errors import KerastuneError
from kerastune.recipe import parse_export
from kerastune.verifying import artifact

WANTED = {
    "linux": ("none", "float16", "dynamic", "int8", "int16x8", "int4"),
    "microcontroller": ("int8",),
    "onnxruntime": ("none", "dynamic", "int8"),
}
INT8_DROP, INT8_SIZE = 0.01, 0.28  # of accuracy at most, and of the float file's size


def ladder(of):
    """Exports the artifacts, smallest first in each format; those that lose accuracy are shown, not refused."""
    exports = [{"target": target, "quantize": one} for target, ones in WANTED.items() for one in ones]
    try:
        export(of, [parse_export({**one, "max_accuracy_drop": 1.0}) for one in exports])
    except KerastuneError as error:
        print(error.message, file=sys.stderr)
    made = [artifact.load(path.parent) for path in of.exports.glob("*/manifest.json")]
    return sorted(made, key=lambda one: (one.manifest.format, one.size_bytes)), len(exports) - len(made)


def rows(one, whole):
    """Yields one row per runtime."""
    for name, runtime in one.report.runtimes.items():
        cells = [one.manifest.name, f"{one.size_bytes / 1e6:.2f}", f"{one.size_bytes / whole:.2f}", name]
        if found := runtime.validation:
            cells += [f"{runtime.latency_ms.median:.1f}", f"{found.metric.value:.4f} of {found.metric.examples}"]
            cells += [f"{found.metric.drop:.4f}", f"{found.outputs.max_error:.1e}"]
        else:
            cells += ["–", runtime.problems[0].partition(":")[0], "–", "–"]
        yield f"| {' | '.join(cells)} |"


def main(folder):
    with tempfile.TemporaryDirectory(prefix="kerastune-") as scratch:
        of = run.load(copytree(folder, Path(scratch) / "run", ignore=ignore_patterns("exports")))
        made, refused = ladder(of)
        floats = {one.manifest.format: one.size_bytes for one in made if one.manifest.quantize == "none"}
        print("# Every quantisation in every runtime\n")
        print(f"Measured on a run of the recipe {of.recipe.name}, with the preset {of.recipe.preset}.\n")
        print("| artifact | MB | of float | runtime | ms | accuracy | drop | max error |", "|---" * 8 + "|", sep="\n")
        missed = refused
        for one in made:
            whole = floats[one.manifest.format]
            print(*rows(one, whole), sep="\n")
            if one.manifest.quantize == "int8":
                drop, share = one.report.validation.metric.drop, one.size_bytes / whole
                missed += not (drop <= INT8_DROP and share <= INT8_SIZE)
        machine = environment.machine()
        print(f"\n`make ladder`, {date.today()}, {machine['cpu']}, {machine['cores']} cores.")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main(sys.argv[1])
