"""Predicts new examples with a run (in Keras) or an artifact (in its own runtime)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastune import assets, files, run, tasks
from kerastune.data.ragged import Arrays
from kerastune.errors import KerastuneError
from kerastune.modalities import Example
from kerastune.modalities.contract import Asked
from kerastune.run import Run
from kerastune.targets import catalogue
from kerastune.targets.answers import decided
from kerastune.tasks.contract import Device
from kerastune.tasks.learnt import Learnt, Predictions
from kerastune.tasks.learnt.contract import Answer
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact


@dataclass(frozen=True)
class Prediction:
    """The model's output for one example.

    Attributes:
        input: the file's path or the text; the texts of a pair are joined by " | ".
        lines: the output in words.
        document: the same as JSON-ready values: "labels" with their "probability", and the "decision" at a
            threshold, if there is one; a "number", an "embedding", an "answer", or a "text", which may
            have "segments".
    """

    input: str
    lines: tuple[str, ...]
    document: Mapping[str, Any]


def predict(
    of: Run | Artifact | str | Path,
    examples: str | Path | Sequence[str | Path],
    top: int = 3,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    timestamps: bool = False,
    beams: int | None = None,
    draw: str | Path | None = None,
    mic: float | None = None,
) -> list[Prediction]:
    """Predicts image or sound files, read as in training, or texts, or answers prompts.

    Args:
        examples: paths of image or sound files; texts, two per example for a model of pairs; or prompts. A sound that
            is longer than the model's window becomes one example per window; a recording of speech stays one, whose
            windows overlap.
        top: number of labels, most probable first.
        max_tokens: maximum tokens of an answer; default: 64.
        temperature: 0, the default, takes the most likely token; above 0, tokens are sampled (1: from the model's
            distribution).
        seed: the sampling seed; default: 0.
        timestamps: also tell when each segment of speech is said.
        beams: drafts of a transcript to pursue at a time, 1 to 8; default: the model's.
        draw: a folder for PNG files of the images with the output drawn on them: boxes, classes, or heat maps.
        mic: seconds for which a microphone is heard; examples are () then.

    Raises:
        DataError: some examples cannot be read (names them all); a text is missing its partner in a pair; a prompt
            holds markers of the chat template, or is too long.
        KerastuneError: `of` is neither a run nor an artifact, or an option does not apply to its model; or a drawing
            cannot be written.
        ConverterError: the artifact's runtime failed.
    """
    of = opened(of)
    asked_for = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "beams": beams}
    options = _options(of, {**asked_for, "timestamps": timestamps or None})
    if draw is not None and learnt_by(of).shown.drawn is None:
        raise KerastuneError(
            f"{of.folder} gives nothing to draw.", "Boxes, classes of pixels and heat maps of images can be drawn."
        )
    asked = _asked(of, [examples] if isinstance(examples, str | Path) else examples, mic)
    found, answer = outputs(of, asked.examples, options), _answering(of, top)
    answers = [answer(found, i) for i in range(len(asked.names))]
    if draw is not None:
        _draw(of, Path(draw), asked, found)
    return [Prediction(name, one.lines, one.document) for name, one in zip(asked.names, answers, strict=True)]


def _asked(of: Run | Artifact, examples: Sequence[str | Path], mic: float | None) -> Asked:
    """Returns the examples, or what a microphone hears, in parts of the model's window where it hears no more."""
    device = device_of(of)
    modality, window = device.modality, device.window
    if mic is not None and examples:
        raise KerastuneError(f"Both mic = {mic:g} and examples are given.", "Give examples or mic, not both.")
    if mic is None:
        asked = modality.ask(examples, of.manifest.sides if isinstance(of, Artifact) else device.sides(of.recipe))
    elif modality.hear:
        asked = modality.hear(mic)
    else:
        raise KerastuneError(f"{of.folder} takes {modality.plural}, which no microphone hears.")
    if window and modality.parts:
        size = of.manifest.reading["samples"] if isinstance(of, Artifact) else window(of.recipe)
        return modality.parts(asked, size)
    return asked


def _draw(of: Run | Artifact, folder: Path, asked: Asked, found: Predictions) -> None:
    """Writes each image with its output drawn on it: NAME.png, or NAME-2.png for another of that name."""
    drawn, labels, known = learnt_by(of).shown.drawn, _labels(of), set[str]()
    assert drawn
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (name, example) in enumerate(zip(asked.names, asked.examples, strict=True)):
            stem = unique = Path(name).stem
            number = 1
            while unique in known:
                unique = f"{stem}-{(number := number + 1)}"
            known.add(unique)
            drawn(labels, found, i, example).save(folder / f"{unique}.png")
    except OSError as error:
        raise KerastuneError(f"Nothing can be drawn into {folder}: {error.strerror or error}.") from error


