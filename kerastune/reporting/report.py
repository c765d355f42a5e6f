"""The report: one HTML page with a run's results, learning curves, mistakes and exports.

It is built from the run folder; the data are read again only for thumbnails of mistakes.
"""

import base64
import io
import json
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kerastune import files, tasks
from kerastune.data import Split
from kerastune.errors import KerastuneError, printable
from kerastune.modalities import Modality
from kerastune.progress import Progress
from kerastune.recipe import export_name
from kerastune.records import Audit, RunRecord
from kerastune.run import Run
from kerastune.tasks.learnt import Learnt, statistics
from kerastune.tasks.learnt.contract import Mistake
from kerastune.verifying import artifact
from kerastune.verifying.runtimes import RUNTIMES

SHOWN_MISTAKES = 12
LARGEST_MATRIX = 30
"""With more labels than this, the report shows pairs and extremes instead of whole tables."""

_JUDGED = ("validation", "test")
_EXCERPT = 300  # characters
_TRAIN, _VALIDATION = "#c9641a", "#3577c4"  # both readable on white and on black
_INK = "#010203"  # placeholder for the text colour, which follows the reader's colour scheme
_INK_STYLE = "svg{color:#1d2127}@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}"


def write(of: Run, *, progress: Progress | None = None) -> Path:
    """Builds report.html from the run folder. Works without exports, scores or data."""
    record, metrics, history = of.record, of.record.metrics, of.history
    device = tasks.device(of.recipe.task)
    learnt, modality = device.learnt(of.recipe), device.modality
    ids, wrong, shown, context, without = list[str](), list[Mistake](), dict[int, Markup](), dict[str, Any](), None
    if metrics:
        ids, truth, predictions = of.predictions("test")
        wrong = learnt.shown.mistakes(of.labels, truth, predictions)
        test, without = _test(of, progress or Progress())
        context = learnt.shown.context(of.labels, truth, predictions, test)
        if test is not None:
            shown, without = _previews(test, ids, wrong[:SHOWN_MISTAKES], modality)
    made = artifact.inside(of.exports)
    page = _template().render(
        of=of,
        record=record,
        metrics=metrics,
        unit=modality.name,
        modality=modality,
        learnt=learnt,
        sides=device.sides(of.recipe),
        outputs=learnt.shown.said(of.labels, record.model),
        ids=ids,
        worth={split: _worth(of, learnt, split, metrics[split][of.metric]) for split in _JUDGED} if metrics else {},
        counts=(counts := _counts(record)),
        totals=[sum(column) for column in zip(*(one["row"] for one in counts), strict=True)],
        is_large=len(of.labels) > LARGEST_MATRIX,
        history=history,
        kept=_kept(history, of),
        curves=[(name, _curve(name, of, history)) for name in ("loss", of.metric)] if history else [],
        wrong=wrong,
        shown=wrong[:SHOWN_MISTAKES],
        contents=shown,
        without=without,
        **context,
        artifacts=made,
        install={name: runtime.install for name, runtime in RUNTIMES.items()},
        refused=of.failures,
        said=_said(of, history),
        missing=sorted(
            {export_name(e) for e in of.recipe.exports}
            - {a.folder.name for a in made}
            - {refused["name"] for refused in of.failures}
        ),
    )
    with files.whole_file(of.report) as file:
        file.write(page.encode("utf-8", "replace"))  # a path may hold bytes that are not text
    return of.report


# --- what the files say ------------------------------------------------------------------------------------


def _worth(of: Run, learnt: Learnt, split: str, value: float) -> dict[str, Any]:
    """Returns a split's metric and number of examples, and for a share its 95 % interval."""
    _, truth, predictions = of.predictions(split)
    found: dict[str, Any] = {"value": value, "count": len(truth), "low": None, "high": None}
    if learnt.metric.share:
        each = learnt.per_example(truth, predictions)
        low, high = statistics.interval(learnt, each)
        found |= {"count": len(each), "low": low, "high": high}
    return found


def _counts(record: RunRecord) -> list[dict[str, Any]]:
    """Returns the number of examples of each label in each split, and their sum."""
    rows = [(label, [split[label] for split in record.data.counts.values()]) for label in record.labels]
    return [{"label": label, "row": [*row, sum(row)]} for label, row in rows]


