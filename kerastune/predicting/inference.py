"""What a model says about new examples, from a run (in Keras) or from an artifact (in its own runtime)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastune import files, run, tasks
from kerastune.data.ragged import Arrays
from kerastune.errors import KerastuneError
from kerastune.modalities import Example
from kerastune.run import Run
from kerastune.tasks.contract import Device
from kerastune.tasks.learnt import Learnt
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact


@dataclass(frozen=True)
class Prediction:
    """What the model says about one example.

    Attributes:
        input: the file's path, or the text; the texts of a pair stand with " | " between them.
        lines: the output in words.
        document: the same as values, JSON-ready: "labels" with their "probability", a "number", an "embedding", an
            "answer".
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
) -> list[Prediction]:
    """What a model says about image files, read as in training, about texts, or in answer to prompts.

    Args:
        examples: paths of image files; texts, of a model of pairs two in a row; or prompts.
        top: how many labels, the most probable first.
        max_tokens: where an answer is cut off that does not end; default: 64.
        temperature: 0, the default, takes the likeliest token each time; above, tokens are drawn (1: as likely as the
            model says).
        seed: of the draws; default: 0.

    Raises:
        DataError: examples that cannot be read, all of them at once; a text without the other of its pair; a prompt
            that holds marks of the chat template, or is too long.
        KerastuneError: `of` is neither a run nor an artifact, or its model generates no tokens that could be counted.
        ConverterError: the artifact's runtime failed.
    """
    of = opened(of)
    settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    given = {name: value for name, value in settings.items() if value is not None}
    options = {**options_of(of), **given}
    if foreign := sorted(set(given) - set(options_of(of))):
        raise KerastuneError(f"{' and '.join(foreign)}: for language models, and {of.folder} holds none.")
    sides = of.manifest.sides if isinstance(of, Artifact) else _device(of).sides(of.recipe)
    asked = _device(of).modality.ask([examples] if isinstance(examples, str | Path) else examples, sides)
    found, labels = outputs(of, asked.examples, options), _labels(of)
    answers = [learnt_by(of).shown.answer(labels, found, i, top) for i in range(len(asked.names))]
    return [Prediction(name, one.lines, one.document) for name, one in zip(asked.names, answers, strict=True)]


def options_of(of: Run | Artifact) -> Mapping[str, Any]:
    """What its model may be told besides examples, and the defaults."""
    return _device(of).options


def outputs(of: Run | Artifact, examples: Sequence[Example], options: Mapping[str, Any]) -> Arrays:
    """The outputs about examples by name, one row an example."""
    if isinstance(of, Artifact):
        of.check_files()
        flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        return runtimes.ask(of, of.manifest.runtime, examples, flags).outputs
    task = tasks.get(of.recipe.task)
    model = task.building.load(str(of.folder), of.recipe, "float32")
    return task.answer(of.recipe, model, examples, options)


def learnt_by(of: Run | Artifact) -> Learnt:
    """What a run or an artifact has learnt."""
    return of.learnt if isinstance(of, Artifact) else _device(of).learnt(of.recipe)


def _device(of: Run | Artifact) -> Device[Any]:
    return tasks.device(of.manifest.task if isinstance(of, Artifact) else of.recipe.task)


def _labels(of: Run | Artifact) -> tuple[str, ...]:
    return of.manifest.labels if isinstance(of, Artifact) else of.labels


def opened(of: Run | Artifact | str | Path) -> Run | Artifact:
    """A run or an artifact from its folder.

    Raises:
        KerastuneError: the folder holds neither.
    """
    if not isinstance(of, str | Path):
        return of
    folder = files.absolute(of)
    if artifact.is_artifact(folder):
        return artifact.load(folder)
    if run.is_run(folder) or run.is_unfinished(folder):
        return run.load(folder)
    raise KerastuneError(
        f"{folder} is neither a run nor an artifact." if folder.exists() else f"There is no folder {folder}.",
        "kerastune run RECIPE makes a run folder; its artifacts are in RUN/exports/.",
    )
