"""Runs an exported model without kerastune, with numpy, one runtime, and the packages for its kind of example.

Each target's reader.py defines `load(folder, manifest, options) -> run`. `run(inputs)` is the model: it maps arrays by
input name to arrays by output name, one row per example. This file is the code that readers share. Both are copied into
every artifact, so that the folder runs anywhere.

    python reader.py ARTIFACT photo.jpg …       predicts images
    python reader.py ARTIFACT clip.wav …        predicts sounds
    python reader.py ARTIFACT "a text" …        predicts texts; for pairs, two texts each
    python reader.py ARTIFACT --check           replays golden.npz: does this device compute what was trained?
"""

import argparse
import hashlib
import io
import json
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np

EXAMPLES = {"image": "images", "text": "texts", "conversation": "chats", "sound": "audio"}
"""The module for each kind of example. `asked` finds the named examples, and `taking` turns them into inputs. Optional:
`predicting` if a prediction is more than one call, `restored` if outputs depend on what `taking` did, `MADE` for the
outputs that it makes of the file's, described as in a manifest, `replayed` if the proof is more than outputs, and
`Refused` for examples that the model cannot take."""

FAILED = 3
"""Exit code for an artifact that has changed, does not compute what was trained, or could do more than compute."""

MINOR = ("detail", "cells", "probabilities")
"""Roles of outputs that are compared for the golden examples alone: a validation split may have gigabytes of them."""

REFUSED = 5
"""Exit code for an example or an option that the model cannot take, whatever the runtime."""


def main(load, *arguments):
    """Runs a reader.

    Each of `arguments` adds its own options to a parser; `load(folder, manifest, options)` gets them.
    """
    try:
        run_reader(load, *arguments)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = {"PIL": "pillow"}.get(module, module)
        print(f"FAILED: the package {package} is missing: pip install {package}", file=sys.stderr)
        sys.exit(1)


def run_reader(load, *arguments):
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description="Runs an exported model.")
    parser.add_argument("artifact", type=Path, help="the artifact's folder (it holds manifest.json)")
    parser.add_argument("examples", nargs="*", help="image or sound files, .npy files of their values, or texts")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="labels to print for each example")
    parser.add_argument("--check", action="store_true", help="replay golden.npz; exit code 3 if it differs")
    parser.add_argument("--stream", type=Path, metavar="OUT.npz", help="answer arrays from stdin, for kerastune verify")
    parser.add_argument("--details", type=int, metavar="N", help="examples to store details of; default: all")
    for add in arguments:
        add(parser)
    options = parser.parse_intermixed_args()  # options may come before the images
    folder = options.artifact
    if not (folder / "manifest.json").is_file():
        parser.error(f"{folder} is not an artifact: it has no manifest.json")
    if not (options.examples or options.check or options.stream):
        parser.error("give examples or --check")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    changed = [name for name, file in manifest["files"].items() if not same(folder / name, file)]
    if manifest["sha256"] != digest(manifest):
        changed.append("manifest.json")
    if changed:
        print(f"FAILED: changed since the export: {', '.join(changed)}", file=sys.stderr)
        sys.exit(FAILED)
    examples = import_module(EXAMPLES[manifest["modality"]])
    refused = getattr(examples, "Refused", ())
    predict = load(folder, manifest, options)
    if hasattr(examples, "predicting"):
        try:
            predict = examples.predicting(predict, folder, manifest, options)
        except refused as error:
            print(error, file=sys.stderr)
            sys.exit(REFUSED)
    take = examples.taking(predict, folder, manifest["reading"])
    restore = getattr(examples, "restored", lambda outputs, example, manifest: outputs)
    if options.stream:
        load_seconds = time.perf_counter() - started
        stream(predict, take, restore, refused, manifest, options.stream, load_seconds, options.details)
    if options.check and not check(predict, take, restore, examples, folder, manifest):
        sys.exit(FAILED)
    if options.examples:
        asked = examples.asked(options.examples, manifest["reading"])
        show(predict, take, restore, asked, refused, folder, manifest, options.top)


