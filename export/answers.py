"""Puts a model's outputs into words, by kind of output: rows of `ANSWERS`, or `PLAIN`. Needs only numpy.

Outputs are those of one example: a row by name of the output.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def best(outputs, labels, top):
    """Returns the most probable labels, in order."""
    scores = outputs["scores"]
    return [f"{scores[i]:.4f}  {labels[i]}" for i in np.argsort(-scores, kind="stable")[:top]]


def decided(outputs, labels, decision):
    """Returns whether the probability of the label that is decided for reaches its threshold, and a line about it."""
    score = float(outputs["scores"][labels.index(decision["label"])])
    reached = score >= decision["threshold"]
    sign = ">=" if reached else "<"
    line = f"decision: {'' if reached else 'not '}{decision['label']} ({score:.4f} {sign} {decision['threshold']:.4f})"
    return reached, line


def number(outputs, labels, top):
    """Returns the number with the name of its column."""
    return [f"{outputs['scores'][0]:.4f}  {labels[0]}"]


def vector(outputs, labels, top):
    """Returns the beginning of a vector."""
    found = outputs["embeddings"]
    return [f"{len(found)} numbers: {' '.join(f'{one:.4f}' for one in found[:6])} …"]


def decision(outputs, labels, top):
    """Returns the decision, the score, and where it is highest."""
    heat = outputs["heat_map"]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    word = "DEFECTIVE" if outputs["defective"][0] > 0.5 else "good"
    where = f"{(column + 0.5) / heat.shape[1]:.0%} from the left, {(row + 0.5) / heat.shape[0]:.0%} from the top"
    return [f"{word}  score {outputs['score'][0]:.3f} (above 1 is defective); highest {where}"]


CONFIDENT = 0.3


def boxes(outputs, labels, top):
    """Returns a line for each confident detection: x1, y1, x2, y2 in pixels of the picture, score and class."""
    found = [row for row in outputs["detections"] if row[4] >= CONFIDENT]
    return [
        f"{row[4]:.4f}  {labels[int(row[5])]}  x {row[0]:.1f} to {row[2]:.1f}, y {row[1]:.1f} to {row[3]:.1f}"
        for row in found
    ] or ["nothing"]


def shares(outputs, labels, top):
    """Returns the classes with their shares of the picture, the largest first, and how probable they are there."""
    found = np.bincount(outputs["class_map"].ravel().astype(int), minlength=len(labels)) / outputs["class_map"].size
    order = [i for i in np.argsort(-found, kind="stable")[:top] if found[i]]
    if "probabilities" not in outputs:
        return [f"{found[i]:.1%}  {labels[i]}" for i in order]
    sure = certainty(outputs)
    return [f"{found[i]:.1%}  {labels[i]}, with a mean probability of {sure[i]:.3f}" for i in order]


def certainty(outputs):
    """Returns the mean probability of each class at the pixels that got it, [K]; 0 where none did."""
    said = outputs["class_map"].ravel().astype(int)
    probable = outputs["probabilities"].reshape(len(said), -1)
    sums = np.bincount(said, probable[np.arange(len(said)), said], minlength=probable.shape[1])
    return sums / np.maximum(np.bincount(said, minlength=probable.shape[1]), 1)


def answer(outputs, labels, top):
    """Returns the text of an answer."""
    return [str(outputs["texts"])]


def transcript(outputs, labels, top):
    """Returns the text of a transcript; with times, a line for each segment."""
    if "segments" in outputs:
        return [f"{start:.2f} to {end:.2f} s  {text}" for start, end, text in segments(outputs)] or ["(nothing)"]
    return [bytes(outputs["text"]).decode("utf-8", "replace").strip() or "(nothing)"]


def segments(outputs):
    """Returns start and end in seconds, and the text, of each segment of a transcript with times."""
    lines = bytes(outputs["text"]).decode("utf-8", "replace").split("\n")
    times = np.asarray(outputs["segments"]).tolist()
    return [(start, end, text) for (start, end), text in zip(times, lines, strict=False)]


def plain(outputs, labels, top):
    """Returns the beginning of each output."""
    first = {name: " ".join(f"{value:.4g}" for value in row.flat[:6]) for name, row in outputs.items()}
    return [f"{name} {list(outputs[name].shape)}: {values}" for name, values in first.items()]


def cosines(said):
    """Returns the cosine similarity of each two."""
    lines = []
    for i, (name, outputs) in enumerate(said):
        for other, theirs in said[i + 1 :]:
            one, two = outputs["embeddings"], theirs["embeddings"]
            cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
            lines.append(f"{cosine:.4f}  {name} | {other}")
    return lines


def largest(ours, theirs):
    """Returns the largest difference of two numbers in any output."""
    return np.max([np.abs(ours[name].astype(np.float64) - theirs[name]).max(initial=0) for name in theirs])


def nats(ours, theirs):
    """Returns the difference of cross-entropies in nats per token; "sums" are nats, correct and scored tokens."""
    return abs(ours["sums"][0] / ours["sums"][2] - theirs["sums"][0] / theirs["sums"][2])


def raw(ours, theirs):
    """Returns the largest difference of a probability or a delta at any anchor, which decide about all detections; of
    a score or of a corner in 200 pixels where a file gives detections alone."""
    if "class_logits" not in theirs:
        apart = np.abs(ours["detections"].astype(np.float64) - theirs["detections"])
        return max(apart[:, 4].max(), apart[:, :4].max() / 200)
    probabilities = [1 / (1 + np.exp(-one["class_logits"].astype(np.float64))) for one in (ours, theirs)]
    deltas = ours["box_deltas"].astype(np.float64) - theirs["box_deltas"]
    return max(np.abs(probabilities[0] - probabilities[1]).max(), np.abs(deltas).max())


def same_boxes(ours, theirs):
    """Returns whether both find the same number of things of each class with confidence."""
    counts = [sorted(row[5] for row in one["detections"] if row[4] >= CONFIDENT) for one in (ours, theirs)]
    return counts[0] == counts[1]


def pixels(ours, theirs):
    """Returns the largest difference of a logit; or, if that is more, what it would take to change a pixel's class that
    differs: half of the margin between the two classes; or to change a probability: twice its difference, since a
    softmax changes by at most half of what its logits do. Without logits, returns the share of pixels that differ."""
    if ours["class_map"].shape != theirs["class_map"].shape:
        return np.inf
    differ = ours["class_map"] != theirs["class_map"]
    if "logits" not in theirs:
        return differ.mean()
    raw = np.abs(ours["logits"].astype(np.float64) - theirs["logits"]).max()
    if "probabilities" in theirs:
        if ours["probabilities"].shape != theirs["probabilities"].shape:
            return np.inf
        raw = np.maximum(raw, 2 * np.abs(ours["probabilities"] - theirs["probabilities"]).max())  # NaN stays
    rows, columns = np.nonzero(differ)
    if not len(rows):
        return raw
    logits = between(theirs["logits"].astype(np.float64), rows, columns, theirs["class_map"].shape)
    at = np.arange(len(rows))
    mine, known = (one["class_map"][rows, columns].astype(int) for one in (ours, theirs))
    return max(raw, np.abs(logits[at, known] - logits[at, mine]).max() / 2)


def between(coarse, rows, columns, size):
    """Returns the values of a map [h, w, K], enlarged to another size as TensorFlow does it, at some pixels: [n, K]."""
    taps = []
    for at, length, whole in ((rows, coarse.shape[0], size[0]), (columns, coarse.shape[1], size[1])):
        place = (at + 0.5) * length / whole - 0.5
        first = np.floor(place).astype(int)
        taps.append(((first.clip(0, length - 1), (first + 1).clip(0, length - 1)), (place - first)[:, None]))
    ((top, bottom), down), ((left, right), across) = taps
    upper = coarse[top, left] * (1 - across) + coarse[top, right] * across
    lower = coarse[bottom, left] * (1 - across) + coarse[bottom, right] * across
    return upper * (1 - down) + lower * down


def same_map(ours, theirs):
    """Returns whether all but a thousandth of the pixels have the same class."""
    one, other = ours["class_map"], theirs["class_map"]
    return one.shape == other.shape and (one != other).mean() <= 1e-3


GONE_ON = 100.0
"""Nats: the difference of a transcript that goes on where Keras stopped."""


def margin(ours, theirs):
    """Returns how far two transcripts are apart, in nats."""
    return apart(ours["tokens"], ours["margins"], theirs["tokens"], theirs["margins"])


def apart(mine, leads, known, margins):
    """Returns by how many nats margins differ, up to the first token that differs: there, how clearly Keras chose.

    Args:
        mine, leads: tokens and their margins, [n].
        known, margins: Keras's.
    """
    shorter = min(len(mine), len(known))
    differ = np.flatnonzero(mine[:shorter] != known[:shorter])
    same = int(differ[0]) if len(differ) else shorter
    off = float(np.abs(leads[:same].astype(np.float64) - margins[:same]).max(initial=0))
    if len(mine) == len(known) == same:
        return off
    return max(off, float(margins[same])) if same < len(margins) else GONE_ON


def same_text(ours, theirs):
    return np.array_equal(ours["text"], theirs["text"])


def same_label(ours, theirs):
    return ours["scores"].argmax() == theirs["scores"].argmax()


def same_decision(ours, theirs):
    return ((ours["defective"] > 0.5) == (theirs["defective"] > 0.5)).all()


def same_labels(ours, theirs):
    return ((ours["scores"] > 0.5) == (theirs["scores"] > 0.5)).all()


@dataclass(frozen=True)
class Kind:
    """A row of `ANSWERS`.

    Attributes:
        lines: (outputs, labels, number of labels) -> the output in words, as lines.
        difference: (ours, theirs) -> the difference between two runtimes, for the manifest's `tolerance`.
        unit: the unit of the difference.
        alike: (ours, theirs) -> whether both give the same labels, if there are labels.
        together: names and outputs of all examples -> lines that compare them.
    """

    lines: Callable
    difference: Callable = largest
    unit: str = ""
    alike: Callable | None = None
    together: Callable = lambda said: []


PLAIN = Kind(plain)
VECTORS = Kind(vector, together=cosines)
ANSWERS = {
    "label": Kind(best, alike=same_label),
    "labels": Kind(best, alike=same_labels),
    "number": Kind(number),
    "pairs": VECTORS,
    "groups": VECTORS,
    "scores": VECTORS,
    "defects": Kind(decision, alike=same_decision),
    "boxes": Kind(boxes, raw, alike=same_boxes),
    "mask": Kind(shares, pixels, alike=same_map),
    "text": Kind(answer, nats, " nats per token"),
    "transcript": Kind(transcript, margin, " nats", alike=same_text),
}
