"""Runs an exported model without kerastune: numpy, one runtime and, for texts, the package tokenizers.

Each target's reader.py brings `load(folder) -> predict`; this file is what they share. Both are copied into every
artifact, so that the folder runs by itself wherever it is taken.

    python reader.py ARTIFACT photo.jpg …       labels and probabilities of images
    python reader.py ARTIFACT "a text" …        the same of texts; of pairs, two texts each; or their vectors
    python reader.py ARTIFACT --check           replays golden.npz: does this device compute what was trained?
"""

import argparse
import hashlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np


def main(load, *arguments):
    """Each of `arguments` adds options of a reader's own to a parser; `load(folder, manifest, options)` gets them."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description="Runs an exported model.")
    parser.add_argument("artifact", type=Path, help="the artifact's folder (it holds manifest.json)")
    parser.add_argument(
        "examples", nargs="*", help="image files (needs Pillow), or .npy files of uint8 [H, W, 3]; or texts"
    )
    parser.add_argument("--top", type=int, default=3, metavar="K", help="labels to print for each image")
    parser.add_argument("--check", action="store_true", help="replay golden.npz; exit code 3 if it differs")
    parser.add_argument(
        "--stream", type=Path, metavar="OUT.npz", help="score arrays from stdin, as kerastune verify does"
    )
    for add in arguments:
        add(parser)
    options = parser.parse_intermixed_args()  # options may stand before the images
    if not (options.artifact / "manifest.json").is_file():
        parser.error(f"{options.artifact} is no artifact: it holds no manifest.json")
    if not (options.examples or options.check or options.stream):
        parser.error("name image files, or give texts, or --check")
    manifest = json.loads((options.artifact / "manifest.json").read_text("utf-8"))
    if changed := [name for name, file in manifest["files"].items() if not same(options.artifact / name, file)]:
        print(f"FAILED: not what was exported: {', '.join(changed)}", file=sys.stderr)
        sys.exit(3)
    predict = load(options.artifact, manifest, options) if arguments else load(options.artifact, manifest)
    take = taking(predict, options.artifact, manifest)
    if options.stream:
        stream(predict, take, options.stream, time.perf_counter() - started)
    if options.check and not check(predict, take, options.artifact, manifest):
        sys.exit(3)
    said = ((name, predict(take(example))[0]) for name, example in named(options.examples, manifest))
    if manifest["task"] == "text_embedding":
        show_vectors(list(said))
        return
    for name, scores in said:
        if "chat" in manifest:
            print(f"{name}\n  {predict.words(scores)}")
            continue
        print(name)
        for i in np.argsort(-scores, kind="stable")[: options.top]:
            print(f"  {scores[i]:.4f}  {manifest['labels'][i]}")


def show_vectors(said):
    """How texts' vectors begin; of several texts, how alike they are."""
    for text, vector in said:
        print(f"{text}\n  {len(vector)} numbers: {' '.join(f'{number:.4f}' for number in vector[:6])} …")
    for i, (text, vector) in enumerate(said):
        for other, its in said[i + 1 :]:
            cosine = vector @ its / (np.linalg.norm(vector) * np.linalg.norm(its))
            print(f"  {cosine:.4f}  {text} | {other}")


def named(arguments, manifest):
    """What was asked about: its name, and the example itself."""
    if "chat" in manifest:
        yield from ((prompt, np.array([["user", prompt.strip()]])) for prompt in arguments)
        return
    if "text" in manifest:
        sides = 2 if manifest["text"]["pairs"] else 1
        if len(arguments) % sides:
            sys.exit(f"this model takes pairs of texts, and there are {len(arguments)} texts")
        for at in range(0, len(arguments), sides):
            yield " | ".join(arguments[at : at + sides]), np.array(arguments[at : at + sides])
        return
    for path in arguments:
        try:
            yield path, read_image(path)
        except (OSError, ValueError) as error:
            sys.exit(f"{path} cannot be read as an image: {error}")


def taking(predict, folder, manifest):
    """What makes of an example, or of a batch of them, what `predict` takes.

    A text, a pair or a batch of them (an array of str [1 or 2], or [B, 1 or 2]) -> int32 [B, L] by name; an image
    uint8 [H, W, 3] -> [1, h, w, 3]; a batch of images, an encoded file and a conversation stay as they are.
    """
    if "chat" in manifest:
        return lambda turns: turns
    if "text" not in manifest:
        return lambda example: fit(example, manifest)[None] if example.ndim == 3 else example
    if getattr(predict, "raw", False):
        return lambda example: np.atleast_2d(example).tolist()
    from texts import load

    tokenised = load(folder, manifest["text"])
    return lambda example: tokenised(np.atleast_2d(example).tolist())


def tensors(batch):
    """A batch by the names of the model's inputs."""
    return batch if isinstance(batch, dict) else {"images": batch}


def answering(parser):
    """How a language model answers."""
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="of an answer")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of an answer; 0: the likeliest")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of an answer with a temperature")


def threads(parser):
    parser.add_argument("--threads", type=int, help="threads of one inference")


