"""Replays an artifact in its runtimes, without Keras, and compares the outputs with Keras's.

There are two proofs: the golden examples inside the artifact, and the run's validation split. Both run in the readers
of export/, in child processes that import neither kerastune nor Keras.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from kerastune import environment, run, tasks
from kerastune.data import Split, ragged, spread
from kerastune.data.ragged import Arrays
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.formats import FORMATS
from kerastune.modalities import Example
from kerastune.progress import Progress, shown_by_default
from kerastune.run import Run
from kerastune.targets import artifact as reader
from kerastune.targets import chats
from kerastune.tasks.learnt import Learnt
from kerastune.tasks.learnt.statistics import Paired, paired
from kerastune.verifying import artifact, comparing, decisions, runtimes, verification
from kerastune.verifying.artifact import Artifact
from kerastune.verifying.comparing import OTHER_KERNELS, Part
from kerastune.verifying.runtimes import RUNTIMES, SUBSET
from kerastune.verifying.verification import (
    Beside,
    Generation,
    Latency,
    RuntimeReport,
    Validation,
    VerificationReport,
)

_SAME_KERNELS = 1e-6  # relative to the scale
_LIMITS = ("max_accuracy_drop", "max_size_mb", "max_latency_ms")


@shown_by_default
def verify(
    of: Artifact | str | Path,
    run_folder: str | Path | None = None,
    *,
    in_runtimes: Sequence[str] = (),
    progress: Progress | None = None,
) -> VerificationReport:
    """Checks an artifact's files, and replays its golden examples and the run's validation split.

    Args:
        of: an artifact or its folder.
        run_folder: the run it was exported from. Default: the folder above exports/.
        in_runtimes: names in `kerastune.verifying.runtimes.RUNTIMES`. Default: all installed ones that can run it.

    Returns:
        The report, also written to report.json if the folder can be written; its `validation` is None if the run is
        missing.

    Raises:
        VerificationError: a file is damaged or has changed, or the artifact does not compute what was trained.
        DataError: the run's data cannot be read or have changed.
        ConverterError: the runtime crashed.
        KerastuneError: a requested runtime is not installed or cannot run this artifact.
    """
    progress = progress or Progress()
    of = of if isinstance(of, Artifact) else artifact.load(of)
    source = _source_run(of, run_folder)
    report, _ = replay(of, source, progress, runtimes.choose(of.manifest, in_runtimes), asked=bool(in_runtimes))
    if before := _report_before(of):
        report = replace(report, ladder=before.ladder, converter_peak_mb=before.converter_peak_mb)
    try:
        verification.write(report, of.folder / artifact.REPORT)
    except OSError as error:  # a read-only mount
        progress.say(f"{artifact.REPORT} is not written into {of.folder}: {error.strerror}")
    refuse_failed(of, report)
    return report


def _source_run(of: Artifact, run_folder: str | Path | None) -> Run | None:
    where = of.run if run_folder is None else run_folder
    if where is None:
        return None
    source = run.load(where)
    if source.record.recipe_sha256 != of.manifest.recipe_sha256:
        raise KerastuneError(f"{of.folder} was not exported from {source.folder}.", "Name its own run: --run RUN.")
    return source


def _report_before(of: Artifact) -> VerificationReport | None:
    try:
        return of.report
    except VerificationError:
        return None  # it is rewritten


def refuse_failed(of: Artifact, report: VerificationReport) -> None:
    """Raises VerificationError with the report's problems, if there are any."""
    if report.passed:
        return
    if raised := limits_to_raise(report.problems):
        hint = f"Raise {raised}, or find the smallest file within the limits: --quantize auto."
    elif of.manifest.quantize != "none":
        hint = "No limit allows other answers than Keras's. --quantize auto finds the smallest file that has none."
    else:
        hint = "Please report this with the recipe: a float32 artifact must agree with Keras."
    raise VerificationError(
        f"{of.manifest.name} does not compute what was trained: {'; '.join(report.problems)}.", hint
    )


def limits_to_raise(problems: Sequence[str]) -> str:
    """Returns the options that would allow all these problems; empty if a limit does not help with one of them."""
    limits = [name for name in _LIMITS if any(name in problem for problem in problems)]
    if not all(any(name in problem for name in limits) for problem in problems):
        return ""
    return " and ".join(f"--{name.replace('_', '-')}" for name in limits)


