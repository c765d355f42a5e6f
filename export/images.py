"""Reads images and prepares them for an exported model, without kerastune: numpy, and Pillow for files.

Training reads images with this module as well. manifest.json has the model's settings under "reading":

    resize         "inside": the model resizes images itself; "outside": the reader resizes them as below
    height, width  in pixels
    interpolation  nearest, bilinear or bicubic
    crop_to_aspect_ratio, pad_to_aspect_ratio
                   whether to crop to the centre, or add black borders, before resizing
    own_size       true: the model looks at pictures as they are, and takes no others than of height and width
"""

import io
import re
import struct
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np

MAX_PIXELS = 2**27  # 134 megapixels: a 108-megapixel phone photo fits, a decompression bomb does not

# Files are opened by content, never by extension, and by Pillow's classes for these formats only.
_FORMATS = {
    "jpg": (rb"\xff\xd8\xff", "Jpeg", "JpegImageFile"),
    "png": (rb"\x89PNG\r\n\x1a\n", "Png", "PngImageFile"),
    "webp": (rb"(?s)RIFF....WEBP", "WebP", "WebPImageFile"),
    "bmp": (rb"BM", "Bmp", "BmpImageFile"),
    "gif": (rb"GIF8[79]a", "Gif", "GifImageFile"),
}
_UPRIGHT = {  # EXIF orientation -> the member of PIL.Image.Transpose that turns the picture upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Errors that Pillow raises for truncated or damaged files, besides its DecompressionBombError.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


MADE = (
    {"name": "class_map", "shape": [None, None, None], "role": "map"},
    {"name": "probabilities", "shape": [None, None, None, None], "role": "probabilities"},
)
"""Outputs that `restored` makes of logits in cells."""


class TooLarge(ValueError):
    """An image has more pixels than are safe to open."""


class Refused(ValueError):
    """An image that the model cannot take."""


def asked(arguments, settings):
    """Yields the name and the pixels of each image file or .npy file of uint8 [H, W, 3]."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, which is not used
    for path in arguments:
        try:
            yield (
                path,
                np.load(path, allow_pickle=False) if path.endswith(".npy") else decode(Path(path).read_bytes())[0],
            )
        except (OSError, ValueError) as error:
            sys.exit(f"{path} cannot be read as an image: {error}")


def taking(predict, folder, settings):
    """Returns a function from an image uint8 [H, W, 3], a batch [B, H, W, 3] or an encoded file [n] to inputs.

    The function raises Refused for an image of another size than the model can look at.
    """

    def take(example):
        if example.ndim == 1:
            return {"image_bytes": np.array([example.tobytes()], object)}
        if why := unfit(example, settings):
            raise Refused(why)
        return {"images": fit(example, settings)[None] if example.ndim == 3 else example}

    return take


def unfit(example, settings):
    """Returns why a model cannot look at an image [H, W, 3] or a batch of them; None if it can."""
    height, width = example.shape[-3:-1]
    if not settings.get("own_size") or (height, width) == (settings["height"], settings["width"]):
        return None
    known = f"{settings['width']} x {settings['height']}"
    return (
        f"it has {width} x {height} pixels, but this model looks at pictures of {known} as they are: "
        "small things vanish from resized ones; cut larger pictures into parts of that size"
    )


def restored(outputs, example, manifest):
    """Returns outputs in pixels of the picture itself where the reader has resized it: boxes, and maps of its pixels.

    What MediaPipe's ObjectDetector reads, boxes in shares of the picture, becomes rows of detections; what its
    ImageSegmenter reads, logits, also becomes a map and, if asked for, probabilities.
    """
    if "box_scores" in outputs:
        height, width = example.shape[-3:-1]
        corners = np.asarray(outputs["boxes"]) * np.array([width, height] * 2, np.float32)
        columns = (np.asarray(outputs[name])[..., None] for name in ("box_scores", "classes"))
        return {"detections": np.concatenate([corners, *columns], axis=-1)}
    settings = manifest["reading"]
    if settings["resize"] == "inside" or example.ndim != 3:
        return outputs
    height, width = example.shape[:2]
    x, y = np.float32(width / settings["width"]), np.float32(height / settings["height"])
    found = dict(outputs)
    roles = {one["name"]: one.get("role") for one in manifest["outputs"]}
    for name in (name for name, role in roles.items() if role == "cells"):
        logits = [enlarged(np.asarray(row), height, width) for row in outputs[name]]
        found["class_map"] = [one.argmax(-1).astype(np.uint8) for one in logits]
        if settings.get("probabilities"):
            found["probabilities"] = [softmax(one) for one in logits]
    for name in (name for name, role in roles.items() if role in ("map", "probabilities")):
        coarse = np.asarray(outputs[name])
        rows, columns = np.arange(height) * coarse.shape[1] // height, np.arange(width) * coarse.shape[2] // width
        found[name] = coarse[:, rows][:, :, columns]
    for name in (name for name, role in roles.items() if role == "boxes"):
        found[name] = np.array(outputs[name])
        found[name][..., :4] *= np.array([x, y, x, y], np.float32)
    return found


def enlarged(logits, height, width):
    """Returns the logits of each pixel, float32 [height, width, K], of logits in larger cells, float32 [h, w, K]."""
    from PIL import Image

    planes = (
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(logits, -1, 0)
    )
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def softmax(logits):
    """Returns the probabilities of logits [..., K]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# --- files -------------------------------------------------------------------------------------------------


def decode(data):
    """Decodes an image to upright RGB pixels, uint8 [H, W, 3], and returns remarks on corrections.

    Blends transparency onto white, scales 16 bits to 8, and takes the first frame of an animation.

    Raises:
        TooLarge: it has more than `MAX_PIXELS` pixels.
        ValueError: it is not in a supported format, or is damaged; the cause is Pillow's own error.
    """
    import PIL.Image

    if format_of(data) is None:
        raise ValueError(f"it is not a {', '.join(_FORMATS)} file")
    try:
        with opened(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise TooLarge(
                    f"has {image.width:,} × {image.height:,} pixels, more than the {MAX_PIXELS:,} "
                    "that are safe to open; make it smaller"
                )
            image.load()
            rgb, remarks = _rgb(image)
            rgb, turned = _upright(rgb, orientation(image))
            animated = _is_animated(image)
    except TooLarge:
        raise
    except (*DAMAGE, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if format_of(data) == "png" and data[24] == 16:  # the bit depth in IHDR, which Pillow does not keep for RGB
        remarks.append("16-bit values scaled to 8 bits")
    if turned:
        remarks.append("EXIF orientation applied")
    if animated:
        remarks.append("animated, first frame used")
    return np.asarray(rgb), remarks


def opened(data):
    """Opens an encoded image in Pillow, without decoding it."""
    _, plugin, name = _FORMATS[format_of(data)]
    return getattr(import_module(f"PIL.{plugin}ImagePlugin"), name)(io.BytesIO(data))


def format_of(data):
    """Returns "jpg", "png", "webp", "bmp" or "gif", from an encoded image's first bytes; None for anything else."""
    return next((kind for kind, (magic, *_) in _FORMATS.items() if re.match(magic, data)), None)


def _rgb(image):
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own convert() would clip at 255
        return _grey16(image)
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # the pixels are 8-bit by now
    if image.has_transparency_data:
        return _on_white(image)
    remarks = ["CMYK converted to RGB without its colour profile"] if image.mode == "CMYK" else []
    return image.convert("RGB"), remarks


def _grey16(image):
    from PIL import Image

    values = np.asarray(image)  # [H, W]
    grey = (values >> 8).astype(np.uint8)  # the high byte: what Pillow and libpng do for 16-bit RGB
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey).convert("RGB"), []
    grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB"), ["transparency shown on white"]


_BAND = 2**22  # pixels that are put on white at a time: four copies of a large image would be gigabytes


def _on_white(image):
    from PIL import Image

    found, rows, is_seen_through = Image.new("RGB", image.size), max(_BAND // image.width, 1), False
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        is_seen_through |= band.getchannel("A").getextrema() != (255, 255)
        found.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), (0, top))
    return found, ["transparency shown on white"] if is_seen_through else []


def _upright(rgb, orientation):
    from PIL import Image

    if orientation not in _UPRIGHT:
        return rgb, False
    return rgb.transpose(Image.Transpose[_UPRIGHT[orientation]]), True


def orientation(image):
    """Returns the EXIF orientation of an opened image, 1 to 8."""
    try:
        value = image.getexif().get(0x0112)
    except DAMAGE:
        return 1  # damaged metadata say nothing about the pixels
    return value if isinstance(value, int) else 1


def _is_animated(image):
    try:
        return bool(getattr(image, "is_animated", False))
    except DAMAGE:
        return True  # a later frame is damaged, but not the first one, which is used


# --- resizing ----------------------------------------------------------------------------------------------


def fit(image, settings):
    """Returns the model's input: the same image if the model resizes it, otherwise resized to the training size."""
    if settings["resize"] == "inside":
        return image
    height, width = settings["height"], settings["width"]
    if settings["crop_to_aspect_ratio"]:
        image = cropped(image, height, width)
    if settings["pad_to_aspect_ratio"]:
        image = padded(image, height, width)
    return resized(resized(image, height, 0, settings), width, 1, settings).round().clip(0, 255).astype(np.uint8)


def cropped(image, height, width):
    """Crops the image to the largest centred part with the aspect ratio height : width."""
    h, w = image.shape[:2]
    tall, wide = max(min(h, w * height // width), 1), max(min(w, h * width // height), 1)
    top, left = (h - tall) // 2, (w - wide) // 2
    return image[top : top + tall, left : left + wide]


def padded(image, height, width):
    """Adds black borders up to the aspect ratio height : width."""
    h, w = image.shape[:2]
    tall, wide = max(h, w * height // width), max(w, h * width // height)
    top, left = (tall - h) // 2, (wide - w) // 2
    return np.pad(image, ((top, top), (left, left), (0, 0)))  # as Keras does, which omits an odd row


def resized(image, size, axis, settings):
    """Resizes one axis to `size` pixels like TensorFlow: half-pixel centres, no antialiasing."""
    length = image.shape[axis]
    if length == size:
        return image
    edge = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size)
    first = np.floor(edge - np.float32(0.5)).astype(int)
    part = (edge - np.float32(0.5) - first).astype(np.float32)
    if settings["interpolation"] == "nearest":
        taps = [(np.floor(edge).astype(int), np.ones(size, np.float32))]
    elif settings["interpolation"] == "bilinear":
        taps = [(first, 1 - part), (first + 1, part)]
    else:  # bicubic, Keys 1981 with a = -1/2; pixels outside have no weight
        taps = [(first + k, keys(abs(part - k)) * ((first + k >= 0) & (first + k < length))) for k in range(-1, 3)]
        total = sum(weight for _, weight in taps)
        taps = [(at, weight / total) for at, weight in taps]
    shape = [-1 if i == axis else 1 for i in range(3)]
    parts = [image.take(at.clip(0, length - 1), axis) * weight.reshape(shape) for at, weight in taps]
    return sum(parts[1:], parts[0]).astype(np.float32)


def keys(x):
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)