def encoded(pixels, tensor):
    """Pixels 0..255 as a TFLite input takes them: float32, uint8, or int8 with a scale and a zero point."""
    scale, zero = quantisation(tensor)
    if not scale:
        return pixels.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(pixels / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def decoded(scores, tensor):
    """What a TFLite output says, as float32."""
    scale, zero = quantisation(tensor)
    return (scores.astype(np.float32) - zero) * np.float32(scale) if scale else scores


def quantisation(tensor):
    """Scale and zero point of a TFLite tensor; 0 and 0 where it has none."""
    found = tensor["quantization_parameters"]
    return (float(found["scales"][0]), int(found["zero_points"][0])) if len(found["scales"]) else (0, 0)


def same(path, file):
    """Whether a file is, byte for byte, the one that was exported."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]


def check(predict, take, folder, manifest):
    """Replays the golden inputs and compares with what Keras said about them."""
    if "chat" in manifest:
        from chats import check

        return check(predict, folder, manifest)
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        expected, kind = golden["scores"], "text" if "text" in manifest else "image"
        examples = [golden[f"{kind}_{i}"] for i in range(len(expected))]
    found = np.concatenate([predict(take(example)) for example in examples])
    error = np.abs(found - expected).max()
    allowed = manifest["tolerance"]["golden_error"]
    passed = bool(error <= allowed)  # NaN compares false with everything, so it fails
    agree = f", {(found.argmax(-1) == expected.argmax(-1)).sum()} labels agree" if manifest["labels"] else ""
    print(
        f"{'ok' if passed else 'FAILED'}: {len(expected)} golden {kind}s, largest error {error:.3g} "
        f"({allowed:.3g} allowed){agree}"
    )
    return passed


def stream(predict, take, out, load_seconds):
    """Scores and seconds for each array on stdin: 8 bytes that say how long its .npy is, then the .npy itself.

    An array is an image uint8 [H, W, 3], a batch [B, H, W, 3], an encoded file [n], texts as `taking` has them, or a
    conversation, turns of role and content, str [T, 2].
    """
    scores, seconds = [], []
    while size := sys.stdin.buffer.read(8):
        file = io.BytesIO(sys.stdin.buffer.read(int.from_bytes(size, "little")))
        array = np.load(file, allow_pickle=False)
        batch = take(array)
        start = time.perf_counter()
        scores.append(predict(batch))
        took = time.perf_counter() - start
        seconds.append(getattr(predict, "seconds", took))  # a page says itself, without the way there and back
        out.touch()  # a sign of life
    np.savez(
        out,
        scores=np.concatenate(scores),
        seconds=np.array(seconds),
        load_seconds=load_seconds,
        peak_mb=getattr(predict, "peak_mb", peak_mb()),
        modules=np.array(sorted(sys.modules)),
    )


def peak_mb():
    """The most memory this process has held, in MB; NaN where the system does not say."""
    status = Path("/proc/self/status")
    # Linux's getrusage counts what the parent held when it started this process.
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fit(image, manifest):
    """uint8 [H, W, 3] -> what the model takes: the same where it resizes by itself, else the size it was trained at."""
    settings = manifest["image"]
    if settings["resize"] == "inside":
        return image
    height, width = settings["height"], settings["width"]
    if settings["crop_to_aspect_ratio"]:
        image = cropped(image, height, width)
    if settings["pad_to_aspect_ratio"]:
        image = padded(image, height, width)
    return resized(resized(image, height, 0, settings), width, 1, settings).round().clip(0, 255).astype(np.uint8)


def cropped(image, height, width):
    """The largest part of the shape height : width, from the middle."""
    h, w = image.shape[:2]
    tall, wide = max(min(h, w * height // width), 1), max(min(w, h * width // height), 1)
    top, left = (h - tall) // 2, (w - wide) // 2
    return image[top : top + tall, left : left + wide]


def padded(image, height, width):
    """Black borders until it has the shape height : width."""
    h, w = image.shape[:2]
    tall, wide = max(h, w * height // width), max(w, h * width // height)
    top, left = (tall - h) // 2, (wide - w) // 2
    return np.pad(image, ((top, top), (left, left), (0, 0)))  # as Keras does; an odd row is left out


def resized(image, size, axis, settings):
    """One axis brought to `size` pixels as TensorFlow does: half-pixel centres, no antialiasing."""
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
    else:  # bicubic, as Keys 1981 with a = -1/2; what lies outside has no weight
        taps = [(first + k, keys(abs(part - k)) * ((first + k >= 0) & (first + k < length))) for k in range(-1, 3)]
        total = sum(weight for _, weight in taps)
        taps = [(at, weight / total) for at, weight in taps]
    shape = [-1 if i == axis else 1 for i in range(3)]
    parts = [image.take(at.clip(0, length - 1), axis) * weight.reshape(shape) for at, weight in taps]
    return sum(parts[1:], parts[0]).astype(np.float32)


def keys(x):
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0)).astype(np.float32)


def read_image(path):
    """uint8 [H, W, 3], as in training: upright by its EXIF orientation, on white where it is transparent."""
    if path.endswith(".npy"):
        return np.load(path, allow_pickle=False)
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
