"""Runs a .tflite artifact with LiteRT: pip install ai-edge-litert numpy."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(folder, manifest):
    interpreter = Interpreter(str(folder / manifest["model"]))
    image, scores = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        found = []
        for one in images:
            if tuple(interpreter.get_input_details()[0]["shape"]) != (1, *one.shape):
                interpreter.resize_tensor_input(image, (1, *one.shape), strict=True)
                interpreter.allocate_tensors()
            interpreter.set_tensor(image, one[None])
            interpreter.invoke()
            found.append(interpreter.get_tensor(scores)[0])
        return np.stack(found)

    interpreter.allocate_tensors()
    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main

    main(load)
