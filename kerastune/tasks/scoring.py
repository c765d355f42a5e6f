"""What scores are worth, beside the truth. Knows no TensorFlow.

`target` is that of the recipe's data (`kerastune.recipe.Target`); `truth` is `kerastune.data.Split.labels`. Where texts
are embedded, `scores` are vectors, float32 [n, sides, D].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

Floats = npt.NDArray[np.float32]


def quality(target: str, truth: npt.NDArray[Any], scores: Floats) -> npt.NDArray[np.float64]:
    """How right each example is, float64 [n]; the mean is what `metric` measures.

    Of pairs and groups: whether what belongs to a text is the nearest to it, of the texts to which something belongs.
    """
    if target in ("pairs", "groups"):
        found = ranks(target, truth, scores) == 1
    elif target == "scores":
        raise ValueError("a rank correlation is not the mean of anything")
    elif target == "text":  # an example with more tokens counts more
        found = scores[:, 1].astype(np.float64) / max(float(scores[:, 2].mean(dtype=np.float64)), 1e-12)
    elif target == "number":
        error = (scores.astype(np.float64) - truth)[:, 0] ** 2
        found = 1 - error / max(float(np.var(truth.astype(np.float64))), 1e-12)
    else:
        found = scores.argmax(-1) == truth if target == "label" else ((scores > 0.5) == (truth > 0.5)).all(-1)
    return np.asarray(found, np.float64)


def metrics(target: str, labels: tuple[str, ...], truth: npt.NDArray[Any], scores: Floats) -> dict[str, Any]:
    """What a split's scores are worth.

    Returns:
        Of labels: accuracy, cross-entropy `loss`, macro F1 and per-class precision, recall, F1 and support; of one
        label the confusion matrix (rows: truth), of several micro F1. Of a number: `r2`, mean squared error `loss`,
        `mae` and Spearman's rank correlation. Of vectors as `similarity` says. Of texts, over all scored tokens:
        `token_accuracy`, cross-entropy `loss` in nats and `perplexity`, its exponential.
    """
    if target in SIMILARITY:
        return similarity(target, truth, scores)
    if target == "text":
        surprise, hits, tokens = (float(total) for total in scores.astype(np.float64).sum(0))
        loss = surprise / max(tokens, 1)
        return {
            "token_accuracy": hits / max(tokens, 1),
            "loss": loss,
            "perplexity": float(np.exp(min(loss, 700.0))),
            "tokens": int(tokens),
        }
    right = float(quality(target, truth, scores).mean())
    if target == "number":
        error = scores.astype(np.float64) - truth
        rank = float(spearmanr(scores[:, 0], truth[:, 0]).statistic) if np.ptp(scores) and np.ptp(truth) else 0.0
        return {
            "r2": right,
            "loss": float((error**2).mean()),
            "mae": float(np.abs(error).mean()),
            "spearman": rank,
        }
    if target == "labels":
        predicted, known = scores > 0.5, truth > 0.5
        p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        cross_entropy = -np.where(known, np.log(p), np.log(1 - p)).mean()
        more = {"micro_f1": float(f1_score(known, predicted, average="micro", zero_division=0.0))}
        found = precision_recall_fscore_support(known, predicted, average=None, zero_division=0.0)
    else:
        indices = list(range(len(labels)))
        predicted = scores.argmax(-1)
        picked = np.clip(scores[np.arange(len(truth)), truth], 1e-12, 1)
        cross_entropy = -np.log(picked).mean()
        more = {"confusion_matrix": confusion_matrix(truth, predicted, labels=indices).tolist()}
        found = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0.0)
    precision, recall, f1, support = found
    return {
        "accuracy": right,
        "loss": float(cross_entropy),
        "macro_f1": float(f1.mean()),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        **more,
    }


def comparable(target: str, scores: Floats) -> Floats:
    """Scores as two runtimes' are compared: of texts nats a token, float32 [n, 1]; else as they are."""
    return np.asarray(scores[:, :1] / np.maximum(scores[:, 2:], 1), np.float32) if target == "text" else scores


# --- vectors -----------------------------------------------------------------------------------------------

SIMILARITY = {"pairs": "recall_at_1", "groups": "recall_at_1", "scores": "spearman"}
"""What vectors are judged by, by target."""
_BLOCK = 256  # texts that are compared with all others at a time


