"""Replays an artifact in the runtimes it is for, without Keras, and compares with what Keras said.

Of an embedder each text is an example, and what is compared are vectors.

Two proofs: the golden images inside the artifact, and the run's validation split, scored image by image. Both run
in the readers of export/, in child processes that import neither kerastune nor Keras.
"""

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from scipy.stats import binomtest, bootstrap, ttest_rel

from kerastune import environment, files, run
from kerastune.data import Split, spread
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.formats import FORMATS
from kerastune.progress import Progress
from kerastune.run import Run
from kerastune.targets import chats
from kerastune.tasks import scoring
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact, Example, Image, Scores
from kerastune.verifying.runtimes import RUNTIMES, SUBSET, Answer

FLOAT_TOLERANCE = 1e-4
"""Largest difference of a probability between float32 artifacts and Keras."""

OTHER_KERNELS = {
    "none": FLOAT_TOLERANCE,
    "float16": 2e-3,
    "int16x8": 2e-3,
    "dynamic": 16 / 256,
    "int4": 16 / 256,
    "int8": 16 / 256,
}
"""Largest difference of a probability between two runtimes of one file: rounding, by quantisation. For int8 that is
sixteen output steps (between LiteRT's XNNPACK and reference kernels six were measured on photos, with
EfficientNet-Lite0, and eleven on tinted ones, with a tiny EfficientNet)."""

LARGEST_LOSS = 0.3
LEAST_AGREEMENT = 0.9
"""However it is quantised, an artifact may get at most the first share wrong of what Keras's probabilities differ by
between the golden examples, in squares (a model that says the same about all of them: 1), or must give the second
share of Keras's labels. One alone does not tell: int8 may squash probabilities and keep labels, or flip some."""

# Keras answers to red and blue alike, if their probabilities differ by less than this.
_LEAST_COLOUR = 0.05

# A reference that hardly varies agrees with anything.
_LEAST_SPREAD = 10 * FLOAT_TOLERANCE


