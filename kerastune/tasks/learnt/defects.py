"""Good or defective. The outputs are "score" and "defective" [n, 1], "heat_map" [n, h, w] and "parts" [n, 3].

The truth is a structured array (`kerastune.data.truths.KINDS`): the kind of each picture, 0 for good, and its outline.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerastune.data.truths import OUTLINE, outlines
from kerastune.errors import printable
from kerastune.modalities.image import embedded
from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Comparison,
    Doubles,
    Guess,
    Labels,
    Learnt,
    Metric,
    Predictions,
    Shown,
    Truth,
    no_mistakes,
)

PARTS = ("patches", "residuals", "image")
"""Names of the columns of "parts"."""

_OVERLAP_LIMIT = 0.3  # share of false cells up to which the overlap is measured, as in MVTec AD
_SIZES = {
    "up to 0.1 %": (0, 0.001),
    "0.1 to 0.5 %": (0.001, 0.005),
    "0.5 to 2 %": (0.005, 0.02),
    "more than 2 %": (0.02, 1),
}
_SHOWN = 12
_SIDE = 240  # pixels of a picture in the report


def _scores(predictions: Predictions) -> Doubles:
    return np.asarray(predictions["score"], np.float64)[:, 0]


def _called(predictions: Predictions) -> Bools:
    """Returns which pictures are called defective."""
    return np.asarray(predictions["defective"])[:, 0] > 0.5


def _defective(truth: Truth) -> Bools:
    return np.asarray(truth["kind"] > 0)


# --- figures -------------------------------------------------------------------------------------------------


def metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns every figure; those that need defective pictures, or masks, are left out if there are none."""
    score, called, bad = _scores(predictions), _called(predictions), _defective(truth)
    found: dict[str, Any] = {
        "balanced_accuracy": balanced(per_example(truth, predictions)),
        "false_alarm_rate": _rate(called[~bad]),
        "false_alarms": _share(called[~bad]),
    }
    if not bad.any() or bad.all():
        return found
    parts = np.asarray(predictions["parts"], np.float64)
    found |= {
        "auroc": auroc(score[~bad], score[bad]),
        "recall": _rate(called[bad]),
        "found": _share(called[bad]),
        "parts": {name: auroc(parts[~bad, i], parts[bad, i]) for i, name in enumerate(PARTS) if np.ptp(parts[:, i])},
    }
    groups = {"per_kind": {kind: truth["kind"] == n for n, kind in enumerate(labels) if n}, "per_size": _sizes(truth)}
    for name, several in groups.items():
        if there := {one: of for one, of in several.items() if of.any()}:
            found[name] = {
                one: {"auroc": auroc(score[~bad], score[of]), **_share(called[of])} for one, of in there.items()
            }
    if (overlap := _overlap(truth, predictions)) is not None:
        found["pro"] = overlap
    return found


def _sizes(truth: Truth) -> dict[str, Bools]:
    """Returns which pictures have a defect of each size: the share of a raster of 128 x 128 that it touches."""
    areas = outlines(truth).mean(axis=(1, 2))
    return {name: np.asarray((areas > above) & (areas <= most)) for name, (above, most) in _SIZES.items()}