def replay(
    of: Artifact, source: Run | None, progress: Progress, names: Sequence[str], asked: bool = False
) -> tuple[VerificationReport, Arrays]:
    """Returns the report on one artifact, and the outputs of its first runtime for the golden examples.

    Args:
        source: the run it was made from; without it, only the golden examples are replayed.
        names: the runtimes. It is an error if the first cannot run the file. If another cannot, or is inexact on this
            processor, the report says so, unless they were `asked` for.
    """
    of.check_files()
    manifest, learnt, golden = of.manifest, of.learnt, of.golden
    try:
        by = comparing.hardly_varies(learnt, golden.expected, manifest.tolerance.scale)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            f"{of.folder / artifact.GOLDEN} is damaged: its outputs {', '.join(golden.expected)} are not those of a "
            f"model that learnt {learnt.name}.",
            "Export it again: kerastune export RUN --target NAME.",
        ) from error
    if by is not None:
        raise VerificationError(
            f"The golden outputs hardly vary (by {by:.2g}), so they would agree with any model.",
            f"Train longer, or check the data: the model gives the same output for every {of.modality.name}.",
        )
    problems = _unfit(of, source)
    reports: dict[str, RuntimeReport] = {}
    found: dict[str, Arrays] = {}
    for name in names:
        is_judged = asked or name == names[0]
        try:
            with progress.working(f"verifying {manifest.name} in {name}"):
                reports[name], found[name] = _in_runtime(of, name, source, progress)
        except ConverterError as error:
            if is_judged:
                raise
            reports[name] = RuntimeReport(passed=None, problems=(error.message,))
            continue
        if reports[name].problems and (why := runtimes.inexact(name, manifest.quantize)):
            told = (*reports[name].problems, why)
            # Reported, but not held against the file unless requested.
            reports[name] = replace(reports[name], problems=told, passed=reports[name].passed if is_judged else None)
            if not is_judged:
                continue
        problems += [f"{name}: {problem}" for problem in reports[name].problems]
    problems += _unlike(learnt, found, manifest.tolerance.scale)
    worse, warnings = _judged(of, reports[names[0]].validation)
    problems += worse
    report = VerificationReport(
        passed=not problems,
        problems=tuple(problems),
        warnings=tuple(warnings),
        size_bytes=of.size_bytes,
        runtime=names[0],
        runtimes=reports,
        machine=environment.machine(),
    )
    return report, found[names[0]]


def _unfit(of: Artifact, source: Run | None) -> list[str]:
    """Returns what is wrong with the file itself: operators, inputs, labels."""
    manifest = of.manifest
    try:
        problems, takes = FORMATS[manifest.format].converter.inspect(of.folder / manifest.model)
    except Exception as error:  # each format's parser has its own
        raise VerificationError(f"{manifest.model} is not a {manifest.format} model: {error}.") from error
    promised = [one.name for one in manifest.inputs]
    if sorted(takes) != sorted(promised):
        problems.append(f"it takes {', '.join(takes)} instead of {', '.join(promised)}")
    if source and manifest.labels != of.learnt.labels(source.labels):
        problems.append(f"its labels differ from those of {source.folder.name}, or are in another order")
    return problems


def _unlike(learnt: Learnt, found: dict[str, Arrays], scale: float) -> list[str]:
    """Returns where two runtimes with the same kernels differ; integer outputs may be rounded to the next step."""
    told = []
    for name, ours in found.items():
        if (theirs := found.get(other := RUNTIMES[name].kernels_of)) is None:
            continue
        allowed = max(_SAME_KERNELS * scale, 1.01 * comparing.step(theirs))
        if not (error := comparing.largest_error(learnt, ours, theirs)) <= allowed:
            told.append(f"{name} differs by {error:.3g} from {other}, although it has the same kernels")
    return told


# --- one runtime -------------------------------------------------------------------------------------------


