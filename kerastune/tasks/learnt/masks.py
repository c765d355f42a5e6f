"""The class of each pixel: outputs "class_map", whole numbers of as many rows and columns as the picture has, and, for
golden examples alone, "logits", float [n, h, w, K], which the map is made from, and "probabilities" of each pixel, if
the recipe asks for them.

The truth is a packed mask for each picture (`kerastune.data.masks`), unpacked one at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kerastune.data import masks, ragged
from kerastune.data.masks import IGNORED
from kerastune.errors import printable
from kerastune.modalities.image import embedded
from kerastune.targets import answers
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

Ints = npt.NDArray[np.int64]
Map = npt.NDArray[Any]
Palette = npt.NDArray[np.uint8]

_NEAR = 0.0075  # of the picture's diagonal: boundaries at most so far apart are the same (Csurka et al. 2013)
_ALIKE = 0.99  # share of a picture's pixels
_SHOWN = 12
_SIDE = 240  # pixels of a picture in the report
_STRENGTH = 0.6  # of colours over a picture
_COLOURS: Palette = np.array(
    [
        *((0, 0, 0), (31, 119, 180), (214, 39, 40), (44, 160, 44), (227, 119, 194), (255, 187, 0), (148, 103, 189)),
        *((23, 190, 207), (140, 86, 75), (188, 189, 34), (255, 127, 14), (127, 127, 127), (0, 80, 60), (90, 0, 60)),
    ],
    np.uint8,
)


# --- figures -------------------------------------------------------------------------------------------------


def metrics(labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Returns mIoU and the share of right pixels; and of each class its IoU, and F1 of its boundary."""
    counts = _confusions(truth, predictions, len(labels)).sum(axis=0)
    shares, edges = _overlaps(counts), _boundaries(len(labels), truth, predictions)
    return {
        "miou": float(np.nanmean(shares)) if np.isfinite(shares).any() else 0.0,
        "pixel_accuracy": float(np.trace(counts) / max(counts.sum(), 1)),
        "boundary_f1": float(np.nanmean(edges)) if np.isfinite(edges).any() else 0.0,
        "per_class": {
            label: {
                "iou": _number(shares[n]),
                "boundary_f1": _number(edges[n]),
                "pixels": int(counts[n].sum()),
            }
            for n, label in enumerate(labels)
        },
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def per_example(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns how many pixels of each class got each class, float64 [n, K * K], the true one first."""
    there = np.flatnonzero(masks.present(truth).any(axis=0))
    largest = [int(one.max(initial=0)) for one in predictions["class_map"]]
    count = max(int(there.max(initial=0)), *largest, 0) + 1
    return _confusions(truth, predictions, count).reshape(len(truth), -1)


def _confusions(truth: Truth, predictions: Predictions, count: int) -> Doubles:
    found = np.zeros((len(truth), count, count))
    for counts, (known, said) in zip(found, _pairs(truth, predictions), strict=True):
        counted = known != IGNORED
        both = np.bincount(known[counted] * count + said[counted], minlength=count * count)
        counts += both.reshape(count, count)
    return found


def mean_overlap(found: Doubles) -> float:
    """Returns mIoU: the mean over classes of intersection over union, of all pixels of these pictures together.

    Classes that are neither there nor said do not count.
    """
    pooled = found.sum(axis=0)
    shares = _overlaps(pooled.reshape(_width(pooled), -1))
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else 0.0


def _width(pooled: Doubles) -> int:
    return int(len(pooled) ** 0.5 + 0.5)


def _overlaps(counts: Doubles) -> Doubles:
    both, union = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    return np.asarray(np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0))


def _pairs(truth: Truth, predictions: Predictions) -> Iterator[tuple[Ints, Ints]]:
    """Yields the mask and the map of each picture, both int64 [H, W]."""
    for row, said in zip(truth, predictions["class_map"], strict=True):
        known = masks.unpacked(row)
        yield known.astype(np.int64), at_size(said, known.shape).astype(np.int64)


def at_size(said: Map, size: tuple[int, ...]) -> Map:
    """Returns a map at another size; files that take pictures of one size give maps of that size."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, said.shape, strict=True))
    return said if said.shape == size else said[rows][:, columns]


def _boundaries(count: int, truth: Truth, predictions: Predictions) -> Doubles:
    """Returns F1 of each class's boundary, float64 [K]: its precision and recall count pixels that have one of the
    other mask nearby, over all pictures (Csurka et al. 2013, BMVC)."""
    from scipy.ndimage import distance_transform_edt

    hits = np.zeros((count, 4))  # near and all of the said boundary, near and all of the true one
    for known, said in _pairs(truth, predictions):
        said = np.where(known == IGNORED, IGNORED, said)
        most = max(_NEAR * float(np.hypot(*known.shape)), 1.0)
        for n in set(np.unique(known)) | set(np.unique(said)):
            if n >= count:
                continue
            edges = [_edge(one == n) for one in (said, known)]
            for i, (one, other) in enumerate((edges, edges[::-1])):
                near = distance_transform_edt(~other)[one] <= most if other.any() else np.zeros(one.sum(), np.bool_)
                hits[n, 2 * i : 2 * i + 2] += near.sum(), one.sum()
    with np.errstate(invalid="ignore"):
        precision, recall = hits[:, 0] / hits[:, 1], hits[:, 2] / hits[:, 3]
    both = np.nan_to_num(precision) + np.nan_to_num(recall)
    found = np.divide(2 * np.nan_to_num(precision * recall), both, out=np.zeros(count), where=both > 0)
    return np.where(hits[:, 1] + hits[:, 3] > 0, found, np.nan)


def _edge(inside: Bools) -> Bools:
    """Returns the pixels of a region with a neighbour outside it; the picture's border is no edge."""
    found = np.zeros_like(inside)
    found[:-1] |= inside[:-1] & ~inside[1:]
    found[1:] |= inside[1:] & ~inside[:-1]
    found[:, :-1] |= inside[:, :-1] & ~inside[:, 1:]
    found[:, 1:] |= inside[:, 1:] & ~inside[:, :-1]
    return found


# --- two runtimes --------------------------------------------------------------------------------------------


def _distance(ours: Predictions, theirs: Predictions) -> Doubles:
    """Returns the largest error of a logit, or what it would take to change a pixel that differs; without logits, the
    share of pixels that differ. float64 [n]."""
    names = [name for name in ("class_map", "logits", "probabilities") if name in ours and name in theirs]
    parts = ([dict(zip(names, row, strict=True)) for row in _rows(one, names)] for one in (ours, theirs))
    return np.array([answers.pixels(mine, known) for mine, known in zip(*parts, strict=True)], np.float64)


def _rows(predictions: Predictions, names: list[str]) -> Iterator[tuple[Map, ...]]:
    yield from zip(*(predictions[name] for name in names), strict=True)


def _agree(ours: Predictions, theirs: Predictions) -> Bools:
    """Returns whether 99 % of a picture's pixels have the same class, bool [n]."""
    equal = [
        mine.shape == known.shape and float((mine == known).mean()) >= _ALIKE
        for mine, known in zip(ours["class_map"], theirs["class_map"], strict=True)
    ]
    return np.array(equal, np.bool_)


def _logits(predictions: Predictions) -> Doubles:
    found = np.asarray(predictions["logits"], np.float64)
    return found.reshape(len(found), -1)


def _lost(ours: Predictions, theirs: Predictions) -> float:
    mine, known = _logits(ours), _logits(theirs)
    return float(np.square(mine - known).sum() / max(np.square(known - known.mean(axis=0)).sum(), 1e-12))


def _spread(predictions: Predictions) -> float:
    """Returns how far apart the logits are; without them, 1 if maps differ, else 0."""
    if "logits" in predictions:
        return float(np.ptp(_logits(predictions), axis=0).max(initial=0))
    first, *others = predictions["class_map"]
    return float(any(not np.array_equal(first, one) for one in others))


def _scale(predictions: Predictions) -> float:
    return float(np.abs(_logits(predictions)).max(initial=0))


# --- people --------------------------------------------------------------------------------------------------


def answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the classes with their shares of the picture, and how probable they are there."""
    found = _at(predictions, index)
    said = found["class_map"]
    shares = np.bincount(said.reshape(-1).astype(np.int64), minlength=len(labels)) / said.size
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i]]
    document: dict[str, Any] = {"shares": {labels[i]: float(shares[i]) for i in order}}
    if "probabilities" in found:
        sure = answers.certainty(found)
        document["mean_probabilities"] = {labels[i]: float(sure[i]) for i in order}
    lines = tuple(answers.shares(found, labels, top))
    return Answer(lines, {**document, "height": said.shape[0], "width": said.shape[1]})


def _at(predictions: Predictions, index: int) -> dict[str, Map]:
    """Returns what is said of the pixels of one picture."""
    names = [name for name in ("class_map", "probabilities") if name in predictions]
    return {name: np.asarray(predictions[name][index]) for name in names}


def painted(
    pixels: npt.NDArray[np.uint8], said: Map, sure: Map | None = None, palette: Palette = _COLOURS
) -> Image.Image:
    """Returns a picture under the colours of its classes; the first class, usually the background, has none.

    Args:
        sure: the probability of each pixel's class, of the same size as the picture: colours are as strong.
    """
    said = at_size(said, pixels.shape[:2]).astype(np.int64)
    colours = palette[np.where(said == IGNORED, 0, said) % len(palette)]
    strength = _STRENGTH * ((said > 0) & (said != IGNORED))[..., None]
    if sure is not None:
        strength = strength * sure[..., None]
    return Image.fromarray((pixels * (1 - strength) + colours * strength).astype(np.uint8))


def drawn(
    labels: Labels,
    predictions: Predictions,
    index: int,
    pixels: npt.NDArray[np.uint8],
    palette: Palette = _COLOURS,
) -> Image.Image:
    """Returns a picture under the colours of the classes that are said, paler where their probabilities are low."""
    found = _at(predictions, index)
    sure = found["probabilities"].max(-1) if "probabilities" in found else None
    return painted(pixels, found["class_map"], sure, palette)


def _context(
    labels: Labels, truth: Truth, predictions: Predictions, test: Any, palette: Palette = _COLOURS
) -> dict[str, Any]:
    """Returns the pictures with the lowest mIoU, under the truth and under what was said."""
    each = per_example(truth, predictions)
    own = np.array([mean_overlap(one[None]) for one in each])
    shown = []
    if test is not None and len(test) == len(truth):
        for i in np.argsort(own, kind="stable")[:_SHOWN]:
            pixels, name = test.example(int(i)), printable(test.ids[i])
            known, said = masks.unpacked(truth[int(i)]), np.asarray(predictions["class_map"][int(i)])
            parts = [_small(painted(pixels, one, palette=palette)) for one in (known, said)]
            words = ("What is there", "What the model says")
            pictures = [embedded(part, f"{word}: {name}") for part, word in zip(parts, words, strict=True)]
            shown.append({"id": name, "miou": float(own[i]), "pictures": pictures})
    keys = [(label, masks.named_color(palette[n % len(palette)])) for n, label in enumerate(labels)]
    return {"overlays": shown, "keys": keys[1:]}


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def _colored(colors: tuple[str, ...]) -> Shown:
    """Returns how maps are shown in the data's own colours."""
    palette = masks.channels(colors)
    return replace(MASK.shown, context=partial(_context, palette=palette), drawn=partial(drawn, palette=palette))


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return f"the class of each pixel, of {len(labels)}"


def _commonest(labels: Labels, known: Truth, n: int) -> Guess:
    """The class that most pixels of the training masks have, everywhere."""
    counts = np.zeros(IGNORED + 1, np.int64)
    for row in known:
        counts += np.bincount(masks.unpacked(row).reshape(-1), minlength=IGNORED + 1)
    best = int(counts[: len(labels)].argmax())
    maps = [np.full((1, 1), best, np.uint8)] * n
    return Guess(f"always {labels[best]}", {"class_map": ragged.of_maps(maps, np.zeros(0, np.uint8))})


MASK = Learnt(
    name="mask",
    metric=Metric("miou"),
    metrics=metrics,
    per_example=per_example,
    statistic=mean_overlap,
    comparison=Comparison(_distance, _agree, _lost, _spread, _scale, alike="class maps"),
    shown=Shown(
        "masks.html.j2",
        "What it outlines",
        _context,
        no_mistakes,
        answer,
        _said,
        ("pixel_accuracy", "boundary_f1"),
        drawn=drawn,
        colored=_colored,
        note="The figures of an epoch are those at the model's size; those of the test split at the pictures' own.",
    ),
    guess=_commonest,
)
