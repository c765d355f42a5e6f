"""Vectors that are similar for texts or images that belong together. The output "embeddings" has one row for each.

Predictions are float32 [n, sides, D]. The truth of pairs numbers the split's texts, int64 [n, sides]. The truth of
groups is each example's label, int64 [n]. The truth of scores is the similarity of both sides, float32 [n, 1].
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from kerastune.tasks.learnt.contract import (
    Answer,
    Bools,
    Doubles,
    Labels,
    Learnt,
    Metric,
    Predictions,
    Shown,
    Truth,
    by_rows,
    mean_of_first,
    no_mistakes,
)

Floats = npt.NDArray[np.float32]

_BLOCK = 256  # texts compared with all others at a time


def similarity(target: str, truth: npt.NDArray[Any], vectors: Floats) -> dict[str, Any]:
    """Computes the metrics of a split's vectors.

    Returns:
        For scores: Spearman's and Pearson's correlation of cosine and score. Otherwise, over all examples with a match
        (`queries`): the share with a match among the nearest 1, 5 and 10 of the split's `texts`, and the mean of
        1 / its rank. If one has several matches, the nearest counts (Musgrave et al. 2020, arXiv:2003.08505). For
        groups also the mean average precision, for which every match counts.
    """
    if target == "scores":
        near = cosines(vectors)
        vary = np.ptp(near) > 0 and np.ptp(truth) > 0
        return {
            "spearman": rank_correlation(near, truth[:, 0]),
            "pearson": float(np.corrcoef(near, truth[:, 0])[0, 1]) if vary else 0.0,
        }
    return _figures(_search(target, truth, vectors), target == "groups")


def similarity_among(
    truth: npt.NDArray[Any], vectors: Floats, others: npt.NDArray[Any], their_vectors: Floats
) -> dict[str, Any]:
    """Computes the metrics of groups, as `similarity`, of examples that are searched for among others.

    Examples whose label no other one has are left out.
    """
    n = len(truth)
    places = np.stack([np.arange(n + len(others)), np.zeros(n + len(others), np.int64)], 1)
    search = _Search(
        np.concatenate([vectors, their_vectors]),
        places[:n][np.isin(truth, others)],
        places[n:],
        lambda some: np.equal.outer(truth[some], others),
        lambda some: np.zeros((len(some), len(others)), np.bool_),
    )
    return _figures(search, True)


def _figures(search: "_Search", every_match: bool) -> dict[str, Any]:
    found = _ranks(search)
    shares = {f"recall_at_{k}": float((found <= k).mean()) for k in (1, 5, 10)}
    every = {"map": float(_precisions(search).mean())} if every_match else {}
    counts = {"queries": len(found), "texts": len(search.candidates)}
    return {**shares, "mrr": float((1 / found).mean()), **every, **counts}


def rank_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Returns Spearman's correlation; 0 if one of the two is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0


def nearest(vectors: Floats) -> npt.NDArray[np.int64]:
    """Returns the index of the most similar other vector by cosine: [n, D] -> int64 [n]."""
    known, found = unit(vectors), [np.zeros(0, np.int64)]
    for at in range(0, len(known), _BLOCK):
        near = known[at : at + _BLOCK] @ known.T
        near[np.arange(len(near)), np.arange(at, at + len(near))] = -np.inf  # itself
        found.append(near.argmax(-1))
    return np.concatenate(found)


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Scales vectors to length 1, so that their products are cosines: float32 [..., D]."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def cosines(vectors: Floats) -> npt.NDArray[np.float64]:
    """Returns the cosine similarity of the two texts of each example: float64 [n]."""
    first, second = unit(vectors[:, 0]).astype(np.float64), unit(vectors[:, 1]).astype(np.float64)
    return np.asarray((first * second).sum(-1))


@dataclass(frozen=True)
class _Search:
    """A retrieval task: queries, candidates and matches. Texts are positions (example, side) in `vectors`.

    Attributes:
        queries, candidates: int64 [q, 2], [c, 2].
        belongs: some examples -> the candidates that match each, bool [b, c]. Every query has at least one match.
        itself: some examples -> the candidates that are the same text, bool [b, c].
    """

    vectors: Floats
    queries: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]
    belongs: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
    itself: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.bool_]]]:
        """Yields blocks of queries: their examples int64 [b], cosines float32 [b, c] (-inf with itself), and matches,
        bool [b, c]."""
        known = unit(self.vectors)
        texts = known[tuple(self.candidates.T)]
        for at in range(0, len(self.queries), _BLOCK):
            places = self.queries[at : at + _BLOCK]
            belongs, itself = self.belongs(places[:, 0]), self.itself(places[:, 0])
            yield places[:, 0], np.where(itself & ~belongs, -np.inf, known[tuple(places.T)] @ texts.T), belongs


def _search(target: str, truth: npt.NDArray[Any], vectors: Floats) -> _Search:
    places = np.stack([np.arange(len(truth)), np.zeros(len(truth), np.int64)], 1)
    if target == "groups":  # each text searches for others with its label
        others = np.bincount(truth)[truth] > 1

        def same(some: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
            return np.equal.outer(some, np.arange(len(truth)))

        return _Search(
            vectors, places[others], places, lambda some: np.equal.outer(truth[some], truth) & ~same(some), same
        )
    from scipy.sparse import csr_array

    # Each pair's first text searches for its match among all other distinct texts.
    sides = truth.shape[1] - 1
    numbers, first, number = np.unique(truth[:, 1:], return_index=True, return_inverse=True)
    texts, of_pair = np.unique(truth[:, 0], return_inverse=True)
    positives = number.reshape(-1, sides)[:, 0]
    of_text = csr_array((np.ones(len(truth)), (of_pair, positives)), (len(texts), len(numbers)))
    return _Search(
        vectors,
        places,
        np.stack([first // sides, first % sides + 1], 1),
        lambda some: of_text[of_pair[some]].toarray() > 0,
        lambda some: np.equal.outer(truth[some, 0], numbers),
    )


@dataclass(frozen=True)
class Neighbours:
    """The nearest texts to an example's first text.

    Attributes:
        rank: as in `ranks`.
        nearest: positions (example, side) and cosines of the texts, and whether they match.
    """

    example: int
    rank: int
    nearest: list[tuple[tuple[int, int], float, bool]]


def ranks(target: str, truth: npt.NDArray[Any], vectors: Floats) -> npt.NDArray[np.int64]:
    """Returns the rank, from 1, of each query's nearest match, int64 [q]; ties count as the last."""
    return _ranks(_search(target, truth, vectors))


