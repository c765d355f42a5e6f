"""What a model says about new images or texts, from a run (in Keras) or from an artifact (in its own runtime)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastune import files, run
from kerastune.errors import DataError, KerastuneError
from kerastune.modalities import image as images
from kerastune.run import Run
from kerastune.targets import chats
from kerastune.tasks import scoring
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.artifact import Artifact, Example


@dataclass(frozen=True)
class Prediction:
    """What the model says about one example: labels with probabilities, the most probable first; or one number.

    `input` is the file's path, or the text; the texts of a pair stand with " | " between them.
    """

    input: str
    labels: tuple[tuple[str, float], ...]


def predict(
    of: Run | Artifact | str | Path, examples: str | Path | Sequence[str | Path], top: int = 3
) -> list[Prediction]:
    """The `top` most probable labels of each image file, read as in training; or of each text.

    Args:
        examples: paths of image files; or texts, for a model of pairs the two of a pair one behind the other.

    Raises:
        DataError: files that cannot be read, all of them at once; or a text without the other of its pair.
        KerastuneError: `of` is neither a run nor an artifact, or makes vectors.
        ConverterError: the artifact's runtime failed.
    """
    of = opened(of)
    if embeds(of):
        raise KerastuneError(
            f"{of.folder} makes vectors, and labels nothing.", "kerastune.predicting.search.embed makes them."
        )
    examples = [examples] if isinstance(examples, str | Path) else examples
    if isinstance(of, Artifact):
        text = of.manifest.get("text")
        names, arrays = _texts(examples, text["pairs"]) if text else _images(examples)
        of.check_files()
        scores = runtimes.ask(of, of.manifest["runtime"], arrays).scores
    else:
        data = of.recipe.data
        is_text, pairs = data.unit == "text", data.paired
        names, arrays = _texts(examples, pairs) if is_text else _images(examples)
        from kerastune import tasks

        kind = tasks.get(of.recipe.task)
        model = kind.building.load(str(of.folder), of.recipe, "float32")
        (scores,) = kind.answer(of.recipe, model, arrays, {}).values()  # type: ignore[assignment]
    ranked = (-scores).argsort(axis=-1, kind="stable")[:, :top]
    return [
        Prediction(name, tuple((of.labels[i], float(row[i])) for i in order))
        for name, row, order in zip(names, scores, ranked, strict=True)
    ]


def embeds(of: Run | Artifact) -> bool:
    """Whether a run or an artifact makes vectors of texts."""
    target = of.recipe.data.target if isinstance(of, Run) else of.manifest.get("target_kind")
    return target in scoring.SIMILARITY


def generate(
    of: Run | Artifact | str | Path,
    prompts: Sequence[str],
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What a language model answers to each prompt, asked by the chat template that it was trained with.

    Args:
        max_tokens: where an answer is cut off that does not end.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn (1: as likely as the model says).
        seed: of the draws.

    Raises:
        KerastuneError: the model answers no prompts, or a prompt is too long for it.
        DataError: a prompt holds marks of the chat template.
        ConverterError: the artifact's runtime failed.
    """
    of = opened(of)
    if not generates(of):
        raise KerastuneError(f"The model of {of.folder} answers no prompts.", "A run of the task causal_lm has one.")
    if empty := [i for i, prompt in enumerate(prompts, start=1) if not prompt.strip()]:
        raise DataError(f"Prompt {empty[0]} is empty.")
    if isinstance(of, Artifact):
        return _answers(of, [prompt.strip() for prompt in prompts], max_tokens, temperature, seed)
    from kerastune import tasks

    kind = tasks.get(of.recipe.task)
    model = kind.building.load(str(of.folder), of.recipe, "float32")
    asked = [np.array([["user", prompt.strip()]]) for prompt in prompts]
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return list(map(str, kind.answer(of.recipe, model, asked, options)["texts"]))


def generates(of: Run | Artifact) -> bool:
    """Whether it is a language model's."""
    return "chat" in of.manifest if isinstance(of, Artifact) else of.recipe.data.target == "text"


def _answers(of: Artifact, prompts: Sequence[str], max_tokens: int, temperature: float, seed: int) -> list[str]:
    """As its own runtime says them."""
    settings = of.manifest["chat"]
    chat = chats.load(of.folder, settings)
    for number, prompt in enumerate(prompts, start=1):
        if marks := chat.marks(prompt):
            raise DataError(
                f"Prompt {number} holds {marks[0]!r}, a mark of the chat template.",
                "Whoever writes it could speak as somebody else; take it out.",
            )
        if why := chats.too_long(chat.prompt([{"role": "user", "content": prompt}]), settings):
            raise KerastuneError(f"Prompt {number} {why}.")
    of.check_files()
    options = ["--max-tokens", str(max_tokens), "--temperature", str(temperature), "--seed", str(seed)]
    asked = [np.array([["user", prompt]]) for prompt in prompts]
    said = runtimes.ask(of, of.manifest["runtime"], asked, options).scores
    return [chat.decode([int(i) for i in ids if i >= 0]) for ids in said]


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


def _texts(texts: Sequence[str | Path], pairs: bool) -> tuple[list[str], list[Example]]:
    sides = 2 if pairs else 1
    if len(texts) % sides:
        raise DataError(
            f"This model takes pairs of texts, and there are {len(texts)} texts.", "Give two for each pair."
        )
    if empty := [i for i, text in enumerate(texts, start=1) if not str(text).strip()]:
        raise DataError(f"Text {', '.join(map(str, empty))} is empty.", "Leave it out.")
    rows = [list(map(str, texts[at : at + sides])) for at in range(0, len(texts), sides)]
    return [" | ".join(row) for row in rows], [np.array(row) for row in rows]


def _images(paths: Sequence[str | Path]) -> tuple[list[str], list[Example]]:
    pixels: list[Example] = []
    problems = []
    for path in paths:
        try:
            encoded = Path(path).read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if problem := images.check(encoded, str(path)).problem:
            problems.append(f"{path}: {problem}")
        else:
            pixels.append(images.decode(encoded))
    if problems:
        raise DataError("\n".join(["Some files cannot be read:", *problems]), "Mend them or leave them out.")
    return [str(path) for path in paths], pixels