def similarity(target: str, truth: npt.NDArray[Any], vectors: Floats) -> dict[str, Any]:
    """What a split's vectors are worth.

    Returns:
        Of scores: Spearman's rank correlation of cosine and score, and Pearson's. Else, over all texts to which
        something belongs (`queries`): the share that has it among the nearest 1, 5 and 10 of the split's `texts`, and
        the mean of 1 / its rank. Where several texts belong to one, the nearest counts (Musgrave et al. 2020,
        arXiv:2003.08505).
    """
    if target == "scores":
        near = cosines(vectors)
        vary = np.ptp(near) > 0 and np.ptp(truth) > 0
        return {
            "spearman": rank_correlation(near, truth[:, 0]),
            "pearson": float(np.corrcoef(near, truth[:, 0])[0, 1]) if vary else 0.0,
        }
    found = ranks(target, truth, vectors)
    shares = {f"recall_at_{k}": float((found <= k).mean()) for k in (1, 5, 10)}
    texts = len(_search(target, truth, vectors).candidates)
    return {**shares, "mrr": float((1 / found).mean()), "queries": len(found), "texts": texts}


def rank_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Spearman's; 0 where one of the two does not vary."""
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0


def together(target: str) -> int:
    """How many examples of one label it takes to judge any of them."""
    return 2 if target == "groups" else 1


def nearest(vectors: Floats) -> npt.NDArray[np.int64]:
    """Which other one is most like each vector, by cosine: [n, D] -> int64 [n]."""
    known, found = unit(vectors), [np.zeros(0, np.int64)]
    for at in range(0, len(known), _BLOCK):
        near = known[at : at + _BLOCK] @ known.T
        near[np.arange(len(near)), np.arange(at, at + len(near))] = -np.inf  # itself
        found.append(near.argmax(-1))
    return np.concatenate(found)


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Vectors of length 1, so that their products are cosines: float32 [..., D]."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def cosines(vectors: Floats) -> npt.NDArray[np.float64]:
    """How alike the two texts of each example are: float64 [n]."""
    first, second = unit(vectors[:, 0]).astype(np.float64), unit(vectors[:, 1]).astype(np.float64)
    return np.asarray((first * second).sum(-1))


@dataclass(frozen=True)
class _Search:
    """Who looks for what among which texts; texts are places (example, side) of `vectors`.

    Attributes:
        queries, candidates: int64 [q, 2], [c, 2].
        belongs: of some examples, which candidates belong to each, bool [b, c]. To a query, at least one does.
        itself: of some examples, which candidates are the very text, bool [b, c].
    """

    vectors: Floats
    queries: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]
    belongs: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
    itself: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.bool_]]]:
        """Queries, a block at a time: their examples int64 [b], cosines float32 [b, c] (-inf with itself), and who
        belongs to them, bool [b, c]."""
        known = unit(self.vectors)
        texts = known[tuple(self.candidates.T)]
        for at in range(0, len(self.queries), _BLOCK):
            places = self.queries[at : at + _BLOCK]
            belongs, itself = self.belongs(places[:, 0]), self.itself(places[:, 0])
            yield places[:, 0], np.where(itself & ~belongs, -np.inf, known[tuple(places.T)] @ texts.T), belongs


def _search(target: str, truth: npt.NDArray[Any], vectors: Floats) -> _Search:
    places = np.stack([np.arange(len(truth)), np.zeros(len(truth), np.int64)], 1)
    if target == "groups":  # each text looks for the others of its label
        others = np.bincount(truth)[truth] > 1

        def same(some: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
            return np.equal.outer(some, np.arange(len(truth)))

        return _Search(
            vectors, places[others], places, lambda some: np.equal.outer(truth[some], truth) & ~same(some), same
        )
    # Each pair's first text looks for what belongs to it among all distinct others.
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
    """What is found with an example's first text.

    Attributes:
        rank: as in `ranks`.
        nearest: the texts' places (example, side), cosines, and whether they belong to it.
    """

    example: int
    rank: int
    nearest: list[tuple[tuple[int, int], float, bool]]


def ranks(target: str, truth: npt.NDArray[Any], vectors: Floats) -> npt.NDArray[np.int64]:
    """The place, from 1, of the nearest text that belongs to each query, int64 [q]; of equally near ones the last."""
    found = [np.zeros(0, np.int64)]
    for _, near, belongs in _search(target, truth, vectors).blocks():
        best = np.where(belongs, near, -np.inf).max(-1, keepdims=True)
        found.append(1 + ((near >= best) & ~belongs).sum(-1))
    return np.concatenate(found)


def neighbours(target: str, truth: npt.NDArray[Any], vectors: Floats, count: int) -> list[Neighbours]:
    """The `count` nearest texts of each query, the nearest first."""
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