def _in_runtime(of: Artifact, name: str, source: Run | None, progress: Progress) -> tuple[RuntimeReport, Arrays]:
    manifest, learnt, golden = of.manifest, of.learnt, of.golden
    unseen = source.splits(progress).validation if source else None
    chosen = _chosen(unseen, name) if unseen else []
    parts = [*_golden_parts(of, name), *([_validation_part(of, source, chosen, progress)] if source else [])]
    proven = sum(part.answers for part in parts[: -1 if source else None])
    details = ["--details", str(proven)] if any(one.role in reader.MINOR for one in manifest.outputs) else []
    said = runtimes.ask(of, name, chain.from_iterable(part.arrays for part in parts), details)
    ends = np.cumsum([0, *(part.answers for part in parts)])
    found = [
        part.placed(ragged.take(said.outputs, slice(start, end)))
        for part, (start, end) in zip(parts, pairwise(ends), strict=True)
    ]
    scale = manifest.tolerance.scale
    problems = [
        problem
        for part, its in zip(parts, found, strict=True)
        for problem in comparing.problems(learnt, part, its, scale)
    ]
    agreement = comparing.agreement(learnt, found[0], golden.expected)
    validation = None
    if agreement.max_error is not None:
        problems += comparing.unlike_keras(learnt, parts[0].what, golden.examples, found[0], golden.expected, scale)
        problems += _unlike_itself(of, found[0])
    if unseen and comparing.agreement(learnt, found[-1], parts[-1].expected).max_error is not None:
        validation = _validation(of, unseen, chosen, found[-1], parts[-1].expected)
    generation, latency = None, runtimes.latency_ms(said.seconds[1 : len(golden.examples)])  # the first warms up
    if golden.answers:
        generation, latency = _generation(of, name)
        if manifest.quantize == "none" and generation.equal < generation.prompts:
            problems.append(f"{generation.prompts - generation.equal} golden answers differ from Keras's")
    report = RuntimeReport(
        passed=not problems,
        problems=tuple(problems),
        version=RUNTIMES[name].version,
        golden=agreement,
        validation=validation,
        generation=generation,
        latency_ms=latency,
        load_ms=said.load_ms,
        peak_mb=said.peak_mb,
    )
    return report, found[0]


def _golden_parts(of: Artifact, name: str) -> Iterator[Part]:
    """Yields the golden examples one by one, and in a batch and as files if the model takes these."""
    golden, plural, error = of.golden, of.modality.plural, of.manifest.tolerance.golden_error
    yield Part(f"golden {plural}", golden.examples, golden.expected, tolerance=error)
    batch = _batch(of)
    if len(batch) > 1:
        stacked = [np.stack([golden.examples[i] for i in batch])]
        expected = ragged.take(golden.expected, batch)
        # Examples of one size may have the same label.
        yield Part(f"a batch of golden {plural}", stacked, expected, tolerance=error, is_varied=False)
    if RUNTIMES[name].encoded and (encode := of.modality.encode):
        encoded = (np.frombuffer(encode(example), np.uint8) for example in golden.examples)
        yield Part(f"golden {plural} as files", encoded, golden.expected, tolerance=error)


def _batch(of: Artifact) -> list[int]:
    """Returns the indices of the largest group of golden examples that fit in a batch; none if it takes no batches."""
    examples = of.golden.examples if of.manifest.inputs[0].shape[0] is None else []
    sizes = Counter(example.shape for example in examples).most_common(1)
    return [i for i, example in enumerate(examples) if example.shape == sizes[0][0]]


def _chosen(unseen: Split, name: str) -> list[int]:
    return spread(unseen, SUBSET) if RUNTIMES[name].slow else list(range(len(unseen)))


def _validation_part(of: Artifact, source: Run, chosen: list[int], progress: Progress) -> Part:
    unseen = source.splits(progress).validation
    asked = tasks.device(source.recipe.task).questions(source.recipe, unseen, chosen)
    part = Part(
        f"validation {of.modality.plural}",
        (),
        source.predicted("validation", [unseen.digests[i] for i in chosen]),
        place=asked.place,
        tolerance=of.manifest.tolerance.validation_error,
    )
    counted = _counted(asked.examples, part.answers, f"asking {of.manifest.name}", progress)
    batch = [of.golden.examples[i] for i in _batch(of)]
    return replace(part, arrays=_batches(counted, sum(one.nbytes for one in batch)) if len(batch) > 1 else counted)