def per_example(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns whether each picture is called what it is, and whether it is defective, float64 [n, 2]."""
    bad = _defective(truth)
    return np.stack([_called(predictions) == bad, bad], axis=1).astype(np.float64)


def balanced(found: Doubles) -> float:
    """Returns the mean of the shares of good and of defective pictures that are called so; of what there is of them."""
    right, bad = found[:, 0], found[:, 1] > 0.5
    return float(np.mean([right[some].mean() for some in (bad, ~bad) if some.any()]))


def auroc(good: Doubles, bad: Doubles) -> float:
    """Returns the probability that a defective picture scores above a good one."""
    order = np.sort(good)
    below, equal = np.searchsorted(order, bad, "left"), np.searchsorted(order, bad, "right")
    return float((below + equal).mean() / 2 / len(good))


def _rate(called: Bools) -> float:
    return float(called.mean()) if len(called) else 0.0


def _share(called: Bools) -> dict[str, Any]:
    """Returns a count of called pictures with its 95 % interval (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    count, n = int(called.sum()), len(called)
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return {"called": count, "of": n, "share": count / max(n, 1), "low": low, "high": high}


def _overlap(truth: Truth, predictions: Predictions) -> float | None:
    """Returns the area under the per-region overlap up to 30 % of false cells, as a share (PRO; Bergmann et al. 2021).

    It is measured in cells of a raster of 128 x 128, whatever the pictures' size. None without masks.
    """
    masks, bad = outlines(truth), _defective(truth)
    outlined = masks.any(axis=(1, 2))
    if not outlined.any():
        return None
    from scipy.ndimage import label

    judged = np.flatnonzero(outlined | ~bad)  # a defect without a mask is neither
    maps = np.stack([_at_raster(one) for one in np.asarray(predictions["heat_map"])[judged]])
    masks = masks[judged]
    regions = [
        maps[i][raster == n]
        for i in range(len(judged))
        for raster, count in [label(masks[i])]
        for n in range(1, count + 1)
    ]
    false = np.sort(maps[~masks])
    rates = np.linspace(0, _OVERLAP_LIMIT, 101)
    places = np.clip(np.ceil(len(false) * (1 - rates)).astype(int), 0, len(false)) - 1
    thresholds = false[np.maximum(places, 0)]
    overlaps = np.mean([1 - np.searchsorted(np.sort(one), thresholds, "right") / len(one) for one in regions], axis=0)
    return float(np.trapezoid(overlaps, rates) / _OVERLAP_LIMIT)


def _at_raster(heat: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rows, columns = (np.arange(OUTLINE) * size // OUTLINE for size in heat.shape)
    return np.asarray(heat[rows][:, columns], np.float32)


# --- two runtimes --------------------------------------------------------------------------------------------


def _distance(ours: Predictions, theirs: Predictions) -> Doubles:
    """Returns the largest difference of a score, a part or a cell of the map, float64 [n]."""
    names = ("score", "parts", "heat_map")
    apart = [np.abs(np.asarray(ours[name], np.float64) - np.asarray(theirs[name], np.float64)) for name in names]
    return np.asarray(np.max([one.reshape(len(one), -1).max(axis=1, initial=0) for one in apart], axis=0))


def _agree(ours: Predictions, theirs: Predictions) -> Bools:
    return np.asarray(_called(ours) == _called(theirs))


def _lost(ours: Predictions, theirs: Predictions) -> float:
    mine, known = _scores(ours), _scores(theirs)
    return float(np.square(mine - known).sum() / max(np.square(known - known.mean()).sum(), 1e-12))


def _spread(predictions: Predictions) -> float:
    return float(np.ptp(_scores(predictions)))


def _scale(predictions: Predictions) -> float:
    """Returns how far apart the scores are, or the threshold if that is more."""
    return max(_spread(predictions), 1.0)


# --- people --------------------------------------------------------------------------------------------------


def answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the decision, the score, and the place that is least like the good pictures."""
    score, is_bad = float(_scores(predictions)[index]), bool(_called(predictions)[index])
    heat, parts = np.asarray(predictions["heat_map"])[index], np.asarray(predictions["parts"])[index]
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    y, x = float((row + 0.5) / heat.shape[0]), float((column + 0.5) / heat.shape[1])
    word, largest = "DEFECTIVE" if is_bad else "good", PARTS[int(parts.argmax())]
    line = f"{word}  score {score:.3f} (above 1 is defective), by {largest}"
    if is_bad and largest != "image":
        line += f"; most at {x:.0%} from the left and {y:.0%} from the top"
    named = {name: float(value) for name, value in zip(PARTS, parts, strict=True)}
    return Answer((line,), {"defective": is_bad, "score": score, "parts": named, "most_at": [x, y]})


def _context(labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    """Returns the pictures with the highest scores, and the missed ones, under their heat maps."""
    score, called, bad = _scores(predictions), _called(predictions), _defective(truth)
    missed, alarms = np.flatnonzero(bad & ~called), np.flatnonzero(called & ~bad)
    groups = {
        "Missed defects, the lowest scores first": missed[np.argsort(score[missed])],
        "False alarms, the highest scores first": alarms[np.argsort(-score[alarms])],
        "Defects found, the lowest scores first": (hit := np.flatnonzero(bad & called))[np.argsort(score[hit])],
    }
    shown = {
        title: [_seen_through(test, predictions, int(i), labels[truth["kind"][i]]) for i in several[:_SHOWN]]
        for title, several in groups.items()
        if test is not None and len(test) == len(truth)
    }
    return {"overlays": {title: several for title, several in shown.items() if several}, "part_names": PARTS}


def _seen_through(test: Any, predictions: Predictions, index: int, kind: str) -> dict[str, Any]:
    """Returns a picture under its heat map, and what there is to say about it."""
    picture = drawn((), predictions, index, test.example(index), _SIDE)
    parts = np.asarray(predictions["parts"])[index]
    name = printable(test.ids[index])
    return {
        "picture": embedded(picture, f"Heat map over test image {name}"),
        "kind": kind,
        "id": name,
        "score": float(_scores(predictions)[index]),
        "by": PARTS[int(parts.argmax())],
    }


def drawn(
    labels: Labels, predictions: Predictions, index: int, pixels: npt.NDArray[np.uint8], side: int = 2**15
) -> Image.Image:
    """Returns a picture, made smaller than `side`, under its heat map: clear where that is 0, red from the threshold
    on."""
    picture, heat = Image.fromarray(pixels), np.asarray(predictions["heat_map"], np.float32)[index]
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    strength = Image.fromarray(np.clip(heat, 0, 1)).resize(picture.size, Image.Resampling.BILINEAR)
    alpha = 0.75 * np.clip(np.asarray(strength) * 2 - 1, 0, 1)[..., None]  # from half the threshold on
    blended = np.asarray(picture, np.float32) * (1 - alpha) + np.array([220, 20, 20], np.float32) * alpha
    return Image.fromarray(blended.astype(np.uint8))


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return "a score, a decision and a heat map"


def _all_good(labels: Labels, known: Truth, n: int) -> Guess:
    """Always good."""
    flat = np.zeros((n, 1), np.float32)
    parts = np.zeros((n, len(PARTS)), np.float32)
    outputs: Predictions = {"score": flat, "defective": flat, "heat_map": flat[..., None], "parts": parts}
    return Guess("always good", outputs)


DEFECTS = Learnt(
    name="defects",
    metric=Metric("balanced_accuracy"),
    metrics=metrics,
    per_example=per_example,
    statistic=balanced,
    comparison=Comparison(_distance, _agree, _lost, _spread, _scale, alike="decisions", exact=True),
    shown=Shown(
        "defects.html.j2",
        "What it finds",
        _context,
        no_mistakes,
        answer,
        _said,
        ("auroc", "recall", "false_alarm_rate", "pro"),
        validation="used to set the threshold",
        drawn=drawn,
    ),
    labels=lambda labels: (),
    guess=_all_good,
)