def _options(of: Run | Artifact, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's options: what is asked for, and defaults instead of None."""
    given, known = {name: value for name, value in asked.items() if value is not None}, device_of(of).options
    if foreign := [f"{name} is only for {' and '.join(tasks.with_option(name))}" for name in given.keys() - known]:
        raise KerastuneError(f"{'; '.join(sorted(foreign))}; but {of.folder} is for {_task(of)}.")
    return {**known, **given}


def outputs(of: Run | Artifact, examples: Sequence[Example], options: Mapping[str, Any]) -> Arrays:
    """Returns the outputs for examples by name, one row per example."""
    if isinstance(of, Artifact):
        of.check_files()
        given = {f"--{name.replace('_', '-')}": value for name, value in options.items() if value not in (None, False)}
        flags = [part for flag, value in given.items() for part in ([flag] if value is True else [flag, str(value)])]
        return runtimes.ask(of, of.manifest.runtime, examples, flags).outputs
    task = tasks.get(of.recipe.task)
    with assets.reading(str(of.folder)):
        model = task.building.load(str(of.folder), of.recipe, "float32")
    return task.answer(of.recipe, model, examples, options)


def learnt_by(of: Run | Artifact) -> Learnt:
    """Returns the kind of output of a run or an artifact."""
    return of.learnt if isinstance(of, Artifact) else device_of(of).learnt(of.recipe).in_colors(of.colors)


def device_of(of: Run | Artifact) -> Device[Any]:
    """Returns the task of a run or an artifact as a device sees it."""
    return tasks.device(_task(of))


def _task(of: Run | Artifact) -> str:
    return of.manifest.task if isinstance(of, Artifact) else of.recipe.task


def _answering(of: Run | Artifact, top: int) -> Callable[[Predictions, int], Answer]:
    """Returns what puts the outputs for an example into words: the artifact's catalogue, if it has one."""
    if not (isinstance(of, Artifact) and (of.folder / catalogue.FILE).is_file()):
        labels, answer, decision = _labels(of), learnt_by(of).shown.answer, _decision(of)

        def worded(found: Predictions, i: int) -> Answer:
            said = answer(labels, found, i, top)
            if decision is None:
                return said
            reached, line = decided({"scores": found["scores"][i]}, list(labels), decision)
            return Answer((*said.lines, line), {**said.document, "decision": {**decision, "reached": reached}})

        return worded
    threshold = of.manifest.extras["catalogue"]["threshold"]
    look = catalogue.looking(of.folder, threshold)

    def named(found: Predictions, i: int) -> Answer:
        known, nearest = look({"embeddings": found["embeddings"][i]}, top)
        products = [{"product": name, "cosine": cosine} for name, cosine in nearest]
        lines = catalogue.lines((known, nearest), threshold)
        return Answer(tuple(lines), {"known": known, "products": products})

    return named


def _decision(of: Run | Artifact) -> dict[str, Any] | None:
    """Returns the label that is decided for and its "threshold", or None."""
    if isinstance(of, Artifact):
        found = of.manifest.decision
        return {"label": found.label, "threshold": found.threshold} if found else None
    known = of.record.model.get("decision")
    return known and {key: known[key] for key in ("label", "threshold")}


def _labels(of: Run | Artifact) -> tuple[str, ...]:
    return of.manifest.labels if isinstance(of, Artifact) else of.labels


def opened(of: Run | Artifact | str | Path) -> Run | Artifact:
    """Opens a run or an artifact.

    Raises:
        KerastuneError: the folder holds neither.
    """
    if not isinstance(of, str | Path):
        return of
    folder = files.absolute(of)
    if artifact.is_artifact(folder):
        return artifact.load(folder)
    if run.is_run(folder) or run.is_unfinished(files.absolute(str(of).removesuffix(run.PARTIAL))):
        return run.load(folder)
    raise KerastuneError(
        f"{folder} is neither a run nor an artifact." if folder.exists() else f"There is no folder {folder}.",
        "kerastune run RECIPE makes a run folder; its artifacts are in RUN/exports/.",
    )
