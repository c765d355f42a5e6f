"""Measures what artifacts cost: size, load time, latency and memory, next to their accuracy."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from kerastune.errors import ConverterError, KerastuneError
from kerastune.progress import Progress
from kerastune.verifying import runtimes
from kerastune.verifying.artifact import Artifact

_WARM_UP, _RUNS, _RUNS_OF_SLOW = 5, 100, 10
_ANSWER = 16  # tokens of each answer of a language model


def benchmark(
    artifacts: Sequence[Artifact],
    *,
    threads: int | None = None,
    in_runtimes: Iterable[str] = (),
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Runs each artifact's first golden example repeatedly in every installed runtime.

    Args:
        threads: threads per inference; default: the runtime's own choice. TensorFlow Lite Micro and MediaPipe ignore
            it.
        in_runtimes: names in `runtimes.RUNTIMES`. Default: all installed ones that can run the artifact.

    Returns:
        One row per artifact and runtime: `latency_ms` {"median", "p95"} of 100 examples (10 in interpreters without
        fast kernels) or, for a language model, of a token in each of 10 answers, without warm-up; `load_ms` and
        `peak_mb` of the process, including Python; `size_bytes`; `accuracy` on the validation split from the last
        verification, or None.

    Raises:
        VerificationError: a file of an artifact has changed.
        KerastuneError: a requested runtime is not installed or cannot run an artifact.
        ConverterError: a requested runtime failed.
    """
    progress, asked = progress or Progress(), tuple(in_runtimes)
    rows = []
    for of in artifacts:
        of.check_files()
        manifest, generates = of.manifest, of.golden.answers is not None
        example = of.modality.question(of.golden.examples[0]) if generates else of.golden.examples[0]
        for name in runtimes.choose(manifest, asked):
            runtime = runtimes.RUNTIMES[name]
            progress.say(f"Timing {manifest.name} in {name}")
            runs = _RUNS_OF_SLOW if runtime.slow or generates else _RUNS
            options = ("--threads", str(threads)) if threads and runtime.threads else ()
            length = ("--max-tokens", str(_ANSWER)) if generates else ()
            try:
                with progress.working(f"timing {manifest.name} in {name}"):
                    said = runtimes.ask(of, name, repeat(example, _WARM_UP + runs), (*options, *length))
            except ConverterError as error:
                if asked:
                    raise
                progress.say(f"{name} is left out: {error.message}")
                continue
            seconds = said.seconds
            if generates:
                seconds = seconds / np.maximum((np.asarray(said.outputs["tokens"]) >= 0).sum(-1), 1)
            validation = of.report.validation if of.report else None
            rows.append(
                {
                    "artifact": manifest.name,
                    "folder": str(of.folder),
                    "quantize": manifest.quantize,
                    "runtime": name,
                    "version": runtime.version,
                    "threads": threads if options else None,
                    "size_bytes": of.size_bytes,
                    "load_ms": said.load_ms,
                    "latency_ms": asdict(runtimes.latency_ms(seconds[_WARM_UP:])),
                    "peak_mb": said.peak_mb,
                    "metric": manifest.metric,
                    "accuracy": validation.metric.value if validation and validation.metric else None,
                }
            )
    return rows


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots the metric against latency. A bubble's area shows the model's size, its number identifies the artifact.

    Raises:
        KerastuneError: no row has an accuracy.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    scored = [row for row in rows if row["accuracy"] is not None]
    if not scored:
        raise KerastuneError("No artifact has an accuracy to plot.", "kerastune verify ARTIFACT --run RUN measures it.")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    largest = max(row["size_bytes"] for row in scored)
    numbers = {name: n for n, name in enumerate(dict.fromkeys(row["artifact"] for row in scored), start=1)}
    for name in dict.fromkeys(row["runtime"] for row in scored):
        of = [row for row in scored if row["runtime"] == name]
        x, y = [row["latency_ms"]["median"] for row in of], [row["accuracy"] for row in of]
        axes.scatter(x, y, s=[900 * row["size_bytes"] / largest for row in of], alpha=0.5, label=name)
        for row, at in zip(of, zip(x, y, strict=True), strict=True):
            axes.annotate(str(numbers[row["artifact"]]), at, fontsize=8, ha="center", va="center")
    for name, number in numbers.items():
        # Dollar signs in a name are not formulas.
        axes.scatter([], [], marker=f"${number}$", color="black", label=name.replace("$", r"\$"))
    axes.margins(0.2)  # room for the bubbles
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for part in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        part(lambda milliseconds, place: f"{milliseconds:g}")
    axes.set_xlabel("latency per example, ms (median)")
    axes.set_ylabel(f"validation {', '.join(dict.fromkeys(row['metric'].replace('_', ' ') for row in scored))}")
    title = f"runtimes and artifacts\n(largest model: {largest / 1e6:.1f} MB)"
    legend = figure.legend(loc="outside right upper", title=title, fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([50])  # type: ignore[union-attr]
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
