"""Audio classification: a head on statistics of all layers of a Whisper encoder, which hears short windows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kerastune import assets
from kerastune.data import Order, Split, Splits, few
from kerastune.errors import RecipeError, shortened
from kerastune.files import write_json
from kerastune.formats.graphs import Signature
from kerastune.modalities import audio
from kerastune.modalities.audio import RATE
from kerastune.targets.audio import fit
from kerastune.tasks import grouped, losses, registered
from kerastune.tasks.audio_classification import device
from kerastune.tasks.audio_classification.feeding import batches, example, hearing, levelled, order, preprocessing
from kerastune.tasks.audio_classification.model import SoundClassifier, SoundEncoder
from kerastune.tasks.audio_classification.settings import AudioClassification
from kerastune.tasks.contract import Building, Changes, Dataset, Feeding, Model, Targets, Task
from kerastune.tasks.losses import activated
from kerastune.tasks.pipeline import with_truth

Scores = npt.NDArray[np.float32]

_MEASURED = 2000  # training sounds that the head's inputs are scaled by
_COMPARED = 400  # sounds of each split that the kinds of split are compared on
_SETTINGS = ("num_mels", "num_fft_bins", "stride", "sampling_rate")


def build(recipe: AudioClassification, preset: str, splits: Splits, precision: str) -> Model:
    """Builds a classifier on the encoder of a Whisper preset, for the recipe's window.

    Raises:
        AssetError: the preset cannot be found or reached.
        RecipeError: the preset is no Whisper, or lacks an audio converter, that many blocks or so long a window.
    """
    keras.config.set_dtype_policy(precision)
    try:
        with assets.reaching(preset):
            whisper = keras_hub.models.WhisperBackbone.from_preset(preset, dtype=precision)
            converter = keras_hub.layers.WhisperAudioConverter.from_preset(preset)
    except ValueError as error:
        raise RecipeError(
            f"preset = {recipe.preset!r} has no encoder of sounds: {shortened(str(error), 500)}",
            "Use a preset of Whisper with its audio converter, such as the asset whisper-base.",
        ) from error
    if recipe.blocks is not None and recipe.blocks > whisper.num_layers:
        raise RecipeError(
            f"blocks = {recipe.blocks}, but the encoder of {recipe.preset!r} has {whisper.num_layers}.",
            "Use a smaller number, or leave it out for all.",
        )
    front_end = {key: converter.get_config()[key] for key in _SETTINGS}
    if front_end["sampling_rate"] != RATE:
        raise RecipeError(
            f"preset = {recipe.preset!r} hears {front_end['sampling_rate']:,} samples per second, not {RATE:,}."
        )
    frames = device.samples(recipe) // front_end["stride"]
    if frames > whisper.max_encoder_sequence_length or frames % 2:
        most = whisper.max_encoder_sequence_length * front_end["stride"] / RATE
        raise RecipeError(f"data.window = {recipe.data.window:g}, but {recipe.preset!r} hears {most:g} s at a time.")
    encoder = SoundEncoder.of(whisper, frames, recipe.blocks, precision)
    head = {"dropout": recipe.dropout, "deviation": recipe.pooling == "mean_and_deviation"}
    return SoundClassifier(encoder, len(splits.labels), front_end, head, recipe.level == "peak")


def prepare(recipe: AudioClassification, model: Model, splits: Splits) -> None:
    """Scales the head's inputs to mean 0 and deviation 1 over training sounds."""
    layer = model.get_layer("standardised")
    found = _reaching(recipe, model, layer.input)(few(splits.train, _MEASURED)).astype(np.float64)
    layer.mean.assign(found.mean(axis=0))
    layer.scale.assign(1 / np.maximum(found.std(axis=0), 1e-3))


def _reaching(recipe: AudioClassification, model: Model, tensor: Any) -> Callable[[Split], npt.NDArray[np.float32]]:
    """Returns the function from a split to the values of a tensor in the model, float32 [n, …]."""
    reach = keras.Model(model.inputs, tensor)
    takes = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    forward = tf.function(lambda x: reach(x, training=False), input_signature=[takes], autograph=False)

    def reached(split: Split) -> npt.NDArray[np.float32]:
        made = batches(model, split, order(model, split, recipe.train.batch_size))
        return np.concatenate([forward(x).numpy() for x, _ in made])

    return reached