def _ranks(search: _Search) -> npt.NDArray[np.int64]:
    found = [np.zeros(0, np.int64)]
    for _, near, belongs in search.blocks():
        best = np.where(belongs, near, -np.inf).max(-1, keepdims=True)
        found.append(1 + ((near >= best) & ~belongs).sum(-1))
    return np.concatenate(found)


def _precisions(search: _Search) -> npt.NDArray[np.float64]:
    """Returns the average precision of each query, float64 [q]: the mean, over its matches, of the share of matches
    among the examples up to each."""
    found = [np.zeros(0)]
    for _, near, belongs in search.blocks():
        order = np.argsort(-near, axis=-1, kind="stable")
        hit = np.take_along_axis(belongs, order, axis=-1)
        shares = np.cumsum(hit, axis=-1) / np.arange(1, hit.shape[-1] + 1)
        found.append((shares * hit).sum(-1) / hit.sum(-1))
    return np.concatenate(found)


def neighbours(target: str, truth: npt.NDArray[Any], vectors: Floats, count: int) -> list[Neighbours]:
    """Returns the `count` nearest texts of each query, nearest first."""
    search, rank, found = _search(target, truth, vectors), ranks(target, truth, vectors), list[Neighbours]()
    for some, near, belongs in search.blocks():
        order = np.argsort(-near, axis=-1, kind="stable")[:, :count]
        for row, i in enumerate(some):
            places = search.candidates[order[row]]
            cosines_, belong = near[row, order[row]], belongs[row, order[row]]
            near_ones = [
                ((int(example), int(side)), float(cosine), bool(is_its))
                for (example, side), cosine, is_its in zip(places, cosines_, belong, strict=True)
                if np.isfinite(cosine)
            ]
            found.append(Neighbours(int(i), int(rank[len(found)]), near_ones))
    return found


# --- the rows of LEARNT --------------------------------------------------------------------------------------

_NEAREST = 3  # nearest texts in a report
_WORST = 12
_FIRST = 6  # printed numbers of a vector


def vectors_of(predictions: Predictions) -> Floats:
    """Returns the vectors, float32 [n, sides, D]."""
    return np.asarray(predictions["embeddings"])


def _flat(predictions: Predictions) -> Floats:
    found = vectors_of(predictions)
    return found.reshape(-1, found.shape[-1])


