"""Causal language models: prompts and responses, with the loss on responses only, for any KerasHub CausalLM."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from kerastune import assets
from kerastune.data import Order, Split, Splits
from kerastune.errors import RecipeError, shortened
from kerastune.files import write_json
from kerastune.records import Decision
from kerastune.targets import chats as reader
from kerastune.tasks import text_models
from kerastune.tasks.causal_lm import hugging_face
from kerastune.tasks.causal_lm.chats import chat_of, file_of, write
from kerastune.tasks.causal_lm.feeding import INPUTS, batches, example, order, preprocessing, spoken
from kerastune.tasks.causal_lm.generation import answers, sampled, samples
from kerastune.tasks.causal_lm.learning import loss, metric, scores, truth
from kerastune.tasks.causal_lm.settings import CausalLM
from kerastune.tasks.causal_lm.tracing import contract, golden_answers, inputs, reference, signatures
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Learning, Model, Targets, Task
from kerastune.tasks.pipeline import with_truth
from kerastune.tasks.text_models import set_length


def build(recipe: CausalLM, preset: str, num_outputs: int, precision: str) -> Model:
    """Returns the preset's unchanged language model.

    Args:
        preset: the resolved `recipe.preset`.
        num_outputs: unused; the outputs are the vocabulary.
        precision: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is not a text-only language model, or its chat template cannot be used.
    """
    keras.config.set_dtype_policy(precision)
    unread, parts = _unread(recipe, preset), {}
    try:
        with assets.reaching(preset):
            if unread:
                parts["backbone"] = keras_hub.models.Backbone.from_preset(preset, dtype=precision, **unread)
            model = keras_hub.models.CausalLM.from_preset(preset, dtype=precision, **parts)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} cannot be built as a language model: {shortened(str(error), 500)}",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        ) from error
    if (names := {one.name for one in model.inputs}) != INPUTS:
        raise RecipeError(
            f"preset = {recipe.preset!r} takes {', '.join(sorted(names))}, not only text.",
            "Use a preset of a decoder (GPT-2, Llama, Qwen, Gemma, …).",
        )
    set_length(recipe, model)
    model.chat = chat_of(preset, model.preprocessor, recipe.data)
    return model


_ROPE = {
    "rope_frequency_adjustment_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_pretraining_sequence_length": "original_max_position_embeddings",
}


def _unread(recipe: CausalLM, preset: str) -> dict[str, Any]:
    """Returns backbone arguments that KerasHub 0.32 ignores in a Hugging Face config: a Llama's epsilon, and the
    position scaling that transformers 5 writes."""
    config = json.loads(path.read_text("utf-8")) if (path := file_of(preset, "config.json")) else {}
    if (family := config.get("model_type")) not in ("llama", "mistral", "qwen2", "qwen3"):
        return {}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" and (family, kind) != ("llama", "llama3"):
        raise RecipeError(
            f"preset = {recipe.preset!r} scales its positions by {kind!r}, which KerasHub does not read for {family}: "
            "it would be a different model.",
            "Use another preset.",
        )
    scaled = {name: rope[key] for name, key in _ROPE.items()} if kind == "llama3" else {}
    return {"layer_norm_epsilon": config["rms_norm_eps"], **scaled} if family == "llama" else {}


def _settled(recipe: CausalLM, model: Model, splits: Splits) -> tuple[CausalLM, Model, list[Decision]]:
    """Writes the date that the template asks for into the recipe, so that texts stay the same on another day."""
    if recipe.data.today or not model.chat.asks_for_today:
        return recipe, model, []
    today = model.chat.settings["today"]
    decision = Decision("data.today", "auto", today, "the chat template writes the date")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"today": today})}), model, [decision]


def load(folder: str, recipe: CausalLM, precision: str = "float32") -> Model:
    """Loads a tuned model from a run folder.

    Raises:
        ValueError: KerasHub's own, when the preset cannot be loaded.
    """
    keras.config.set_dtype_policy(precision)
    model = keras_hub.models.CausalLM.from_preset(folder, dtype=precision)
    model.chat = chat_of(folder, model.preprocessor, recipe.data)
    return model


def write_beside(model: Model, folder: Path) -> None:
    """Writes the chat template, which KerasHub's preset cannot hold."""
    write(model.chat, folder)


def describe(model: Model, splits: Splits) -> dict[str, Any]:
    """Returns the template, lengths in tokens, and counts of learnt and truncated tokens, for run.json."""
    parts = {name: spoken(model, getattr(splits, name)) for name in ("train", "validation", "test")}
    return {
        "chat_template": model.chat.origin,
        "sequence_length": model.preprocessor.sequence_length,
        "buckets": list(parts["train"].tokens.buckets),
        "truncated": {name: part.tokens.truncated for name, part in parts.items()},
        "tokens": {name: int(part.tokens.lengths.sum()) for name, part in parts.items()},
        "response_tokens": {name: int((part.targets >= 0).sum()) for name, part in parts.items()},
    }


# --- the row --------------------------------------------------------------------------------------------------


def _targets(recipe: CausalLM, model: Model, splits: Splits, name: str, training: bool) -> Targets:
    known = truth(model, getattr(splits, name))
    return Targets(known, np.ones(len(known), np.float32))  # tokens are counted, so each conversation has weight 1


def _batches(
    recipe: CausalLM, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    return with_truth(batches(model, split, order), targets)


def _answer(recipe: CausalLM, model: Model, examples: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the texts of the answers, one prompt at a time: a batch would need a cache for each."""
    asked = (reader.messages_of(turns) for turns in examples)
    return {"texts": np.array([answers(model, [turns], **options)[0] for turns in asked])}


def trace(recipe: CausalLM, model: Model, work: Path, wanted: Sequence[str]) -> None:
    """Writes the tokenizer, the chat template, the settings for devices, and Keras's answers."""
    text_models.write_tokenizer(model, work, 1)
    calibration, golden = (_stored(work / f"{name}.npz") for name in ("calibration", "golden"))
    text_models.write_calibration(inputs(model, calibration), work)
    write_json(work / "chat.json", contract(model))
    write_beside(model, work / "tokenizer")
    np.savez(work / "answers.npz", allow_pickle=False, **golden_answers(model, golden))


def _stored(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def _write_folder(recipe: CausalLM, model: Model, work: Path, folder: Path) -> None:
    hugging_face.write(model, contract(model), work / "tokenizer", folder)


TASK: Task[CausalLM] = Task(
    building=Building(
        build=lambda recipe, preset, splits, precision: build(recipe, preset, len(splits.labels), precision),
        prepare=lambda recipe, model, splits: None,
        describe=lambda recipe, model, splits: describe(model, splits),
        load=load,
        write_beside=write_beside,
        vary=lambda model, inputs: None,  # its outputs already differ between texts
        largest_product=text_models.largest_product,
        settled=_settled,
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model),
        shapes="bucketed",
    ),
    learning=Learning(
        targets=_targets,
        loss=lambda recipe: loss,
        meter=lambda recipe: metric(),
        validated=None,
        starts=True,
        sampled=sampled,
        samples=samples,
    ),
    predict=lambda recipe, model, split, batch_size, told: {"sums": scores(model, split, batch_size, told)},
    answer=_answer,
    signatures=signatures,
    trace=trace,
    reference=lambda recipe, model, examples: {"sums": reference(recipe, model, examples)},
    folder=_write_folder,
)
