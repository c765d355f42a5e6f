"""The report: one HTML page with a run's results, learning curves, mistakes and exports.

It is built from the run folder; the data are read again only for thumbnails of mistakes.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kerastune import files, tasks
from kerastune.data import Split
from kerastune.errors import KerastuneError, printable
from kerastune.modalities import Modality
from kerastune.progress import Progress
from kerastune.recipe import export_name
from kerastune.records import RunRecord, curve_means, read_curve
from kerastune.reporting import charts
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


def write(of: Run, *, progress: Progress | None = None) -> Path:
    """Builds report.html from the run folder. Works without exports, scores or data."""
    record, metrics, history = of.record, of.record.metrics, of.history
    device = tasks.device(of.recipe.task)
    learnt, modality = device.learnt(of.recipe).in_colors(of.colors), device.modality
    ids, wrong, shown, context, without = list[str](), list[Mistake](), dict[int, Markup](), dict[str, Any](), None
    if metrics:
        ids, truth, predictions = of.predictions("test")
        wrong = learnt.shown.mistakes(of.labels, truth, predictions)
        test, without = _test(of, progress or Progress())
        context = learnt.shown.context(of.labels, truth, predictions, test)
        if test is not None:
            shown, without = _previews(test, ids, wrong[:SHOWN_MISTAKES], modality)
    plots = [(plot.title, plot.words, charts.plot(plot)) for plot in context.pop("plots", ())]
    kept = _kept(history, of)
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
        kept=kept,
        plots=plots,
        curves=[(name, charts.curve(name, record, history, kept)) for name in ("loss", of.metric)] if history else [],
        wrong=wrong,
        shown=wrong[:SHOWN_MISTAKES],
        contents=shown,
        without=without,
        **context,
        artifacts=made,
        install={name: runtime.install for name, runtime in RUNTIMES.items()},
        refused=of.failures,
        said=_said(of, history),
        worth_more=read_curve(of.folder / "curve"),
        learning_curve=lambda found: charts.inline(charts.learning_curve(found)),
        curve_means=curve_means,
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