def _flattery(recipe: AudioClassification, model: Model, splits: Splits) -> dict[str, float] | None:
    """Returns what a random split would say beside one by groups (`grouped.flattery`), for one label."""
    parts = [few(split, _COMPARED) for split in (splits.train, splits.validation, splits.test)]
    if recipe.data.target != "label" or not any(group for part in parts for group in part.groups):
        return None
    reached = _reaching(recipe, model, model.get_layer("standardised").output)
    features = [reached(part).mean(axis=1) for part in parts]
    labels, groups = np.concatenate([part.labels for part in parts]), [one for part in parts for one in part.groups]
    return grouped.flattery(np.concatenate(features), labels, groups, recipe.seed)


def describe(recipe: AudioClassification, model: Model, splits: Splits) -> dict[str, Any]:
    """Returns the window, the blocks, how many sounds are longer, and what a random split would say, for run.json."""
    parts = {name: getattr(splits, name) for name in ("train", "validation", "test")}
    longer = {
        name: sum(_is_longer(split, i, model.samples) for i in range(len(split))) for name, split in parts.items()
    }
    return {
        "window_seconds": model.samples / RATE,
        "sample_rate": RATE,
        "blocks": model.backbone.config["num_layers"],
        "truncated": longer,
        "linear_model": _flattery(recipe, model, splits),
    }


def _is_longer(split: Split, i: int, samples: int) -> bool:
    return len(audio.beginning(split.read(i), samples + 1)) > samples


# --- scoring -------------------------------------------------------------------------------------------------


def scores(
    target: str, model: Model, split: Split, batch_size: int, each: Callable[[int], None] = lambda n: None
) -> Scores:
    """Returns the scores (`losses.activated`) of a whole split: float32 [n, K], in its order."""
    takes = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    forward = tf.function(
        lambda x: activated(target, model(x, training=False)), input_signature=[takes], autograph=False
    )
    found: list[Scores] = []
    done = 0
    for x, _ in batches(model, split, order(model, split, batch_size)):
        found.append(forward(x).numpy())
        done += len(found[-1])
        each(done)
    return np.concatenate(found)


def reference(target: str, model: Model, sounds: Sequence[npt.NDArray[np.float32]]) -> Scores:
    """Returns the Keras model's own scores with KerasHub's own front end, outside any graph: float32 [n, K]."""
    converter = model.converter()

    def heard(sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        window = fit(sound, model.samples)[None]
        return np.asarray(converter(np.asarray(levelled(window)) if model.peak else window))

    logits = [model(heard(sound), training=False) for sound in sounds]
    return np.concatenate([np.asarray(activated(target, one)) for one in logits])


# --- what the device sees ------------------------------------------------------------------------------------


def signatures(target: str, model: Model) -> dict[str, Signature]:
    """Returns the signatures, from windows of samples, float32 [B, samples], to {"scores": float32 [B, K]}."""
    front_end = hearing(model, exported=True)

    def heard(sounds: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.identity(activated(target, model(front_end(sounds), training=False)), name="scores")}

    return {
        name: (heard, [tf.TensorSpec([size, model.samples], tf.float32, name="sounds")])
        for name, size in (("serving_default", None), ("single", 1))
    }


def trace(recipe: AudioClassification, model: Model, work: Path, wanted: Sequence[str]) -> None:
    """Writes how devices cut sounds."""
    write_json(work / "sound.json", {"sample_rate": RATE, "samples": model.samples})


# --- the row -------------------------------------------------------------------------------------------------


def _batches(
    recipe: AudioClassification, model: Model, split: Split, order: Order, targets: Targets, changes: Changes | None
) -> Dataset:
    more = (recipe.augment, changes.seed, changes.view) if changes else ()
    return with_truth(batches(model, split, order, *more), targets)


TASK: Task[AudioClassification] = Task(
    building=Building(
        build=build,
        prepare=prepare,
        describe=describe,
        load=lambda folder, recipe, precision: registered.load(folder, precision),
        write_beside=lambda model, folder: None,
        vary=losses.vary,
        largest_product=lambda model: None,
    ),
    feeding=Feeding(
        order=lambda recipe, *rest: order(*rest),
        batches=_batches,
        example=lambda recipe, model, split, batch_size: example(model, split, batch_size),
        fingerprint=lambda recipe, model, changed: preprocessing(model, recipe.augment if changed else None),
        shapes="fixed",
    ),
    learning=losses.learning(lambda recipe: str(recipe.data.target)),
    predict=lambda recipe, model, split, batch_size, told: {
        "scores": scores(recipe.data.target, model, split, batch_size, told)
    },
    answer=lambda recipe, model, examples, options: {"scores": reference(recipe.data.target, model, examples)},
    signatures=lambda recipe, model: signatures(recipe.data.target, model),
    trace=trace,
    reference=lambda recipe, model, examples: {"scores": reference(recipe.data.target, model, examples)},
)
