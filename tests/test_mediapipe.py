"""Files of every kind that MediaPipe Tasks read: what they say of themselves, and what MediaPipe makes of it."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from kerastune.formats import metadata
from kerastune.formats.metadata import KINDS, About

needs_mediapipe = pytest.mark.skipif(not find_spec("mediapipe"), reason="pip install mediapipe")
LABELS = ["cat", "dog", "none"]


PIXELS = tf.TensorSpec([1, 64, 64, 3], tf.float32, name="images")
SAMPLES = tf.TensorSpec([1, 8000], tf.float32, name="sounds")


def with_metadata(call: Callable[[Any], dict[str, Any]], outputs: dict[str, str], spec: Any = PIXELS) -> bytes:
    """A TFLite model of 64 x 64 pixels, or of half a second of sound, with the metadata of its outputs."""
    module = tf.Module()
    module.serve = tf.function(call, input_signature=[spec])
    signature = module.serve.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([signature], module).convert()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    order = {bytes(one.name).decode(): one.tensorIndex for one in model.signatureDefs[0].outputs}
    model.subgraphs[0].outputs = [order[name] for name in sorted(order)]
    about = About("toy", "a toy", "1", "MIT", LABELS, outputs)
    metadata.add(model, about)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return metadata.with_labels(bytes(builder.Output()), about)


def white_on_the_right() -> Any:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    return pixels


def ask(task: str, content: bytes, method: str, pixels: Any = None, **options: Any) -> Any:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    image = white_on_the_right() if pixels is None else pixels
    wanted = getattr(vision, f"{task}Options")(base_options=BaseOptions(model_asset_buffer=content), **options)
    with getattr(vision, task).create_from_options(wanted) as made:
        return getattr(made, method)(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))


def boxes(images: Any) -> dict[str, Any]:
    light = tf.reduce_mean(images) / 255  # 0.5
    found = tf.constant([[[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.9, 0.7], [0.0, 0.0, 0.0, 0.0]]])
    scores = tf.stack([light, light / 2, 0 * light])[None]
    return {"boxes": found, "classes": tf.constant([[1.0, 0.0, 0.0]]), "count": tf.constant([2.0]), "scores": scores}


def logits(images: Any) -> dict[str, Any]:
    light = images[:, ::4, ::4, :1] / 255
    return {"logits": tf.concat([light, 1 - light, 0 * light], -1)}


DETECTOR = {"boxes": "boxes", "classes": "classes", "count": "count", "scores": "box_scores"}


@needs_mediapipe
def test_a_detector_says_which_output_is_which_and_in_which_order_a_box_is() -> None:
    first, second = ask("ObjectDetector", with_metadata(boxes, DETECTOR), "detect").detections
    assert first.categories[0].category_name == "dog" and second.categories[0].category_name == "cat"
    assert first.categories[0].score == pytest.approx(0.5, abs=1e-3)
    box = first.bounding_box
    assert (box.origin_x, box.origin_y, box.width, box.height) == (20, 20, 80, 40)  # of 200 x 100 pixels


@needs_mediapipe
def test_a_segmenter_s_map_has_the_size_of_the_picture() -> None:
    content = with_metadata(logits, {"logits": "masks"})
    found = ask("ImageSegmenter", content, "segment", output_category_mask=True).category_mask.numpy_view()
    assert found.shape[:2] == (100, 200) and (found[:, :90] == 1).all() and (found[:, 110:] == 0).all()


@needs_mediapipe
def test_an_embedder_gives_the_numbers_of_the_file() -> None:
    content = with_metadata(lambda images: {"vectors": tf.reduce_mean(images, [1, 2])}, {"vectors": "vector"})
    found = ask("ImageEmbedder", content, "embed").embeddings[0].embedding
    np.testing.assert_allclose(found, [127.5] * 3, atol=1e-3)


@needs_mediapipe
def test_a_classifier_of_sounds_gets_each_window_of_a_recording_at_its_own_rate() -> None:
    from mediapipe.tasks.python import BaseOptions, audio
    from mediapipe.tasks.python.components.containers import AudioData

    def loudness(sounds: Any) -> dict[str, Any]:
        loud = tf.reduce_max(sounds, axis=1, keepdims=True)
        return {"scores": tf.concat([loud, 1 - loud, 0 * loud], -1)}

    content = with_metadata(loudness, {"scores": "sound_labels"}, SAMPLES)
    wanted = audio.AudioClassifierOptions(base_options=BaseOptions(model_asset_buffer=content))
    recording = np.repeat(np.float32([0.2, 0.9]), 22_050)  # half a second each, of 44.1 kHz
    with audio.AudioClassifier.create_from_options(wanted) as made:
        found = [
            one.classifications[0].categories[0]
            for one in made.classify(AudioData.create_from_array(recording, 44_100))
        ]
    assert [one.category_name for one in found[:2]] == ["dog", "cat"]
    assert found[0].score == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("outputs", [{}, {"boxes": "boxes"}, {**DETECTOR, "raw": "vector"}])
def test_outputs_that_are_not_exactly_a_task_s_are_not_described(outputs: dict[str, str]) -> None:
    content = with_metadata(boxes, outputs)
    assert all(kind.meaning.encode() not in content for kind in KINDS.values())
    assert KINDS["count"].called.encode() in with_metadata(boxes, DETECTOR)
