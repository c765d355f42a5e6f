"""Runs a SavedModel artifact with TensorFlow alone, as TF Serving does: pip install tensorflow numpy."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf


def load(folder, manifest, options):
    from classify import tensors

    if options.raw:
        import tensorflow_text  # noqa: F401  the operators that cut texts into tokens

    model = tf.saved_model.load(str(folder / (manifest["text"]["raw"] if options.raw else manifest["model"])))
    signatures = model.signatures

    def answers(signature, inputs):
        found = signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    if "chat" in manifest:
        from chats import speaker, speaking_strings

        def step(tokens, position, kv_cache):
            found = answers("serving_default", {"tokens": tokens, "position": position, "kv_cache": kv_cache})
            return found["logits"], found["kv_cache_next"]

        settings = manifest["chat"]
        speak = (
            speaking_strings(answers, settings, options) if options.raw else speaker(step, folder, manifest, options)
        )
        speak.model = model  # its signatures do not keep it alive
        return speak

    def said(signature, inputs):  # its only output
        (found,) = answers(signature, inputs).values()
        return found

    def predict(batch):  # as the model takes it, or one encoded file's bytes uint8 [n] -> float32 [B, num_classes]
        if options.raw:  # texts, a list of one or two each
            return said("serving_default", dict(zip(("texts", "pairs"), zip(*batch, strict=True), strict=False)))
        if not isinstance(batch, dict) and batch.ndim == 1:
            return said("serve_bytes", {"image_bytes": [batch.tobytes()]})
        return said("serving_default", tensors(batch))

    predict.model = model  # its signatures do not keep it alive
    predict.raw = options.raw
    return predict


def arguments(parser):
    parser.add_argument("--raw", action="store_true", help="raw texts in; needs tensorflow_text")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import answering, main

    main(load, arguments, answering)
