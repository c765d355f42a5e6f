"""A SavedModel decodes files to the pixels that training reads, or refuses them in words."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from attack import pictures
from PIL import Image

from kerastune.targets import images
from kerastune.tasks.image_classification import decoding

decode = tf.function(decoding.decode, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("kind", pictures.TAKEN)
def test_files_are_decoded_as_training_decodes_them(kind: str) -> None:
    for seed in range(5):
        data = pictures.KINDS[kind](np.random.default_rng(seed))
        expected, _ = images.decode(data)
        assert np.array_equal(decode(data).numpy(), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_photos_are_turned_upright(kind: str, orientation: int) -> None:
    picture = Image.fromarray(pictures.pixels(np.random.default_rng(0)))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", orientation
    data = pictures.saved(picture, kind, exif=exif)
    assert np.array_equal(decode(data).numpy(), images.decode(data)[0])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_files_of_few_bits_are_not_faded(depth: int) -> None:
    """TensorFlow gives them an alpha channel of 1, 3 or 15."""
    picture = Image.new("P", (3, 2))
    picture.putpalette([200, 30, 10] * 2**depth)
    data = pictures.saved(picture, "PNG", bits=depth)
    assert data[24] == depth
    assert (decode(data).numpy() == [200, 30, 10]).all()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGBA", (20, 30), color) for color in ("red", "blue")]
    frames[0].save(buffer := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", animated("WEBP"), animated("GIF"), pictures.KINDS["bmp"]])
def test_other_files_are_refused_in_words(data: Any) -> None:
    data = data if isinstance(data, bytes) else data(np.random.default_rng(0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format: send JPEG or PNG"):
        decode(data)
