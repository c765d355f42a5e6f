"""Runs a .tflite artifact with TensorFlow Lite Micro, as a microcontroller does: pip install --pre tflite-micro."""

import sys
from pathlib import Path

import numpy as np
from tflite_micro import runtime

ARENA = 64 * 2**20  # bytes of working memory; a device has less, and needs less


def load(folder, manifest, options):
    from classify import decoded, encoded

    interpreter = runtime.Interpreter.from_file(str(folder / manifest["model"]), arena_size=options.arena)
    image, scores = interpreter.get_input_details(0), interpreter.get_output_details(0)

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        found = []
        for one in images:
            interpreter.set_input(encoded(one[None], image), 0)
            interpreter.invoke()
            found.append(decoded(interpreter.get_output(0)[0], scores))
        return np.stack(found)

    return predict


def arguments(parser):
    parser.add_argument("--arena", type=int, default=ARENA, metavar="BYTES", help="working memory, as on the device")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main

    main(load, arguments)
