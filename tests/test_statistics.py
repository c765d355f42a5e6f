"""How an artifact compares with Keras on the same examples: one path for every metric, one rule for verdicts."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kerastune.errors import VerificationError
from kerastune.tasks.learnt import LEARNT, Learnt
from kerastune.tasks.learnt.contract import Metric
from kerastune.tasks.learnt.statistics import Paired, beside_guess, paired

Floats = npt.NDArray[np.float32]


def judged(learnt: Learnt, truth: Any, ours: Any, theirs: Any, allowed: float, output: str = "scores") -> Paired:
    found = paired(learnt, truth, {output: ours}, {output: theirs}, allowed)
    assert found and found.interval is not None
    assert found.interval[0] <= found.drop <= found.interval[1]
    return found


def of_labels(n: int, lost: int, won: int = 0) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Truth, the artifact's scores and Keras's on n examples of two labels."""
    truth = np.arange(n) % 2
    right, wrong = np.eye(2, dtype=np.float32)[truth], np.eye(2, dtype=np.float32)[1 - truth]
    place = np.arange(n)[:, None]
    return truth, np.where(place < lost, wrong, right), np.where((place >= lost) & (place < lost + won), wrong, right)


@pytest.mark.parametrize(
    ("n", "lost", "won", "allowed", "verdict"),
    [
        (41, 1, 0, 0.02, "too few to tell"),  # one image of forty-one proves neither a loss nor its absence
        (41, 0, 0, 0.0, "same"),
        (41, 1, 1, 0.02, "too few to tell"),
        (1000, 100, 0, 0.01, "worse"),
        (1000, 100, 0, 0.15, "same"),
        (1000, 0, 100, 0.0, "same"),
        (6, 1, 0, 0.01, "too few to tell"),
    ],
)
def test_a_verdict_knows_how_much_the_split_can_tell(n: int, lost: int, won: int, allowed: float, verdict: str) -> None:
    found = judged(LEARNT["label"], *of_labels(n, lost, won), allowed)
    assert found.verdict == verdict
    assert (found.lost, found.won, found.drop) == (lost, won, pytest.approx((lost - won) / n))


def test_the_interval_of_right_and_wrong_is_that_of_bonett_and_price() -> None:
    """5/32 - 2/32, plus and minus 1.96 times the root of (5/32 + 2/32 - (3/32)²) / 32."""
    found = judged(LEARNT["label"], *of_labels(30, 4, 1), 0.02)
    assert found.interval == pytest.approx((-0.0650, 0.2525), abs=1e-4)
    assert found.p_value == pytest.approx(0.375)  # McNemar: 2 * (1 + 5) / 2**5


def test_an_error_rate_is_worse_where_it_is_higher() -> None:
    """Edits and words of each example, as of a transcript."""
    rate = replace(
        LEARNT["text"],
        metric=Metric("word_error_rate", higher_is_better=False),
        per_example=lambda truth, found: np.asarray(found["edits"], np.float64),
        comparison=replace(LEARNT["text"].comparison, agree=lambda ours, theirs: np.zeros(1, np.bool_)),
    )
    random = np.random.default_rng(0)
    words, edits = random.integers(5, 20, 300), random.integers(0, 3, 300)
    theirs, ours = (np.stack([edits + more, words], 1) for more in (0, 1))
    found = judged(rate, np.zeros(300), ours, theirs, 0.02, "edits")
    assert found.verdict == "worse" and found.drop == pytest.approx(300 / words.sum())
    assert judged(rate, np.zeros(300), theirs, ours, 0.0, "edits").verdict == "same"


@pytest.mark.parametrize("n", [8, 30])
def test_intervals_of_few_numbers_hold_the_difference_as_often_as_they_say(n: int) -> None:
    """The true difference of token accuracies is 0; an interval must miss it in hardly more than 5 % of draws."""
    random, missed = np.random.default_rng(0), 0
    for _ in range(200):
        tokens = np.full((n, 1), 100.0)
        sums = [np.concatenate([tokens, random.normal(50, 5, (n, 1)), tokens], 1).astype(np.float32) for _ in "ab"]
        low, high = judged(LEARNT["text"], None, *sums, 0.0, "sums").interval or (0, 0)
        missed += not low <= 0 <= high
    assert missed <= 200 * 0.05 + 2.6 * (200 * 0.05 * 0.95) ** 0.5