def _same_neighbour(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Bools:
    """Returns whether each vector has the same nearest other vector."""
    return np.asarray(nearest(ours) == nearest(theirs))


def _largest(expected: npt.NDArray[Any]) -> float:
    return float(np.abs(expected).max(initial=0))  # components are far below 1, so the tolerance scales with them


def _metrics(target: str, labels: Labels, truth: Truth, predictions: Predictions) -> dict[str, Any]:
    return similarity(target, truth, vectors_of(predictions))


def _among(truth: Truth, predictions: Predictions, others: Truth, theirs: Predictions) -> dict[str, Any]:
    return similarity_among(truth, vectors_of(predictions), others, vectors_of(theirs))


def _found_first(target: str, truth: Truth, predictions: Predictions) -> Doubles:
    """Returns whether each query's nearest text is a match, float64 [q, 1]."""
    return np.asarray(ranks(target, truth, vectors_of(predictions)) == 1, np.float64)[:, None]


def _cosine_and_score(truth: Truth, predictions: Predictions) -> Doubles:
    """Returns the cosine of each pair and its score, float64 [n, 2]."""
    return np.stack([cosines(vectors_of(predictions)), truth[:, 0].astype(np.float64)], 1)


def _correlation(per_example: Doubles) -> float:
    return rank_correlation(per_example[:, 0], per_example[:, 1])


_EXCERPT = 300  # characters
_NOTE = "Training compares an example with others in its batch, validation with all in the split."


@dataclass(frozen=True)
class Retrieved:
    """A test example and its nearest ones.

    Attributes:
        shown: the example's preview.
        rank: rank of the nearest match, from 1; None for two texts with a score.
        belongs: the match, the label, or the score.
        nearest: previews, their cosines, and whether they match.
    """

    id: str
    shown: Markup
    rank: int | None
    belongs: str
    nearest: list[tuple[Markup, float, bool]]


def _context(target: str, labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    """Returns the queries whose match ranks worst, and a few that rank best."""
    if test is None:
        return {"retrieved": []}
    ranked = sorted(neighbours(target, truth, vectors_of(predictions), _NEAREST), key=lambda one: -one.rank)
    chosen = [*ranked[:_WORST], *ranked[_WORST:][-_NEAREST:]]
    rows = [
        Retrieved(
            test.ids[one.example],
            _shown(test, one.example),
            one.rank,
            labels[truth[one.example]] if target == "groups" else str(_side(test, one.example, 1)[0])[:_EXCERPT],
            [(_shown(test, *place), cosine, belongs) for place, cosine, belongs in one.nearest],
        )
        for one in chosen
    ]
    return {"retrieved": rows}


def _misplaced(labels: Labels, truth: Truth, predictions: Predictions, test: Any) -> dict[str, Any]:
    """Returns the scored pairs that are furthest out of rank."""
    if test is None:
        return {"retrieved": []}
    near = cosines(vectors_of(predictions))
    place, wanted = (np.argsort(np.argsort(values, kind="stable")) for values in (near, truth[:, 0]))
    worst = [int(i) for i in np.argsort(-np.abs(place - wanted), kind="stable")[:_WORST]]
    rows = [
        Retrieved(
            test.ids[i], _shown(test, i), None, f"{truth[i, 0]:.4g}", [(_shown(test, i, 1), float(near[i]), True)]
        )
        for i in worst
    ]
    return {"retrieved": rows}


def _shown(test: Any, example: int, side: int = 0) -> Markup:
    """Returns the preview of an image, or of one text of an example."""
    found: Markup = test.modality.preview(_side(test, example, side), test.ids[example])
    return found


def _side(test: Any, example: int, side: int) -> Any:
    found = test.example(example)
    return found if test.modality.is_picture else found[side : side + 1]


def _answer(labels: Labels, predictions: Predictions, index: int, top: int) -> Answer:
    """Returns the beginning of a vector, and its length."""
    vector = _flat(predictions)[index]
    first = " ".join(f"{value:.4f}" for value in vector[:_FIRST])
    length = float((vector**2).sum()) ** 0.5
    return Answer((f"{len(vector)} numbers of length {length:.4f}: {first} …",), {"embedding": vector.tolist()})


def _said(labels: Labels, record: Mapping[str, Any]) -> str:
    return f"vectors of {record['dimensions']} numbers"


_COMPARISON = by_rows(_flat, agree=_same_neighbour, scale=_largest, alike="nearest")


def _retrieving(target: str) -> Learnt:
    return Learnt(
        name=target,
        metric=Metric("recall_at_1"),
        metrics=partial(_metrics, target),
        per_example=partial(_found_first, target),
        statistic=mean_of_first,
        comparison=_COMPARISON,
        shown=Shown(
            "vectors.html.j2",
            "Where it is wrong",
            partial(_context, target),
            no_mistakes,
            _answer,
            _said,
            ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", *(["map"] if target == "groups" else [])),
            _NOTE,
        ),
        labels=lambda labels: (),
        among=_among if target == "groups" else None,
    )


PAIRS, GROUPS = _retrieving("pairs"), _retrieving("groups")
SCORES = Learnt(
    name="scores",
    metric=Metric("spearman", share=False),
    metrics=partial(_metrics, "scores"),
    per_example=_cosine_and_score,
    statistic=_correlation,
    comparison=_COMPARISON,
    shown=Shown(
        "vectors.html.j2",
        "Where it is wrong",
        _misplaced,
        no_mistakes,
        _answer,
        _said,
        ("spearman", "pearson"),
        _NOTE,
    ),
    labels=lambda labels: (),
)

VECTORS = (PAIRS, GROUPS, SCORES)
"""Rows whose output is a vector."""
