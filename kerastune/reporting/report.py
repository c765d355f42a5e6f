"""The report: one HTML page on what a run reached, how it learned, where it is wrong, and what left it.

All of it is read from the run folder; the data are read once more, for thumbnails of mistakes only.
"""

import base64
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps
from scipy.stats import binomtest

from kerastune import tasks
from kerastune.errors import KerastuneError, printable
from kerastune.modalities.image import UnreadableImage
from kerastune.progress import Progress
from kerastune.recipe import export_name
from kerastune.run import Run
from kerastune.tasks import scoring
from kerastune.verifying import artifact
from kerastune.verifying.runtimes import RUNTIMES

SHOWN_MISTAKES = 12
LARGEST_MATRIX = 30
"""With more labels than this, pairs and extremes are shown instead of whole tables."""

_THUMBNAIL = (200, 200)
_EXCERPT = 300  # characters
_TRAIN, _VALIDATION = "#c9641a", "#3577c4"  # both readable on white and on black
_INK = "#010203"  # stands for the text colour, which follows the reader's colour scheme
_INK_STYLE = "svg{color:#1d2127}@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}"


@dataclass(frozen=True)
class Mistake:
    """A test example that the model is wrong about."""

    id: str
    truth: str
    said: str
    probability: float | None


@dataclass(frozen=True)
class Found:
    """A test text, and what the model finds with it.

    Attributes:
        rank: of the nearest text that belongs to it, from 1; of two texts with a score None.
        belongs: that text; or the score.
        nearest: texts, their cosines, and whether they belong to it.
    """

    id: str
    text: str
    rank: int | None
    belongs: str
    nearest: list[tuple[str, float, bool]]