def test_a_number_that_lost_more_than_all_its_variance_is_worse() -> None:
    """R² falls by 60, which no share could."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(200, 1)).astype(np.float32)
    theirs = truth + random.normal(scale=0.1, size=truth.shape).astype(np.float32)
    found = judged(LEARNT["number"], truth, theirs + 7.8, theirs, 1.0)
    assert found.verdict == "worse" and found.drop > 50
    assert judged(LEARNT["number"], truth, theirs + 1e-6, theirs, 0.001).verdict == "same"


def test_one_example_tells_nothing_unless_all_is_equal() -> None:
    sums = np.array([[10, 5, 8]], np.float32)
    found = paired(LEARNT["text"], np.zeros(1), {"sums": sums - [[0, 1, 0]]}, {"sums": sums}, 0.02)
    assert found and found.verdict == "too few to tell" and found.interval is None
    same = paired(LEARNT["text"], np.zeros(1), {"sums": sums}, {"sums": sums}, 0.02)
    assert same and same.verdict == "same"


def test_nothing_to_judge_is_no_comparison() -> None:
    """Texts of groups, each alone with its label: nothing belongs to any of them."""
    vectors = {"embeddings": np.ones((3, 1, 4), np.float32)}
    assert paired(LEARNT["groups"], np.arange(3), vectors, vectors, 0.0) is None


def test_a_metric_that_is_no_number_is_refused() -> None:
    truth = np.ones((5, 1), np.float32)
    with pytest.raises(VerificationError, match="The r2 is not a number: nan"):
        paired(LEARNT["number"], truth, {"scores": truth * np.nan}, {"scores": truth}, 0.02)


# --- the baseline --------------------------------------------------------------------------------------------


def test_a_model_that_says_what_a_guess_would_say_does_not_beat_it() -> None:
    """Of 60 texts 39 are of the commoner label; a model that is right about 31 is worse than always saying it."""
    truth = np.arange(60) % 20 >= 13
    known = np.array([0] * 65 + [1] * 35)
    wrong = np.arange(60) < 29
    said = np.eye(2, dtype=np.float32)[(truth ^ wrong).astype(int)]
    found = beside_guess(LEARNT["label"], ("good", "bad"), known, truth.astype(int), {"scores": said})
    assert found == {"answer": "always good", "accuracy": pytest.approx(0.65), "beaten": False}


@pytest.mark.parametrize(
    ("learnt", "known", "truth", "right", "answer"),
    [
        ("label", [1, 1, 0], [0, 1] * 20, np.eye(2)[[0, 1] * 20], "always bad"),
        ("labels", [[1, 0], [1, 0], [1, 1]], [[1, 0], [0, 1]] * 20, [[1, 0], [0, 1]] * 20, "always good"),
        ("number", [[1], [5]], [[float(i)] for i in range(40)], [[i + 0.1] for i in range(40)], "always 3, the mean"),
    ],
)
def test_a_good_model_beats_the_commonest_answer_of_training(
    learnt: str, known: Any, truth: Any, right: Any, answer: str
) -> None:
    said = {"scores": np.array(right, np.float32)}
    found = beside_guess(LEARNT[learnt], ("good", "bad"), np.array(known), np.array(truth), said)
    assert found is not None and (found["answer"], found["beaten"]) == (answer, True)


def test_where_nothing_can_be_guessed_there_is_no_baseline() -> None:
    assert beside_guess(LEARNT["text"], (), np.zeros(3), np.zeros(3), {"sums": np.zeros((3, 2))}) is None


def test_where_the_guess_is_always_right_there_is_no_baseline_to_beat() -> None:
    truth = np.array([0, 0, 0])
    said = {"scores": np.eye(2, dtype=np.float32)[truth]}
    assert beside_guess(LEARNT["label"], ("good", "bad"), truth, truth, said) is None
    assert beside_guess(LEARNT["label"], ("good", "bad"), truth, np.array([0, 0, 1]), said)
