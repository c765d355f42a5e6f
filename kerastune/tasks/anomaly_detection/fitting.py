"""Computes the detector from good pictures in one pass.

Most of the training ones give statistics, the rest of them the scale of each score, and validation's the threshold.

Memory is bounded: of the places in all pictures a sample of fixed size is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.stats import ks_2samp
from sklearn.covariance import LedoitWolf

from kerastune.data import Order, Split, Splits, picked
from kerastune.errors import DataError
from kerastune.progress import Progress
from kerastune.records import Decision
from kerastune.tasks.anomaly_detection import evening, synthetic
from kerastune.tasks.anomaly_detection.conformal import Conformal, conformal, fewest_for
from kerastune.tasks.anomaly_detection.model import TILE, AnomalyDetector
from kerastune.tasks.anomaly_detection.settings import SCORES, AnomalyDetection
from kerastune.tasks.image_classification import feeding
from kerastune.tasks.learnt.defects import auroc

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

FEWEST = 20
"""Good pictures for training and, at the least, half of that for the threshold."""

_AT_ONCE = TILE**2  # pixels of a batch: memory does not grow with the size of pictures
_SCALED = 4  # every fourth training picture sets the scales
_PLACES = 20_000  # of all pictures, for the coreset
_TRIED = 64  # held-out good pictures that synthetic defects are put on
_BETTER = 0.02  # mean AUROC that the memory bank must gain: it costs time on a device
_ALIKE = 0.01  # p-value below which two sets of good pictures score unlike each other


def rate_of(recipe: AnomalyDetection, held_out: int) -> float:
    """Returns the false-alarm rate: the asked one, or by default 0.01 or the least that can be kept."""
    asked = recipe.detector.false_alarm_rate
    return max(0.01, 1 / (held_out + 1)) if asked == "auto" else asked


def good(split: Split) -> list[int]:
    """Returns the good pictures of a split, in an order that only their content decides."""
    return sorted(map(int, np.flatnonzero(split.labels["kind"] == 0)), key=lambda i: split.digests[i])


def require_enough(recipe: AnomalyDetection, splits: Splits) -> None:
    """Checks that there are enough good pictures for what is asked.

    Raises:
        DataError: there are too few, with what to do.
    """
    train, held, tested = (len(good(split)) for split in (splits.train, splits.validation, splits.test))
    asked, least = recipe.detector.false_alarm_rate, FEWEST // 2
    if train < FEWEST:
        raise DataError(f"{train} good pictures to train on are too few.", f"At least {FEWEST} are needed.")
    if asked != "auto" and held < fewest_for(asked):
        raise DataError(
            f"detector.false_alarm_rate = {asked:g} takes {fewest_for(asked):,} held-out good pictures, but validation "
            f"holds {held:,}.",
            f"Add good pictures, raise data.validation_fraction, or ask for {1 / (held + 1):.2g} or more.",
        )
    if held < least or not tested:
        where = "validation" if held < least else "test"
        raise DataError(
            f"{held if held < least else tested} good pictures in {where} are too few to "
            f"{'set a threshold' if held < least else 'measure false alarms'}.",
            f"Add good pictures, or raise data.{where}_fraction.",
        )


def fit(recipe: AnomalyDetection, model: AnomalyDetector, splits: Splits, progress: Progress) -> list[Decision]:
    """Computes the statistics, the scales and the threshold, and writes them into the model."""
    asked, train = recipe.detector, good(splits.train)
    scaled = [i for n, i in enumerate(train) if n % _SCALED == _SCALED - 1]
    learnt = [i for n, i in enumerate(train) if n % _SCALED != _SCALED - 1]
    seen = _seen(recipe, model, splits.train, learnt, progress)
    decisions = list[Decision]()
    model.calibration.threshold.assign(1.0)
    scores_of = _raw(model)
    if "patches" in asked.scores:
        decisions.append(_choose(recipe, model, seen, splits.train, scaled, progress))
    _set_gaussian(model.whole, seen.statistics)
    evening.fit(model, _pixels(recipe, model, splits.train, scaled, "evening the border", progress))
    held = _scored(recipe, model, scores_of, splits.train, scaled, "scaling", progress)
    median = np.median(held, axis=0)
    # The mean excess over the median: the scale of an exponential tail, steadier than a high quantile.
    excess = 2 * np.maximum(held - median, 0).mean(axis=0)
    model.calibration.median.assign(median)
    model.calibration.scale.assign(np.maximum(excess, 1e-6 * np.maximum(np.abs(median), 1)))
    calibrating = good(splits.validation)
    found = _scored(recipe, model, scores_of, splits.validation, calibrating, "setting the threshold", progress)
    combined, before = (_combined(recipe, model, raw) for raw in (found, held))
    made = conformal(combined, rate_of(recipe, len(calibrating)))
    threshold = max(made.threshold, 1e-3)
    model.calibration.threshold.assign(threshold)
    decisions += [_rate_decision(recipe, made, len(calibrating)), _alike(before, combined, progress)]
    decisions.append(_power(recipe, model, scores_of, splits.validation, calibrating[:_TRIED], threshold, progress))
    return decisions


def vary(model: AnomalyDetector, inputs: Any) -> None:
    """Fits an untrained model to a batch, so that its outputs vary; the larger of the two distances is used."""
    cells, _, statistics = (part.numpy() for part in model.features(tf.convert_to_tensor(inputs)))
    places, random = cells.reshape(-1, cells.shape[-1]), np.random.default_rng(0)
    _set_scale(model, places)
    white = (places - places.mean(0)) @ model.local.matrix.numpy()
    model.bank.points.assign(white[random.integers(len(white), size=model.bank_size)] + 0.1)
    _set_gaussian(model.whole, statistics)
    raw = _raw(model)(tf.convert_to_tensor(inputs)).numpy()
    model.calibration.median.assign(np.median(raw, axis=0))
    model.calibration.scale.assign(np.maximum(raw.std(axis=0), 1e-3))


# --- statistics ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """What one pass over the learnt pictures leaves.

    Attributes:
        mean, covariance: of the features of all places, float64 [D] and [D, D].
        places: a sample of them, float32 [n, D].
        statistics: of each picture, float32 [n, S].
    """

    mean: Doubles
    covariance: Doubles
    places: Floats
    statistics: Floats


def _seen(
    recipe: AnomalyDetection, model: AnomalyDetector, split: Split, learnt: Sequence[int], progress: Progress
) -> _Seen:
    features = tf.function(model.features, input_signature=[model.takes], autograph=False)
    random, kept = np.random.default_rng(recipe.seed), max(_PLACES // len(learnt), 1)
    total, sums, products, places, statistics = 0, 0.0, 0.0, list[Floats](), list[Floats]()
    for x in _pixels(recipe, model, split, learnt, "learning", progress):
        cells, _, whole = (part.numpy() for part in features(x))
        for one in cells.reshape(len(cells), -1, cells.shape[-1]):
            places.append(one[random.integers(len(one), size=kept)])
            doubles = one.astype(np.float64)
            total, sums, products = total + len(one), sums + doubles.sum(0), products + doubles.T @ doubles
        statistics.append(whole)
    mean = np.asarray(sums) / total
    return _Seen(
        mean, np.asarray(products) / total - np.outer(mean, mean), np.concatenate(places), np.concatenate(statistics)
    )


def _set_gaussian(layer: Any, rows: Floats) -> None:
    """Sets a layer to the Mahalanobis distance from rows, shrunk as Ledoit & Wolf 2004 do: they may be few."""
    deviation = _deviation(rows.var(axis=0, dtype=np.float64))
    found = LedoitWolf().fit(rows / deviation)
    layer.mean.assign(found.location_ * deviation)
    layer.matrix.assign(_root(found.covariance_) / deviation[:, None])


def _deviation(variance: Doubles) -> Doubles:
    """Returns standard deviations, none far below the usual: a channel that good pictures hardly use proves nothing."""
    found = np.sqrt(np.maximum(variance, 0))
    return np.asarray(np.maximum(found, max(0.01 * float(np.median(found)), 1e-6)))


def _root(covariance: Doubles) -> Doubles:
    """Returns the matrix that whitens: its product with its transpose is the inverse of the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-6 * values.max())))


