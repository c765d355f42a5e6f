"""The report's charts, as SVG pictures inside the page that follow the reader's colour scheme."""

import base64
import io
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerastune.records import Audit, Curve, RunRecord, Weights, curve_means
from kerastune.tasks.learnt.contract import Plot

_TRAIN, _VALIDATION = "#c9641a", "#3577c4"  # both readable on white and on black
_INK = "#010203"  # placeholder for the text colour, which follows the reader's colour scheme
_INK_STYLE = "svg{color:#1d2127}@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}"


def svg(name: str, draw: Callable[[Figure, Any], None]) -> str:
    """Returns a chart as SVG; `draw` gets the figure and its axes.

    Args:
        name: makes the ids in the picture reproducible.
    """
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10, "text.parse_math": False, **ink}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.5, 2.9), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(figure, axes)
        axes.grid(axis="y", color="#808080", alpha=0.25)
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    made = buffer.getvalue().replace(_INK, "currentColor").replace("*{", _INK_STYLE + "*{", 1)
    return made[made.index("<svg") :]


def inline(picture: str) -> str:
    """Returns an SVG picture as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"


def drawn(name: str, draw: Callable[[Figure, Any], None]) -> str:
    """Returns a chart as a data URI; the arguments are those of `svg`."""
    return inline(svg(name, draw))


def curve(metric: str, record: RunRecord, history: list[dict[str, float]], kept: int) -> str:
    """Plots training and validation over epochs, with phases as bands and a ring around the kept epoch, from 1."""

    def draw(figure: Figure, axes: Any) -> None:
        epochs = range(1, len(history) + 1)
        looks = {"training": (metric, _TRAIN, "--"), "validation": (f"val_{metric}", _VALIDATION, "-")}
        for name, (key, color, line) in looks.items():
            if key in history[0]:  # training may show another, cheaper figure
                axes.plot(epochs, [r[key] for r in history], line, color=color, label=name, marker="o", ms=4)
        axes.plot([kept], [history[kept - 1][f"val_{metric}"]], "o", ms=10, mfc="none", mec=_INK, label="kept")
        _bands(axes, [int(row["phase"]) for row in history], record.phases)
        axes.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)

    return drawn(metric, draw)


def plot(one: Plot) -> str:
    """Draws a curve between 0 and 1 in both directions, beside the diagonal where that means something."""

    def draw(figure: Figure, axes: Any) -> None:
        if one.diagonal:
            axes.plot([0, 1], [0, 1], ":", color="#808080")
        axes.plot(*zip(*one.points, strict=True), color=_VALIDATION, marker="o" if len(one.points) < 20 else "", ms=4)
        axes.set(xlabel=one.x, ylabel=one.y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    return drawn(one.title, draw)


def learning_curve(found: Curve) -> str:
    """Plots the accuracy against the number of training examples, with the range of the draws, as SVG."""

    def draw(figure: Figure, axes: Any) -> None:
        looks: tuple[tuple[Weights, str, str], ...] = (("pretrained", _VALIDATION, "-"), ("random", _TRAIN, "--"))
        for weights, color, line in looks:
            rows = curve_means(found.points, weights)
            _, counts, accuracies, apart = zip(*rows, strict=True)
            axes.errorbar(counts, accuracies, apart, color=color, ls=line, marker="o", ms=4, label=f"{weights} weights")
        axes.set(xscale="log", xlabel="training examples", ylabel="test accuracy")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    return svg("learning curve", draw)


def _bands(axes: Any, numbers: list[int], phases: Sequence[Audit]) -> None:
    """Draws a band and a name for each phase; in a narrow band, only its number."""
    start = 0.5
    for number, epochs in groupby(numbers):
        end = start + len(list(epochs))
        axes.axvspan(start, end, color="#808080", alpha=0.12 if number % 2 == 0 else 0, linewidth=0)
        if start > 0.5:
            axes.axvline(start, color="#808080", linewidth=0.8)
        name = f"{number}: {ascii(phases[number - 1].unfreeze)[1:-1]}"
        room = int(52 * (end - start) / len(numbers))
        name = name if len(name) <= room else str(number)
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text((start + end) / 2, 1.02, name, size=9, **place)
        start = end
