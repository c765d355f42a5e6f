"""Runs an .onnx artifact with ONNX Runtime: pip install onnxruntime numpy."""

import sys
from pathlib import Path

import onnxruntime


def load(folder, manifest):
    session = onnxruntime.InferenceSession(str(folder / manifest["model"]), providers=["CPUExecutionProvider"])

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        return session.run(["scores"], {"images": images})[0]

    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main

    main(load)
