"""Transcripts. The truth is str [n]. Outputs have a row for each token, so their number varies by example:

- "tokens" int32: the chosen tokens, with the end token if it was chosen.
- "margins" float32: the lead in nats of each token over the second most likely one.
- "text" uint8: the text in UTF-8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kerastune.data import ragged
from kerastune.data.ragged import Ragged
from kerastune.targets import answers as reader
from kerastune.tasks.learnt import words
from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Comparison,
    Doubles,
    Labels,
    Learnt,
    Metric,
    Mistake,
    Predictions,
    Shown,
    Truth,
    ratio,
)
from kerastune.tasks.learnt.words import normalised

_SCALE = 100.0
"""Nats. Runtimes round logits by up to a ten-thousandth of this, and may exchange tokens with a smaller margin."""
_HINT = "compared as " + words.STATED


def predictions(
    tokens: Sequence[npt.NDArray[Any]], margins: Sequence[npt.NDArray[Any]], texts: Sequence[bytes]
) -> dict[str, Ragged]:
    """Returns predictions from the tokens, margins and text of each example."""
    rows = [np.frombuffer(text, np.uint8) for text in texts]
    return {
        "tokens": ragged.of_rows([np.asarray(one, np.int32) for one in tokens], np.zeros(0, np.int32)),
        "margins": ragged.of_rows([np.asarray(one, np.float32) for one in margins], np.zeros(0, np.float32)),
        "text": ragged.of_rows(rows, np.zeros(0, np.uint8)),
    }


def texts(found: Predictions) -> list[str]:
    """Returns the text of each example."""
    return [np.asarray(row, np.uint8).tobytes().decode("utf-8", "replace").strip() for row in found["text"]]


def metrics(labels: Labels, truth: Truth, found: Predictions, terms: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the shares of wrong words (with a 95 % interval) and characters, and recall and precision of terms."""
    said, known = [normalised(one) for one in texts(found)], [normalised(str(one)) for one in truth]
    each = per_example(truth, found)
    from kerastune.tasks.learnt.statistics import interval

    letters = sum(words.edits(a, b) for a, b in zip(said, known, strict=True)), sum(map(len, known))
    return {
        "word_error_rate": ratio(each),
        "interval": list(interval(TRANSCRIPT, each)),
        "character_error_rate": letters[0] / max(letters[1], 1),
        "exact": float(np.mean([a == b for a, b in zip(said, known, strict=True)])),
        "words": int(each[:, 1].sum()),
        **({"terms": _of_terms(terms, said, known)} if terms else {}),
    }


def _of_terms(terms: Sequence[str], said: Sequence[str], truth: Sequence[str]) -> dict[str, Any]:
    rows = {}
    for term in terms:
        found = [words.found(normalised(term), a, b) for a, b in zip(said, truth, strict=True)]
        rows[term] = {
            "said": sum(one.said for one in found),
            "written": sum(one.written for one in found),
            "right": sum(one.right for one in found),
        }
    said_, written, right = (sum(row[name] for row in rows.values()) for name in ("said", "written", "right"))
    shares = {"recall": right / said_ if said_ else None, "precision": right / written if written else None}
    return {**shares, "said": said_, "by_term": rows}


def per_example(truth: Truth, found: Predictions) -> Doubles:
    """Returns the numbers of wrong words and of words of each example, float64 [n, 2]."""
    pairs = zip(map(normalised, texts(found)), (normalised(str(one)) for one in truth), strict=True)
    rows = [(words.edits(said.split(), known.split()), len(known.split())) for said, known in pairs]
    return np.array(rows, np.float64).reshape(-1, 2)


# --- two runtimes ------------------------------------------------------------------------------------------


def distance(ours: Predictions, theirs: Predictions) -> Doubles:
    """Returns by how many nats margins differ, up to the first token that differs: there, how clearly Keras chose."""
    names = ("tokens", "margins")
    pairs = zip(*(one[name] for one in (ours, theirs) for name in names), strict=True)
    return np.array([reader.apart(*one) for one in pairs], np.float64)


def _agree(ours: Predictions, theirs: Predictions) -> Bools:
    return np.array([a == b for a, b in zip(texts(ours), texts(theirs), strict=True)], np.bool_)


def _lost(ours: Predictions, theirs: Predictions) -> float:
    """Returns the share of Keras's words that are written otherwise."""
    return ratio(per_example(texts(theirs), ours))


def _spread(found: Predictions) -> float:
    return float(len(set(texts(found))) - 1)


# --- in words ----------------------------------------------------------------------------------------------


def mistakes(labels: Labels, truth: Truth, found: Predictions) -> list[Mistake]:
    """Returns the examples with wrong words, those with the most first."""
    each = per_example(truth, found)
    order = sorted(np.flatnonzero(each[:, 0]), key=lambda i: -each[i, 0])
    said = texts(found)
    return [Mistake(int(i), str(truth[i]), said[i] or "(nothing)") for i in order]


def answer(labels: Labels, found: Predictions, index: int, top: int) -> Answer:
    """Returns a transcript, with its segments if they are there."""
    outputs = {name: found[name][index] for name in ("text", "segments") if name in found}
    lines = tuple(reader.transcript(outputs, labels, top))
    text = " ".join(texts({"text": found["text"][index : index + 1]})[0].split("\n"))
    if "segments" not in outputs:
        return Answer(lines, {"text": text})
    parts = [{"start": round(a, 2), "end": round(b, 2), "text": said} for a, b, said in reader.segments(outputs)]
    return Answer(lines, {"text": text, "segments": parts})


def _context(labels: Labels, truth: Truth, found: Predictions, test: Any) -> dict[str, Any]:
    return {"compared": _HINT}


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return "a transcript"


TRANSCRIPT = Learnt(
    name="transcript",
    metric=Metric("word_error_rate", higher_is_better=False, share=False),
    metrics=metrics,
    per_example=per_example,
    statistic=ratio,
    comparison=Comparison(distance, _agree, _lost, _spread, lambda found: _SCALE, "transcripts", "nats"),
    shown=Shown(
        "transcripts.html.j2",
        "Transcripts",
        _context,
        mistakes,
        answer,
        _said,
        ("character_error_rate",),
        note="The word error rate is that of real decoding, the loss that of each next token.",
    ),
    labels=lambda labels: (),  # the name of the column, which counts examples
)


def with_terms(terms: Sequence[str]) -> Learnt:
    """Returns the row whose metrics also count these terms."""
    return replace(TRANSCRIPT, metrics=lambda labels, truth, found: metrics(labels, truth, found, terms))
