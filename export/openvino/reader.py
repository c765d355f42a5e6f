"""Runs an artifact of any format with OpenVINO: pip install openvino numpy."""

import sys
from pathlib import Path

import numpy as np
import openvino


def load(folder, manifest, options):
    model = openvino.Core().read_model(folder / manifest["model"])
    # Left to itself, OpenVINO computes float32 models in bfloat16 where the processor can: errors of 1e-2.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads or 0}
    compiled = openvino.compile_model(model, "CPU", settings)
    takes = compiled.input(0)
    one_by_one = takes.partial_shape[0] == 1

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        batches = [image[None] for image in images] if one_by_one else [images]
        found = [compiled(batch.astype(takes.element_type.to_dtype()))[0] for batch in batches]
        return np.concatenate(found).astype(np.float32)

    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main, threads

    main(load, threads)
