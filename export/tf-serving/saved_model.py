"""Runs a SavedModel artifact with only TensorFlow, as TF Serving does: pip install tensorflow numpy."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf


def load(folder, manifest, options):
    from artifact import FAILED
    from operators import beyond

    path = folder / (manifest["reading"]["raw"] if options.raw else manifest["model"])
    if found := beyond(path):
        print(f"FAILED: {path.relative_to(folder)} could do more than compute: {', '.join(found)}", file=sys.stderr)
        sys.exit(FAILED)
    if options.raw:
        import tensorflow_text  # noqa: F401  operators that tokenise texts

    model = tf.saved_model.load(str(path))
    signatures = {frozenset(one.structured_input_signature[1]): one for one in model.signatures.values()}

    def run(inputs):  # arrays [B, …] by name, those of one signature -> arrays [B, …] by name
        found = signatures[frozenset(inputs)](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    run.model = model  # its signatures do not keep it alive
    run.takes_strings = options.raw
    return run


def arguments(parser):
    parser.add_argument("--raw", action="store_true", help="take raw texts; needs tensorflow_text")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main

    main(load, arguments, answering)
