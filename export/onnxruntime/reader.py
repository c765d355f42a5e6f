"""Runs an .onnx artifact with ONNX Runtime: pip install onnxruntime numpy."""

import sys
from pathlib import Path

import onnxruntime


def load(folder, manifest, options):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or 0
    session = onnxruntime.InferenceSession(
        str(folder / manifest["model"]), settings, providers=["CPUExecutionProvider"]
    )

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        return session.run(["scores"], {"images": images.astype(manifest["inputs"][0]["dtype"])})[0]

    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main, threads

    main(load, threads)