def _set_places(model: AnomalyDetector, seen: _Seen) -> None:
    """Sets the places' distance to that from one Gaussian."""
    deviation = _deviation(np.diag(seen.covariance))
    scaled = seen.covariance / np.outer(deviation, deviation)
    model.local.mean.assign(seen.mean)
    model.local.matrix.assign(_root(scaled + 1e-3 * np.eye(len(scaled))) / deviation[:, None])
    model.bank.points.assign(np.zeros(model.bank.points.shape))


def _set_scale(model: AnomalyDetector, places: Floats) -> None:
    """Sets the places' matrix to the scale of each channel."""
    model.local.mean.assign(places.mean(axis=0))
    model.local.matrix.assign(np.diag(1 / _deviation(places.var(axis=0, dtype=np.float64))))


def _set_bank(model: AnomalyDetector, seen: _Seen, seed: int) -> None:
    """Sets the places' distance to that from a coreset of them."""
    _set_scale(model, seen.places)
    white = (seen.places - model.local.mean.numpy()) @ model.local.matrix.numpy()
    model.bank.points.assign(white[coreset(white, model.bank_size, seed)])


def coreset(points: Floats, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns the indices of points that cover all: each next one is the farthest from those before (Sener & Savarese
    2018, arXiv:1708.00489). Repeats some if there are too few."""
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    squares = (points**2).sum(1)
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        last = points[chosen[-1]]
        nearest = np.minimum(nearest, squares - 2 * points @ last + last @ last)
        chosen.append(int(nearest.argmax()))
    return np.array(chosen, np.int64)


# --- decisions -----------------------------------------------------------------------------------------------


def _choose(
    recipe: AnomalyDetection,
    model: AnomalyDetector,
    seen: _Seen,
    split: Split,
    held: Sequence[int],
    progress: Progress,
) -> Decision:
    """Sets the distance of places: the asked one, or the one that finds more synthetic defects."""
    asked, setters = recipe.detector.patches, _setters(recipe, model, seen)
    if asked != "auto":
        setters[asked]()
        return Decision("detector.patches", asked, asked, "as asked")
    found = {}
    for name, set_ in setters.items():
        set_()
        raw, normal = _raw(model), list[Floats]()
        defective: dict[str, list[Floats]] = {kind: [] for kind in synthetic.LOCAL}
        tried = held[:_TRIED]
        for n, x in enumerate(_pixels(recipe, model, split, tried, f"trying patches by {name}", progress)):
            normal.append(raw(x).numpy())
            for kind, several in defective.items():
                several.append(raw(tf.constant(synthetic.defects(x.numpy(), kind, n))).numpy())
        right = np.concatenate(normal)[:, 0].astype(np.float64)
        areas = [auroc(right, np.concatenate(several)[:, 0].astype(np.float64)) for several in defective.values()]
        found[name] = float(np.mean(areas))
    got = "memory_bank" if found["memory_bank"] > found["gaussian"] + _BETTER else "gaussian"
    setters[got]()
    figures = ", ".join(f"{name} {area:.3f}" for name, area in found.items())
    why = f"mean AUROC of this score alone on synthetic defects of held-out good pictures: {figures}"
    return Decision("detector.patches", "auto", got, why)


def _setters(recipe: AnomalyDetection, model: AnomalyDetector, seen: _Seen) -> dict[str, Callable[[], None]]:
    return {
        "gaussian": lambda: _set_places(model, seen),
        "memory_bank": lambda: _set_bank(model, seen, recipe.seed),
    }


def _rate_decision(recipe: AnomalyDetection, made: Conformal, held: int) -> Decision:
    asked = recipe.detector.false_alarm_rate
    low, high = made.interval
    why = (
        f"the threshold is above {made.rank} of {held} held-out good scores: split conformal prediction keeps this "
        f"rate on average over such draws; for this one, 95 % interval {low:.2%} to {high:.2%}"
    )
    if asked == "auto" and held < fewest_for(0.01):
        why += f". 0.01 takes {fewest_for(0.01)} held-out good pictures"
    return Decision("detector.false_alarm_rate", str(asked), f"{made.rate:.4g}", why)


def _alike(before: Doubles, after: Doubles, progress: Progress) -> Decision:
    """Tests whether validation's good pictures score as training's held-out ones do."""
    p = float(ks_2samp(before, after).pvalue)
    got = "alike" if p >= _ALIKE else "unlike"
    why = f"Kolmogorov-Smirnov test of {len(before)} held-out training and {len(after)} validation scores: p = {p:.2g}"
    if got == "unlike":
        progress.say(
            f"Warning: good validation pictures score unlike good training pictures (p = {p:.2g}): they were taken "
            "otherwise, or are another product. The false-alarm rate holds for pictures like validation's only."
        )
    return Decision("data.validation", "like train", got, why)


def _power(
    recipe: AnomalyDetection,
    model: AnomalyDetector,
    raw: Any,
    split: Split,
    tried: Sequence[int],
    threshold: float,
    progress: Progress,
) -> Decision:
    """Measures what the detector finds of synthetic defects on held-out good pictures."""
    found: dict[str, list[Doubles]] = {kind: [] for kind in synthetic.KINDS}
    for n, x in enumerate(_pixels(recipe, model, split, tried, "measuring power", progress)):
        for kind, several in found.items():
            changed = tf.constant(synthetic.defects(x.numpy(), kind, n))
            several.append(_combined(recipe, model, raw(changed).numpy()))
    shares = {kind: float((np.concatenate(several) > 1).mean()) for kind, several in found.items()}
    figures = ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
    why = f"by kind, on {len(tried)} held-out good pictures: {figures}. Real defects may differ"
    return Decision("synthetic defects", "share found", f"{np.mean(list(shares.values())):.2f}", why)


# --- pictures ------------------------------------------------------------------------------------------------


def order(model: AnomalyDetector, split: Split, batch_size: int, *rest: Any) -> Order:
    """Returns batches of pictures, smaller ones than asked for where pictures are large: no result depends on it."""
    height, width = model.image_size
    return feeding.order(model, split, max(min(batch_size, _AT_ONCE // (height * width)), 1), *rest)


def _raw(model: AnomalyDetector) -> Any:
    """Returns the function from pixels, float32 [B, H, W, 3], to uncalibrated scores of pictures, float32 [B, 3]."""

    def raw(x: Any) -> Any:
        patches, residuals, image = model.raw(x)
        return tf.stack([tf.reduce_max(patches, (1, 2)), tf.reduce_max(residuals, (1, 2)), image], axis=-1)

    return tf.function(raw, input_signature=[model.takes], autograph=False)


def _scored(
    recipe: AnomalyDetection,
    model: AnomalyDetector,
    raw: Any,
    split: Split,
    chosen: Sequence[int],
    stage: str,
    progress: Progress,
) -> Doubles:
    found = [raw(x).numpy() for x in _pixels(recipe, model, split, chosen, stage, progress)]
    return np.concatenate(found).astype(np.float64)


def _combined(recipe: AnomalyDetection, model: AnomalyDetector, raw: npt.NDArray[Any]) -> Doubles:
    """Returns the largest calibrated score, in shares of the threshold that is set."""
    calibration = model.calibration
    scaled = (raw - calibration.median.numpy()) / (calibration.scale.numpy() * calibration.threshold.numpy())
    used = [i for i, name in enumerate(SCORES) if name in recipe.detector.scores]
    return np.asarray(scaled[:, used].max(axis=1), np.float64)


def _pixels(
    recipe: AnomalyDetection,
    model: AnomalyDetector,
    split: Split,
    chosen: Sequence[int],
    stage: str,
    progress: Progress,
) -> Iterator[Any]:
    """Yields batches of pictures as the model takes them, float32 [B, H, W, 3]."""
    some = picked(split, chosen)
    done = 0
    for x, _ in feeding.batches(model, some, order(model, some, recipe.train.batch_size)):
        yield x
        done += len(x)
        progress.advance(f"fitting: {stage}", done, len(chosen))