def _batches(examples: Iterable[Example], most: int) -> Iterator[Example]:
    """Yields consecutive examples of one size as batches: calls can take longer than computing.

    Args:
        most: the largest number of bytes; that of the golden batch, so that no more memory is taken than for it.
    """
    waiting: list[Example] = []
    for example in examples:
        if waiting and (example.shape != waiting[0].shape or (len(waiting) + 1) * example.nbytes > most):
            yield np.stack(waiting)
            waiting = []
        waiting.append(example)
    if waiting:
        yield np.stack(waiting)


def _counted(examples: Iterable[Example], total: int, stage: str, progress: Progress) -> Iterator[Example]:
    for n, example in enumerate(examples, start=1):
        progress.advance(stage, n, total)
        yield example


def _unlike_itself(of: Artifact, found: Arrays) -> list[str]:
    """Returns where a quantised artifact's outputs differ from those at export."""
    tolerance, own = of.manifest.tolerance, of.golden.found
    if own is None:
        return []
    apart = comparing.largest_error(of.learnt, found, own)
    if apart <= OTHER_KERNELS[of.manifest.quantize] * tolerance.scale:
        return []
    return [f"golden {of.modality.plural}: outputs differ by {apart:.3g} from those of {of.manifest.runtime} at export"]


# --- the validation split ----------------------------------------------------------------------------------


def _validation(of: Artifact, unseen: Split, chosen: list[int], found: Arrays, expected: Arrays) -> Validation:
    learnt, truth = of.learnt, unseen.labels[chosen]
    metric = paired(learnt, truth, found, expected, of.manifest.tolerance.accuracy_drop or 0.0)
    ours, theirs = (
        {} if metric is None else learnt.metrics(of.manifest.labels, truth, one) for one in (found, expected)
    )
    beside = {name: Beside(ours[name], theirs[name]) for name in learnt.shown.beside if name in ours}
    if (decision := of.manifest.decision) and metric is not None:
        beside |= decisions.rates_at(decision, of.manifest.labels, truth, found, expected)
    return Validation(comparing.agreement(learnt, found, expected), metric, beside)


def _judged(of: Artifact, validation: Validation | None) -> tuple[list[str], list[str]]:
    """Returns what is wrong with the metric in the judging runtime, and what the split is too small to tell.

    Other runtimes must give nearly the same outputs, even if a few labels change.
    """
    allowed = of.manifest.tolerance.accuracy_drop
    if validation is None or validation.metric is None or allowed is None:
        return [], []
    found, words = validation.metric, of.learnt.metric.words
    if lost := decisions.lost(of.manifest.decision, validation, allowed):
        return lost, []
    if found.verdict == "worse":
        return [f"it loses {found.drop:.4f} of validation {words}, but max_accuracy_drop is {allowed:g}"], []
    if found.verdict == "too few to tell":
        interval = "{:.4f} to {:.4f}".format(*found.interval) if found.interval else "unknown"
        return [], [
            f"{_counts(of, found)}: too few to tell whether it loses more of validation {words} than max_accuracy_drop "
            f"= {allowed:g} (here {found.drop:.4f}, 95 % interval {interval})"
        ]
    return [], []


def _counts(of: Artifact, found: Paired) -> str:
    """Returns the number of lost examples, in words."""
    plural = of.modality.plural
    if found.lost is None or found.won is None:
        return f"{found.examples} {plural}"
    won = f" ({found.won} won)" if found.won else ""
    return f"{found.lost} of {found.examples} {plural} lost{won}"


# --- answers -----------------------------------------------------------------------------------------------


def _generation(of: Artifact, name: str) -> tuple[Generation, Latency]:
    """Counts the golden answers that equal Keras's token for token, and times a token, including reading."""
    examples, answers = of.golden.examples, of.golden.answers
    assert answers
    said = runtimes.ask(of, name, map(of.modality.question, examples))
    tokens = np.asarray(said.outputs["tokens"])
    equal = int(chats.same_answers(tokens, answers.tokens, answers.margins).sum())
    spoken = (tokens >= 0).sum(-1)
    latency = runtimes.latency_ms(said.seconds / np.maximum(spoken, 1))
    return Generation(len(examples), equal, int(spoken.sum())), latency
