"""What artifacts cost where they run: size, time to load, latency and memory, beside their accuracy."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.errors import ConverterError, KerastuneError
from kerastune.progress import Progress
from kerastune.verifying import runtimes
from kerastune.verifying.artifact import Artifact

_WARM_UP, _RUNS, _RUNS_OF_SLOW = 5, 100, 10
_ANSWER = 16  # tokens that a language model says each time


def benchmark(
    artifacts: Sequence[Artifact],
    *,
    threads: int | None = None,
    in_runtimes: Iterable[str] = (),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Runs each artifact's first golden example again and again, in every runtime that is installed.

    Args:
        threads: of one inference; default: the runtime's own choice. TensorFlow Lite Micro and MediaPipe take none.
        in_runtimes: names in `runtimes.RUNTIMES`. Default: all that are installed and can run the artifact.

    Returns:
        One row an artifact and runtime: `latency_ms` {"median", "p95"} of 100 examples (10 in interpreters without fast
        kernels) or, of a language model, of a token in each of 10 answers, warm-up excluded; `load_ms` and `peak_mb` of
        the process, Python included; `size_bytes`; `accuracy` on the validation split, from the last verification (None
        where there was none).

    Raises:
        VerificationError: a file of an artifact has changed.
        KerastuneError: a runtime that was asked for is not installed or cannot run an artifact.
        ConverterError: a runtime that was asked for failed.
    """
    progress, asked = progress or Progress(), tuple(in_runtimes)
    rows = []
    for of in artifacts:
        of.check_files()
        example, chat = of.golden()[0][0], "chat" in of.manifest
        if chat:
            example = example[:-1]  # the last turn is what is asked for
        for name in runtimes.choose(of.manifest, asked):
            runtime = runtimes.RUNTIMES[name]
            progress.say(f"Timing {of.manifest['name']} in {name}")
            runs = _RUNS_OF_SLOW if runtime.slow or chat else _RUNS
            options = ("--threads", str(threads)) if threads and runtime.threads else ()
            length = ("--max-tokens", str(_ANSWER)) if chat else ()
            try:
                said = runtimes.ask(of, name, repeat(example, _WARM_UP + runs), (*options, *length))
            except ConverterError:
                if asked:
                    raise
                continue  # `verify` reports what a runtime cannot run
            tokens = np.maximum((said.scores >= 0).sum(-1), 1) if chat else np.ones(_WARM_UP + runs)
            rows.append(
                {
                    "artifact": of.manifest["name"],
                    "folder": str(of.folder),
                    "quantize": of.manifest["quantize"],
                    "runtime": name,
                    "version": runtime.version,
                    "threads": threads if options else None,
                    "size_bytes": of.size_bytes,
                    "load_ms": said.load_ms,
                    "latency_ms": runtimes.latency_ms((said.seconds / tokens)[_WARM_UP:]),
                    "peak_mb": said.peak_mb,
                    "accuracy": ((of.report or {}).get("validation") or {}).get("accuracy"),
                }
            )
    return rows


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against latency; the area of a bubble is the model's size.

    Raises:
        KerastuneError: no row has an accuracy.
    """
    from matplotlib.figure import Figure

    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        raise KerastuneError("No artifact has an accuracy to plot.", "kerastune verify ARTIFACT --run RUN measures it.")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    largest = max(row["size_bytes"] for row in scored)
    for name in dict.fromkeys(row["runtime"] for row in scored):
        of = [row for row in scored if row["runtime"] == name]
        x, y = [row["latency_ms"]["median"] for row in of], [row["accuracy"] for row in of]
        axes.scatter(x, y, s=[900 * row["size_bytes"] / largest for row in of], alpha=0.5, label=name)
        for row, at in zip(of, zip(x, y, strict=True), strict=True):
            # A label is not a formula: dollar signs are its own.
            axes.annotate(row["artifact"].replace("$", r"\$"), at, fontsize=8, ha="center", va="center")
    axes.set_xscale("log")
    axes.set_xlabel("latency of one example, ms (median)")
    axes.set_ylabel("validation accuracy, or its like")
    axes.legend(markerscale=0.3, title=f"runtime (largest model: {largest / 1e6:.1f} MB)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