def _kept(history: list[dict[str, float]], of: Run) -> int:
    """Returns the epoch, counted from 1 over all phases, whose weights the run kept (0: none)."""
    metric = tasks.device(of.recipe.task).learnt(of.recipe).metric
    return 1 + max(range(len(history)), key=lambda i: metric.rank(history[i]), default=-1)


def _said(of: Run, history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Returns the answers to each sampled prompt: before training, after each epoch, and after the kept one."""
    found = of.record.generations
    if not found:
        return []
    kept = history[_kept(history, of) - 1] if history else None
    key = f"{kept['phase']:.0f}.{kept['epoch']:.0f}" if kept else None
    return [
        {
            "prompt": "\n".join(turn["content"] for turn in turns[:-1])[-_EXCERPT:],
            "expected": turns[-1]["content"][:_EXCERPT],
            "before": found.before[i],
            "after": found.epochs[key][i] if key in found.epochs else None,
            "epochs": [(name, texts[i]) for name, texts in found.epochs.items()],
        }
        for i, turns in enumerate(found.conversations)
    ]


def _test(of: Run, progress: Progress) -> tuple[Split | None, str | None]:
    """Returns the test split, or why it is unavailable."""
    try:
        return of.splits(progress).test, None
    except KerastuneError as error:
        return None, error.message


def _previews(
    test: Split, ids: Sequence[str], mistakes: Sequence[Mistake], modality: Modality
) -> tuple[dict[int, Markup], str | None]:
    """Returns previews of the examples by their index among the predictions, or why there are none."""
    place = {id: i for i, id in enumerate(test.ids)}
    here = {one.index: place[ids[one.index]] for one in mistakes if ids[one.index] in place}
    try:
        return {
            index: modality.preview(test.example(i), f"Test {modality.name} {printable(ids[index])}")
            for index, i in here.items()
        }, None
    except (OSError, ValueError) as error:  # a file disappeared or broke during reading
        return {}, str(error)


# --- pictures ----------------------------------------------------------------------------------------------


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _curve(metric: str, of: Run, history: list[dict[str, float]]) -> str:
    """Plots training and validation over epochs, with phases as bands and a ring around the kept epoch."""
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": metric, "font.size": 10, "text.parse_math": False, **ink}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.5, 2.9), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        epochs = range(1, len(history) + 1)
        looks = {"training": (metric, _TRAIN, "--"), "validation": (f"val_{metric}", _VALIDATION, "-")}
        for name, (key, color, line) in looks.items():
            if key in history[0]:  # training may show another, cheaper figure
                axes.plot(epochs, [r[key] for r in history], line, color=color, label=name, marker="o", ms=4)
        kept = _kept(history, of)
        axes.plot([kept], [history[kept - 1][f"val_{metric}"]], "o", ms=10, mfc="none", mec=_INK, label="kept")
        _bands(axes, [int(row["phase"]) for row in history], of.record.phases)
        axes.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color="#808080", alpha=0.25)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().replace(_INK, "currentColor").replace("*{", _INK_STYLE + "*{", 1)
    return _uri("svg+xml", svg[svg.index("<svg") :].encode())


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


# --- words and figures -------------------------------------------------------------------------------------


def _template() -> Any:
    folders = [str(resources.files("kerastune.reporting")), str(resources.files("kerastune.tasks.learnt"))]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "name": _name,
        "printable": printable,
        "figure": _figure,
        "percent": lambda share: f"{100 * share:.2f}\u202f%",
        "points": lambda share: f"{100 * share:.2f}".replace("-0.00", "0.00").replace("-", "−"),
        "count": lambda number: f"{number:,}",
        "capitalize": lambda text: text.capitalize() if text.islower() else text,  # "mAP" stays
        "duration": _duration,
        "moment": lambda iso: datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z"),
        "setting": lambda value: value if isinstance(value, str) else json.dumps(value),
        "quoted": lambda path: shlex.quote(str(path)),
    }
    environment.filters |= filters
    return environment.get_template("report.html.j2")


def _figure(value: float, metric: str) -> str:
    return f"{100 * value:.2f}\u202f%" if metric.endswith("accuracy") else f"{value:.4f}"


def _name(text: str) -> Markup:
    """Returns a label or file name with visible control characters and isolated text direction."""
    return Markup("<bdi>{}</bdi>").format(printable(text))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