def same(path, file):
    """Returns whether a file is, byte for byte, the exported one."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]


def digest(manifest):
    """Returns the hash of a manifest's content, without its stored hash."""
    said = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def show(predict, take, restore, asked, refused, folder, manifest, top):
    """Prints the model's output for each example, and a comparison of all of them."""
    from answers import ANSWERS, PLAIN, decided

    kind, said, words = ANSWERS.get(manifest["learnt"], PLAIN), [], None
    if "catalogue" in manifest["extras"]:
        words = import_module("catalogue").answering(folder, manifest)
    for name, example in asked:
        try:
            (outputs,) = by_example(restore(predict(take(example)), example, manifest))
        except refused as error:
            print(f"{name}: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        said.append((name, outputs))
        print(name)
        for line in words(outputs, top) if words else kind.lines(outputs, manifest["labels"], top):
            print(f"  {line}")
        if manifest.get("decision"):
            print(f"  {decided(outputs, manifest['labels'], manifest['decision'])[1]}")
    for line in kind.together(said):
        print(f"  {line}")


def check(predict, take, restore, examples, folder, manifest):
    """Replays the golden examples and compares the outputs with Keras's."""
    from answers import ANSWERS, PLAIN

    kind, allowed = ANSWERS.get(manifest["learnt"], PLAIN), manifest["tolerance"]["golden_error"]
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        stored = {name: golden[name] for name in golden.files}
    inputs = [stored[name] for name in sorted(stored) if name.startswith("example_")]
    expected = rows_of(stored, "expected/")
    found = {}
    for example in inputs:
        for name, rows in restore(predict(take(example)), example, manifest).items():
            found.setdefault(name, []).extend(rows)
    if shapes(found, ragged(manifest)) != shapes(expected, ragged(manifest)):
        print(f"FAILED: the outputs {', '.join(found)} do not have Keras's names or shapes, {', '.join(expected)}")
        return False
    pairs = list(zip(by_example(found), by_example(expected), strict=True))
    error = np.max([kind.difference(ours, theirs) for ours, theirs in pairs])
    passed = bool(error <= allowed)  # NaN compares false, so it fails
    words = (
        f"{len(inputs)} golden {manifest['modality']}s, largest error {error:.3g}{kind.unit} ({allowed:.3g} allowed)"
    )
    if kind.alike:
        words += f", {sum(kind.alike(ours, theirs) for ours, theirs in pairs)} labels agree"
    if hasattr(examples, "replayed"):
        more, is_right = examples.replayed(predict, inputs, stored)
        words, passed = words + more, passed and (is_right or manifest["quantize"] != "none")
    print(f"{'ok' if passed else 'FAILED'}: {words}")
    return passed


def stream(predict, take, restore, refused, manifest, out, load_seconds, details):
    """Writes outputs and seconds for each array on stdin, which is 8 bytes with the length of an .npy, then the .npy.

    An array is an image uint8 [H, W, 3], a batch [B, H, W, 3], an encoded file [n], texts str [1 or 2] or [B, 1 or 2],
    a conversation, turns of role and content, str [T, 2], or a sound, float32 [n]. Writes "outputs/NAME", one row per
    example, and "outputs/NAME/offsets" for outputs whose number of rows varies by example; for maps, also
    "outputs/NAME/shapes". Outputs with a `MINOR` role are stored for the first `details` examples; None: for all.
    """
    found, seconds = {}, []
    minor, done = {one["name"] for one in described(manifest) if one.get("role") in MINOR}, 0
    while size := sys.stdin.buffer.read(8):
        file = io.BytesIO(sys.stdin.buffer.read(int.from_bytes(size, "little")))
        example = np.load(file, allow_pickle=False)
        try:
            inputs = take(example)
            start = time.perf_counter()
            outputs = predict(inputs)
        except refused as error:
            print(f"example {len(seconds) + 1}: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        took = time.perf_counter() - start
        seconds.append(getattr(predict, "seconds", took))  # a page measures this itself, without the round trip
        for name, rows in restore(outputs, example, manifest).items():
            if name not in minor or details is None or done < details:
                found.setdefault(name, []).extend(rows)
        done += len(rows)
        out.touch()  # a sign of life
    np.savez(
        out,
        allow_pickle=False,
        **arrays_of(found, manifest),
        seconds=np.array(seconds),
        load_seconds=load_seconds,
        peak_mb=getattr(predict, "peak_mb", peak_mb()),
        modules=np.array(sorted(sys.modules)),
    )


# --- arrays by name ----------------------------------------------------------------------------------------


def by_example(rows):
    """Turns lists of rows by name into a row by name for every example."""
    return [dict(zip(rows, some, strict=True)) for some in zip(*rows.values(), strict=True)]


def shapes(rows, free):
    """Returns the shapes of rows by name; those of `free` outputs without the number of rows, which may differ."""
    return {name: [row.shape[name in free :] for row in some] for name, some in rows.items()}


def rows_of(stored, prefix):
    """Turns arrays stored under a prefix into lists of rows by name."""
    found = {}
    for key, values in stored.items():
        if key.startswith(prefix) and not key.endswith(("/offsets", "/shapes")):
            offsets, shapes = stored.get(f"{key}/offsets"), stored.get(f"{key}/shapes")
            parts = values if offsets is None else np.split(values, offsets[1:-1])
            if shapes is not None:
                parts = [part.reshape(*shape, *part.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]
            found[key.removeprefix(prefix)] = list(parts)
    return found


def arrays_of(rows, manifest):
    """Turns lists of rows by name into arrays to store; concatenates outputs with a varying number of rows, and the
    pixels of maps."""
    found = {}
    for name, some in rows.items():
        if name in maps(manifest):
            found[f"outputs/{name}/shapes"] = np.array([one.shape[:2] for one in some])
            found[f"outputs/{name}/offsets"] = np.cumsum([0, *found[f"outputs/{name}/shapes"].prod(axis=1)])
            found[f"outputs/{name}"] = np.concatenate([np.reshape(one, (-1, *one.shape[2:])) for one in some])
        elif name in ragged(manifest):
            found[f"outputs/{name}/offsets"] = np.cumsum([0, *map(len, some)])
            found[f"outputs/{name}"] = np.concatenate(some)
        else:
            found[f"outputs/{name}"] = np.stack(some)
    return found


def described(manifest):
    """Returns the descriptions of all outputs: the file's, and those that the module for its kind of example makes."""
    made = getattr(import_module(EXAMPLES[manifest["modality"]]), "MADE", ())
    return {one["name"]: one for one in (*made, *manifest["outputs"])}.values()


def ragged(manifest):
    """Returns the names of outputs whose number of rows varies by example."""
    return {one["name"] for one in described(manifest) if one["shape"][1:2] == [None]} - maps(manifest)


def maps(manifest):
    """Returns the names of outputs that have values of each pixel, in as many rows and columns as a picture has."""
    return {one["name"] for one in described(manifest) if one.get("role") in ("map", "probabilities")}


def names(manifest):
    """Returns the names of the outputs in the file's order, which is alphabetical."""
    return sorted(one["name"] for one in manifest["outputs"])


# --- integers ----------------------------------------------------------------------------------------------


def encoded(values, tensor):
    """Converts values for a TFLite input: unchanged, or to integers with a scale and a zero point."""
    scale, zero = quantisation(tensor)
    if not scale:
        return values.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def decoded(values, tensor):
    """Converts a TFLite output; to float32 if it has a scale and a zero point."""
    scale, zero = quantisation(tensor)
    return (values.astype(np.float32) - zero) * np.float32(scale) if scale else values


def quantisation(tensor):
    """Returns scale and zero point of a TFLite tensor, or 0 and 0."""
    found = tensor["quantization_parameters"]
    return (float(found["scales"][0]), int(found["zero_points"][0])) if len(found["scales"]) else (0, 0)


# --- options and measurements ------------------------------------------------------------------------------


def threads(parser):
    parser.add_argument("--threads", type=int, help="threads per inference")


def answering(parser):
    """Adds options for answers of a language model, and for transcripts."""
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="maximum tokens of an answer")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: greedy; above 0: sample")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="sampling seed")
    parser.add_argument("--beams", type=int, metavar="N", help="drafts of a transcript to pursue; default: as trained")
    parser.add_argument("--timestamps", action="store_true", help="print when each segment of speech is said")


def peak_mb():
    """Returns the peak memory of this process in MB, or NaN."""
    status = Path("/proc/self/status")
    # On Linux, getrusage includes the parent's memory at the start of this process.
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