_FIGURES = {
    "scores": ("spearman", "pearson"),
    **dict.fromkeys(("pairs", "groups"), ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")),
}
"""What is shown of vectors, by target."""


def write(of: Run, *, progress: Progress | None = None) -> Path:
    """Builds report.html from what the run folder holds. Works without exports, scores or data."""
    record, metrics, history = of.record, of.record.get("metrics"), of.history
    is_embedding = of.recipe.data.target in scoring.SIMILARITY
    wrong = _mistakes(of) if metrics and not is_embedding else []
    shown, without = _shown(of, wrong[:SHOWN_MISTAKES], progress or Progress())
    found: list[Found] = []
    if metrics and is_embedding:
        found, without = _found(of, progress or Progress())
    made = artifact.inside(of.exports)
    page = _template().render(
        of=of,
        record=record,
        metrics=metrics,
        unit=of.recipe.data.unit,
        worth={split: _worth(of, split, found[of.metric]) for split, found in (metrics or {}).items()},
        counts=_counts(record),
        is_large=len(of.labels) > LARGEST_MATRIX,
        history=history,
        kept=_kept(history, of),
        curves=[(name, _curve(name, of, history)) for name in ("loss", of.metric)] if history else [],
        pairs=_confused(of.labels, (metrics or {}).get("test", {}).get("confusion_matrix")),
        wrong=wrong,
        shown=wrong[:SHOWN_MISTAKES],
        contents=shown,
        without=without,
        found=found,
        figures=_FIGURES.get(of.recipe.data.target, ()),
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
    partial = of.report.with_name(f".{of.report.name}.partial")
    partial.write_bytes(page.encode("utf-8", "replace"))  # a path may hold bytes that are no text
    partial.replace(of.report)
    return of.report


# --- what the files say ------------------------------------------------------------------------------------


def _worth(of: Run, split: str, value: float) -> dict[str, Any]:
    """What a split's metric is, of how many examples; of a share of them with its 95 % Wilson interval."""
    _, truth, predictions = of.predictions(split)
    scores = _only(predictions)
    found: dict[str, Any] = {"value": value, "count": len(truth), "low": None, "high": None}
    if of.recipe.data.target not in ("number", "scores"):
        right = scoring.quality(of.recipe.data.target, truth, scores)
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
        found |= {"count": len(right), "low": interval.low, "high": interval.high}
    return found


def _only(predictions: Mapping[str, Any]) -> Any:
    (found,) = predictions.values()
    return found


def _counts(record: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Examples of each label in train, validation and test, and their sum."""
    splits = record["data"]["counts"]
    rows = [(label, [splits[s][label] for s in ("train", "validation", "test")]) for label in record["labels"]]
    return [(label, [*row, sum(row)]) for label, row in rows]


def _kept(history: list[dict[str, float]], of: Run) -> int:
    """The epoch, counted over all phases from 1, whose weights the run kept (0: none)."""
    metric = tasks.device(of.recipe.task).learnt(of.recipe).metric
    return 1 + max(range(len(history)), key=lambda i: metric.rank(history[i]), default=-1)


def _confused(labels: Sequence[str], matrix: list[list[int]] | None) -> list[tuple[str, str, int, float]]:
    """The 20 pairs confused most: truth, what was said, how often, and of the truth's examples how many."""
    if matrix is None:
        return []
    counts = np.array(matrix)
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    cells = [divmod(int(i), len(counts)) for i in order if wrong.flat[i]]
    return [(labels[t], labels[s], int(wrong[t, s]), wrong[t, s] / counts[t].sum()) for t, s in cells]


def _mistakes(of: Run) -> list[Mistake]:
    """The test examples that are wrong, the most confident first; of numbers all, the largest errors first."""
    if of.recipe.data.target == "text":
        return []  # how good an answer is, nobody counts
    ids, truth, predictions = of.predictions("test")
    scores = _only(predictions)
    if of.recipe.data.target == "number":
        error = np.abs(scores - truth)[:, 0]
        order = np.argsort(-error, kind="stable")
        return [Mistake(ids[i], f"{truth[i, 0]:.3g}", f"{scores[i, 0]:.3g}", None) for i in order]
    if of.recipe.data.target == "labels":
        said, known = scores > 0.5, truth > 0.5
        sure = np.where(said, scores, 1 - scores).min(-1)
        wrong = [int(i) for i in np.argsort(-sure, kind="stable") if (said[i] != known[i]).any()]
        return [Mistake(ids[i], _named(of, known[i]), _named(of, said[i]), float(sure[i])) for i in wrong]
    said, probability = scores.argmax(-1), scores.max(-1)
    wrong = [int(i) for i in np.argsort(-probability, kind="stable") if said[i] != truth[i]]
    return [Mistake(ids[i], of.labels[truth[i]], of.labels[said[i]], float(probability[i])) for i in wrong]


_NEAREST = 3


def _found(of: Run, progress: Progress) -> tuple[list[Found], str | None]:
    """The test texts with which what belongs to them is found last, and a few with which it is found first; or the
    pairs whose cosines are out of place. Or why there is none."""
    target = of.recipe.data.target
    _, truth, predictions = of.predictions("test")
    vectors = _only(predictions)
    try:
        test = of.splits(progress).test
    except KerastuneError as error:
        return [], error.message

    def text(example: int, side: int = 0) -> str:
        return printable(str(test.example(example)[side]))[:_EXCERPT]

    if target == "scores":
        near = scoring.cosines(vectors)
        place, wanted = (np.argsort(np.argsort(values, kind="stable")) for values in (near, truth[:, 0]))
        worst = [int(i) for i in np.argsort(-np.abs(place - wanted), kind="stable")[:SHOWN_MISTAKES]]
        pairs = [(i, [(text(i, 1), float(near[i]), True)]) for i in worst]
        return [Found(test.ids[i], text(i), None, f"{truth[i, 0]:.4g}", nearest) for i, nearest in pairs], None
    ranked = sorted(scoring.neighbours(target, truth, vectors, _NEAREST), key=lambda one: -one.rank)
    chosen = [*ranked[:SHOWN_MISTAKES], *ranked[SHOWN_MISTAKES:][-_NEAREST:]]
    label = [of.labels[i] for i in truth] if target == "groups" else []
    return [
        Found(
            test.ids[one.example],
            text(one.example),
            one.rank,
            label[one.example] if label else text(one.example, 1),
            [(text(*place), cosine, belongs) for place, cosine, belongs in one.nearest],
        )
        for one in chosen
    ], None


def _said(of: Run, history: list[dict[str, float]]) -> list[dict[str, Any]]:
    """What a language model said to each sampled prompt: before training, after each epoch, and after the kept one."""
    found = of.record.get("generations")
    if not found:
        return []
    kept = history[_kept(history, of) - 1] if history else None
    key = f"{kept['phase']:.0f}.{kept['epoch']:.0f}" if kept else None
    return [
        {
            "prompt": "\n".join(turn["content"] for turn in turns[:-1])[-_EXCERPT:],
            "expected": turns[-1]["content"][:_EXCERPT],
            "before": found["before"][i],
            "after": found["epochs"][key][i] if key in found["epochs"] else None,
            "epochs": [(name, texts[i]) for name, texts in found["epochs"].items()],
        }
        for i, turns in enumerate(found["conversations"])
    ]


def _named(of: Run, chosen: npt.NDArray[np.bool_]) -> str:
    return ", ".join(label for label, on in zip(of.labels, chosen, strict=True) if on) or "none"


def _shown(of: Run, mistakes: list[Mistake], progress: Progress) -> tuple[dict[str, str], str | None]:
    """Images as data URIs, or texts, by id; or why there are none."""
    if not mistakes:
        return {}, None
    try:
        test = of.splits(progress).test
        place = {id: i for i, id in enumerate(test.ids)}
        here = {m.id: place[m.id] for m in mistakes if m.id in place}
        if of.recipe.data.unit == "text":
            return {id: printable(" / ".join(test.example(i)))[:_EXCERPT] for id, i in here.items()}, None
        return {id: _jpeg(test.example(i)) for id, i in here.items()}, None
    except KerastuneError as error:
        return {}, error.message
    except (OSError, UnreadableImage) as error:  # a file that went away or broke while it was read
        return {}, str(error)


# --- pictures ----------------------------------------------------------------------------------------------


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _jpeg(pixels: npt.NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    small = max(image.size) <= _THUMBNAIL[0] // 2  # enlarged so that its pixels can be seen
    image = ImageOps.contain(image, _THUMBNAIL, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    image.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return _uri("jpeg", buffer.getvalue())


def _curve(metric: str, of: Run, history: list[dict[str, float]]) -> str:
    """Training and validation over epochs, phases as bands, a ring around the epoch that was kept."""
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": metric, "font.size": 10, "text.parse_math": False, **ink}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.5, 2.9), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        epochs = range(1, len(history) + 1)
        looks = {"training": (metric, _TRAIN, "--"), "validation": (f"val_{metric}", _VALIDATION, "-")}
        for name, (key, color, line) in looks.items():
            axes.plot(epochs, [r[key] for r in history], line, color=color, label=name, marker="o", ms=4)
        kept = _kept(history, of)
        axes.plot([kept], [history[kept - 1][f"val_{metric}"]], "o", ms=10, mfc="none", mec=_INK, label="kept")
        _bands(axes, [int(row["phase"]) for row in history], of.record["phases"])
        axes.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color="#808080", alpha=0.25)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().replace(_INK, "currentColor").replace("*{", _INK_STYLE + "*{", 1)
    return _uri("svg+xml", svg[svg.index("<svg") :].encode())


def _bands(axes: Any, numbers: list[int], phases: list[dict[str, Any]]) -> None:
    """A band and a name for each phase; the name is only its number where the band is narrow."""
    start = 0.5
    for number, epochs in groupby(numbers):
        end = start + len(list(epochs))
        axes.axvspan(start, end, color="#808080", alpha=0.12 if number % 2 == 0 else 0, linewidth=0)
        if start > 0.5:
            axes.axvline(start, color="#808080", linewidth=0.8)
        name = f"{number}: {ascii(phases[number - 1]['unfreeze'])[1:-1]}"
        room = int(52 * (end - start) / len(numbers))
        name = name if len(name) <= room else str(number)
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text((start + end) / 2, 1.02, name, size=9, **place)
        start = end


# --- words and figures -------------------------------------------------------------------------------------


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., Any]] = {
        "name": _name,
        "printable": printable,
        "figure": _figure,
        "percent": lambda share: f"{100 * share:.2f}\u202f%",
        "points": lambda share: f"{100 * share:.2f}".replace("-0.00", "0.00").replace("-", "−"),
        "count": lambda number: f"{number:,}",
        "duration": _duration,
        "moment": lambda iso: datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z"),
        "setting": lambda value: value if isinstance(value, str) else json.dumps(value),
        "quoted": lambda path: shlex.quote(str(path)),
    }
    environment.filters |= filters
    return environment.from_string(files("kerastune.reporting").joinpath("report.html.j2").read_text("utf-8"))


def _figure(value: float, metric: str) -> str:
    return f"{100 * value:.2f}\u202f%" if metric.endswith("accuracy") else f"{value:.4f}"


def _name(text: str) -> Markup:
    """A label or a file name: control characters made visible, and its direction kept to itself."""
    return Markup("<bdi>{}</bdi>").format(printable(text))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