def verify(
    of: Artifact | str | Path,
    run_folder: str | Path | None = None,
    *,
    in_runtimes: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Checks an artifact's files, replays its golden images, and scores the run's validation split.

    Args:
        of: an artifact or its folder.
        run_folder: the run it was exported from. Default: the folder above exports/, where it was made.
        in_runtimes: names in `kerastune.verifying.runtimes.RUNTIMES`. Default: all that are installed and can run it.

    Returns:
        The report, also written to report.json: `passed`, `problems`, `golden`, `validation` (None where the
        run is not there), `latency_ms`, `size_bytes`, of the first runtime; `runtimes` has the same of each.

    Raises:
        VerificationError: a file has changed, or the artifact does not compute what was trained.
        DataError: the run's data cannot be read or have changed.
        ConverterError: the runtime crashed.
        KerastuneError: a runtime that was asked for is not installed, or cannot run this artifact.
    """
    progress = progress or Progress()
    of = of if isinstance(of, Artifact) else artifact.load(of)
    source = _source_run(of, run_folder)
    report, _ = replay(of, source, progress, runtimes.choose(of.manifest, in_runtimes), asked=bool(in_runtimes))
    before = of.report or {}
    report |= {"ladder": before.get("ladder", []), "converter_peak_mb": before.get("converter_peak_mb")}
    files.write_json(of.folder / artifact.REPORT, report)
    refuse_failed(of, report)
    return report


def _source_run(of: Artifact, run_folder: str | Path | None) -> Run | None:
    if run_folder is not None:
        source = run.load(run_folder)
    elif run.is_run(of.folder.parents[1]):
        source = run.load(of.folder.parents[1])
    else:
        return None
    if source.record["recipe_sha256"] != of.manifest["recipe_sha256"]:
        raise KerastuneError(f"{of.folder} was not exported from {source.folder}.", "Name its own run: --run RUN.")
    return source


def refuse_failed(of: Artifact, report: dict[str, Any]) -> None:
    """Raises VerificationError with the report's problems, if there are any."""
    if not report["passed"]:
        raise VerificationError(
            f"{of.manifest['name']} does not compute what was trained: {'; '.join(report['problems'])}.",
            "A quantised artifact may lose more than you allow: raise max_accuracy_drop, or use quantize = "
            '"dynamic" or "none".'
            if of.manifest["quantize"] != "none" or any("max_" in problem for problem in report["problems"])
            else "Please report this with the recipe: a float32 artifact must agree with Keras.",
        )


def replay(
    of: Artifact, source: Run | None, progress: Progress, names: Sequence[str], asked: bool = False
) -> tuple[dict[str, Any], Scores]:
    """The report on one artifact, and what its first runtime says about the golden images.

    Args:
        source: the run that it was made from; without it, the golden images alone are replayed.
        names: the runtimes. If the first cannot run the file, that is an error; if another cannot, or is
            not exact on this processor, it is reported, unless they were `asked` for.
    """
    of.check_files()
    images, expected = of.golden()
    varied = scoring.comparable(of.target_kind, expected)
    if not (spread := float(np.ptp(varied, axis=0).max())) >= _LEAST_SPREAD:  # NaN is refused too
        raise VerificationError(
            f"The golden outputs hardly vary (by {spread:.2g}), so they would agree with any model.",
            f"Train longer, or look at the data: the model says the same about every {of.unit}.",
        )
    try:
        problems, takes = FORMATS[of.manifest["format"]].converter.inspect(of.folder / of.manifest["model"])
    except Exception as error:  # each format's parser has its own
        raise VerificationError(f"{of.manifest['model']} is no {of.manifest['format']} model: {error}.") from error
    promised = [one["name"] for one in of.manifest["inputs"]]
    if sorted(takes) != sorted(promised):
        problems.append(f"it takes {', '.join(takes)} instead of {', '.join(promised)}")
    is_labelled = of.manifest.get("target_kind") not in scoring.SIMILARITY
    if source and of.labels != (source.labels if is_labelled else ()):
        problems.append(f"its labels are not those of {source.folder.name}, or in another order")
    reports: dict[str, dict[str, Any]] = {}
    golden: dict[str, Scores] = {}
    for name in names:
        is_judged = asked or name == names[0]
        try:
            reports[name], golden[name] = _in_runtime(of, name, images, expected, source, progress)
        except ConverterError as error:
            if is_judged:
                raise
            reports[name] = {"passed": None, "problems": [error.message]}
            continue
        if reports[name]["problems"] and (why := runtimes.inexact(name, of.manifest["quantize"])):
            reports[name]["problems"].append(why)
            if not is_judged:  # reported, and not held against the file
                reports[name]["passed"] = None
                continue
        problems += [f"{name}: {problem}" for problem in reports[name]["problems"]]
    problems += _unlike(golden)
    first, allowed = reports[names[0]], of.manifest["tolerance"]["accuracy_drop"]
    # Judged in the first runtime; the others must say nearly the same, whatever that does to a few labels.
    if first["validation"] and allowed is not None and not (drop := first["validation"]["accuracy_drop"]) <= allowed:
        metric = of.manifest["metric"].replace("_", " ")
        problems.append(f"it loses {drop:.4f} of validation {metric}, and max_accuracy_drop is {allowed:g}")
    report = {
        **first,
        "passed": not problems,
        "problems": problems,
        "size_bytes": of.size_bytes,
        "runtime": names[0],
        "runtimes": reports,
        "machine": environment.machine(),
    }
    return report, golden[names[0]]


def _unlike(golden: dict[str, Scores]) -> list[str]:
    """Where two runtimes with the same kernels differ."""
    pairs = {name: RUNTIMES[name].kernels_of for name in golden if RUNTIMES[name].kernels_of in golden}
    apart = {name: _max_error("label", golden[name], golden[other]) for name, other in pairs.items()}
    return [f"{n} differs by {e:.3g} from {pairs[n]}, whose kernels it has" for n, e in apart.items() if not e <= 1e-6]


def _in_runtime(
    of: Artifact, name: str, images: list[Example], expected: Scores, source: Run | None, progress: Progress
) -> tuple[dict[str, Any], Scores]:
    tolerance, own = of.manifest["tolerance"], of.own_scores()
    unit, target = of.unit, of.target_kind
    parts = [_Part(f"golden {unit}s", images, expected, tolerance["golden_error"])]
    batch = _same_size(images)
    if of.manifest["inputs"][0]["shape"][0] is None and len(batch) > 1:
        stacked = [np.stack([images[i] for i in batch])]
        part = _Part(f"a batch of golden {unit}s", stacked, expected[batch], tolerance["golden_error"], False)
        parts.append(part)
    if RUNTIMES[name].encoded and unit == "image":
        encoded = [_png(image) for image in images]
        parts.append(_Part("golden images as PNG files", encoded, expected, tolerance["golden_error"]))
    if source:
        unseen = source.splits(progress).validation
        chosen = spread(unseen, SUBSET) if RUNTIMES[name].slow else list(range(len(unseen)))
        (said_before,) = source.predicted("validation", [unseen.digests[i] for i in chosen]).values()
        keras_scores = np.asarray(said_before)
        asked, said_by_keras, place = _examples(unseen, unit, chosen), keras_scores, np.arange(len(chosen))
        if target in scoring.SIMILARITY:
            asked, said_by_keras, place = _texts(unseen, chosen, keras_scores)
        stage = f"verifying {of.manifest['name']} in {name}"
        arrays = _counted(asked, len(said_by_keras), stage, progress)
        parts.append(_Part(f"validation {unit}s", arrays, said_by_keras, tolerance["validation_error"]))
    said = runtimes.ask(of, name, chain.from_iterable(part.arrays for part in parts))
    found = np.split(said.scores, np.cumsum([len(part.expected) for part in parts])[:-1])
    problems = [problem for part, its in zip(parts, found, strict=True) for problem in _compare(target, part, its)]
    problems += _unlike_keras(unit, target, images, found[0], expected)
    rounding = OTHER_KERNELS[of.manifest["quantize"]] * tolerance.get("scale", 1.0)
    if own is not None and not (apart := _max_error(target, found[0], own)) <= rounding:
        problems.append(f"golden {unit}s: {apart:.3g} from what {of.manifest['runtime']} said when it was exported")
    validation = None
    if source:
        truth, allowed = unseen.labels[chosen], tolerance["accuracy_drop"] or 0.0
        validation = paired(target, found[-1][place], keras_scores, truth, allowed)
    generation = None
    if "chat" in of.manifest:
        generation, latency = _generation(of, name)
        if of.manifest["quantize"] == "none" and generation["equal"] < generation["prompts"]:
            problems.append(f"{generation['prompts'] - generation['equal']} golden answers are not Keras's")
    else:
        latency = _latency(said, len(found[-1]) if source else len(images))
    return {
        "passed": not problems,
        "problems": problems,
        "version": RUNTIMES[name].version,
        "golden": {"examples": len(images), **_agreement(target, found[0], expected)},
        "validation": validation,
        "generation": generation,
        "latency_ms": latency,
        "load_ms": said.load_ms,
        "peak_mb": said.peak_mb,
    }, found[0]


def _generation(of: Artifact, name: str) -> tuple[dict[str, Any], dict[str, float]]:
    """How many of the golden answers are Keras's, token for token; and milliseconds a token, reading included."""
    examples, _ = of.golden()
    answers, margins = of.golden_answers()
    said = runtimes.ask(of, name, (turns[:-1] for turns in examples))
    equal = int(chats.same_answers(said.scores, answers, margins).sum())
    spoken = (said.scores >= 0).sum(-1)
    latency = runtimes.latency_ms(said.seconds / np.maximum(spoken, 1))
    return {"prompts": len(answers), "equal": equal, "tokens": int(spoken.sum())}, latency


def _examples(split: Split, unit: str, chosen: list[int]) -> Iterator[Example]:
    for i in chosen:
        yield split.example(i)


def _texts(split: Split, chosen: list[int], vectors: Scores) -> tuple[Iterator[Example], Scores, npt.NDArray[Any]]:
    """The distinct texts of examples whose sides have `vectors`, float32 [n, sides, D]; the vector of each; and which
    of the texts each side is, int64 [n, sides]."""
    number: dict[str, int] = {}
    place = np.array([[number.setdefault(text, len(number)) for text in split.example(i).tolist()] for i in chosen])
    _, first = np.unique(place, return_index=True)
    return (np.array([text]) for text in number), vectors.reshape(-1, vectors.shape[-1])[first], place


def _counted(examples: Iterable[Example], total: int, stage: str, progress: Progress) -> Iterator[Example]:
    for n, example in enumerate(examples, start=1):
        progress.advance(stage, n, total)
        yield example


# --- comparing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Arrays to score, and what Keras said about them."""

    what: str
    arrays: Iterable[npt.NDArray[Any]]
    expected: Scores
    tolerance: float | None
    is_varied: bool = True  # a batch of same-sized images may hold one label alone


def _compare(target: str, part: _Part, found: Scores) -> list[str]:
    what, expected, tolerance = part.what, part.expected, part.tolerance
    if found.shape != expected.shape:
        return [f"{what}: {found.shape} scores instead of {expected.shape}"]
    if bad := int((~np.isfinite(found)).any(axis=-1).sum()):
        return [f"{what}: NaN or infinite scores on {bad} of {len(found)}"]
    problems = []
    if tolerance is not None and not (error := _max_error(target, found, expected)) <= tolerance:
        problems.append(f"{what}: largest error {error:.3g}, and {tolerance:.3g} is allowed")
    if part.is_varied and float(np.ptp(scoring.comparable(target, found), axis=0).max()) < _LEAST_SPREAD:
        problems.append(f"{what}: the artifact says the same about all of them")
    return problems


def _max_error(target: str, found: Scores, expected: Scores) -> float:
    found, expected = scoring.comparable(target, found), scoring.comparable(target, expected)
    return float(np.abs(found.astype(np.float64) - expected).max())


def _unlike_keras(unit: str, target: str, examples: list[Example], found: Scores, expected: Scores) -> list[str]:
    """What is wrong with scores on the golden examples whose errors have no limit, because the model is quantised."""
    if found.shape != expected.shape:
        return []
    found, expected = scoring.comparable(target, found), scoring.comparable(target, expected)
    lost, problems = _loss(found, expected), []
    agree = _alike(target, found, expected).mean() if expected.shape[1] > 1 else 0.0
    if not lost <= LARGEST_LOSS and agree < LEAST_AGREEMENT:
        what = "nearest texts" if target in scoring.SIMILARITY else "labels"
        problems.append(
            f"golden {unit}s: {lost:.0%} of what tells them apart is lost and {1 - agree:.0%} of the {what} differ, "
            f"and {LARGEST_LOSS:.0%} and {1 - LEAST_AGREEMENT:.0%} are allowed"
        )
    if unit == "image" and _swaps_colours(examples, found, expected):
        problems.append("golden images: it takes red for blue")
    return problems


def _loss(found: Scores, expected: Scores) -> float:
    """The share of the variance between examples that is not explained; 1 - R^2."""
    varies = np.square(expected - expected.mean(axis=0, dtype=np.float64)).sum()
    return float(np.square(found.astype(np.float64) - expected).sum() / varies)


def _swaps_colours(images: list[Image], found: Scores, expected: Scores) -> bool:
    """Whether it answers to an image in red as Keras does to the same image in blue."""
    red = [i for i in range(len(images) - 1) if _mirrored(images[i], images[i + 1])]
    theirs = expected[red] - expected[[i + 1 for i in red]]  # [pairs, K]
    ours = found[red] - found[[i + 1 for i in red]]
    return bool(np.abs(theirs).max(initial=0) >= _LEAST_COLOUR and (ours * theirs).sum() < 0)


def _mirrored(one: Image, other: Image) -> bool:
    return np.array_equal(one, other[..., ::-1]) and not np.array_equal(one, other)


def _alike(target: str, found: Scores, expected: Scores) -> npt.NDArray[np.bool_]:
    """Of each example, whether both give it the same label; of vectors, whether the same other text is the nearest."""
    if target in scoring.SIMILARITY:
        flat = (vectors.reshape(-1, vectors.shape[-1]) for vectors in (found, expected))
        ours, theirs = map(scoring.nearest, flat)
        return np.asarray(ours == theirs)
    return np.asarray(found.argmax(-1) == expected.argmax(-1))


def _agreement(target: str, found: Scores, expected: Scores) -> dict[str, float | None]:
    error = _max_error(target, found, expected)
    found, expected = scoring.comparable(target, found), scoring.comparable(target, expected)
    return {
        "max_error": error if math.isfinite(error) else None,
        "label_agreement": float(_alike(target, found, expected).mean()),
    }


def paired(target: str, found: Scores, expected: Scores, truth: npt.NDArray[Any], allowed: float) -> dict[str, Any]:
    """What it is worth beside Keras on the same examples, with a 95 % interval of the difference, and a verdict.

    Where an example is right or wrong: the adjusted Wald interval for paired proportions of Bonett & Price 2012 (J.
    Educ. Behav. Stat. 37, 479-488), which stays honest where the two hardly ever differ, and the p value of McNemar's
    exact test. Of numbers: the interval and the p value of the paired t test. Of a rank correlation, which is no mean:
    those of a bootstrap over the pairs of texts.

    Args:
        target: as in `kerastune.tasks.scoring`.
        allowed: the drop of the metric that counts as none.

    Returns:
        `accuracy` is the mean of `scoring.quality`, or the rank correlation; `examples` are those that have a quality.
        `verdict` is "same" where the whole interval is at or below `allowed`, "worse" where it is above it, else "not
        enough data".
    """
    agreement = _agreement(target, found, expected)
    if target == "scores":
        return {"examples": len(truth), **_correlated(truth[:, 0], found, expected, allowed), **agreement}
    ours, theirs = scoring.quality(target, truth, found), scoring.quality(target, truth, expected)
    n, drop = len(ours), theirs - ours
    if target in ("number", "text"):
        half = float(1.959964 * drop.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        middle = float(drop.mean())
        # Where all differ by the same, there is nothing to divide by.
        p_value = float(ttest_rel(theirs, ours).pvalue) if np.ptp(drop) > 1e-9 else float(not drop.any())
    else:
        lost, won = int((drop > 0).sum()), int((drop < 0).sum())
        p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
        middle = p_lost - p_won
        half = 1.959964 * math.sqrt((p_lost + p_won - middle**2) / (n + 2))
        p_value = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    low, high = max(middle - half, -1.0), min(middle + half, 1.0)
    identical = not drop.any() and (target in ("number", "text") or agreement["label_agreement"] == 1)
    return {
        "examples": n,
        "accuracy": float(ours.mean()),
        "keras_accuracy": float(theirs.mean()),
        "accuracy_drop": float(drop.mean()),
        "accuracy_drop_interval": [low, high],
        "p_value": p_value,
        "verdict": "same" if identical else _verdict(low, high, allowed),
        **agreement,
        **_perplexities(target, found, expected, truth),
    }


def _verdict(low: float, high: float, allowed: float) -> str:
    return "same" if high <= allowed else "worse" if low > allowed else "not enough data"


def _correlated(truth: npt.NDArray[Any], found: Scores, expected: Scores, allowed: float) -> dict[str, Any]:
    """What `paired` says of a rank correlation, which is no mean of anything."""

    def drop(ours: npt.NDArray[Any], theirs: npt.NDArray[Any], known: npt.NDArray[Any]) -> float:
        return scoring.rank_correlation(theirs, known) - scoring.rank_correlation(ours, known)

    near = scoring.cosines(found), scoring.cosines(expected)
    drawn = bootstrap((*near, truth), drop, paired=True, vectorized=False, n_resamples=999, method="percentile", rng=0)
    low, high = map(float, drawn.confidence_interval)
    worse = float((drawn.bootstrap_distribution >= 0).mean()), float((drawn.bootstrap_distribution <= 0).mean())
    ours, theirs = (scoring.rank_correlation(one, truth) for one in near)
    return {
        "accuracy": ours,
        "keras_accuracy": theirs,
        "accuracy_drop": theirs - ours,
        "accuracy_drop_interval": [low, high],
        "p_value": min(2 * min(worse), 1.0),
        "verdict": _verdict(low, high, allowed),
    }


def _perplexities(target: str, found: Scores, expected: Scores, truth: npt.NDArray[Any]) -> dict[str, float]:
    if target != "text":
        return {}
    named = {"perplexity": found, "keras_perplexity": expected}
    return {name: scoring.metrics(target, (), truth, scores)["perplexity"] for name, scores in named.items()}


def _latency(said: Answer, count: int) -> dict[str, float]:
    """Of the last `count` arrays, single images; the first is a warm-up, too."""
    return runtimes.latency_ms(said.seconds[-count:][1:] if count > 1 else said.seconds[-count:])


def _same_size(images: list[Example]) -> list[int]:
    """Indices of the largest group of examples that fit in one batch."""
    size, _ = Counter(image.shape for image in images).most_common(1)[0]
    return [i for i, image in enumerate(images) if image.shape == size]


def _png(image: Image) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "png")
    return np.frombuffer(buffer.getvalue(), np.uint8)
