"""Runs a .tflite artifact with TensorFlow Lite Micro, as a microcontroller does: pip install --pre tflite-micro."""

import sys
from pathlib import Path

import numpy as np
from tflite_micro import runtime


def load(folder, manifest):
    interpreter = runtime.Interpreter.from_file(str(folder / manifest["model"]), arena_size=arena(folder, manifest))
    image, scores = interpreter.get_input_details(0), interpreter.get_output_details(0)

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        found = []
        for one in images:
            interpreter.set_input(encoded(one[None], image), 0)
            interpreter.invoke()
            found.append(decoded(interpreter.get_output(0)[0], scores))
        return np.stack(found)

    return predict


def arena(folder, manifest):
    """Bytes of working memory: what was measured at export, and room for another machine's alignment."""
    return int(manifest.get("arena_bytes", 64 * 2**20) * 1.05) + 4096


def encoded(pixels, tensor):
    """Pixels 0..255 as the model takes them: float32, uint8, or int8 with a scale and a zero point."""
    scales, zeros = (tensor["quantization_parameters"][name] for name in ("scales", "zero_points"))
    if not len(scales):
        return pixels.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(pixels / scales[0]) + zeros[0], limits.min, limits.max).astype(tensor["dtype"])


def decoded(scores, tensor):
    scales, zeros = (tensor["quantization_parameters"][name] for name in ("scales", "zero_points"))
    return (scores.astype(np.float32) - zeros[0]) * np.float32(scales[0]) if len(scales) else scores


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main

    main(load)
