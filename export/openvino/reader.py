"""Runs an artifact of any format with OpenVINO: pip install openvino numpy."""

import sys
from pathlib import Path

import numpy as np
import openvino


def load(folder, manifest, options):
    from classify import tensors

    model = openvino.Core().read_model(folder / manifest["model"])
    # Left to itself, OpenVINO computes float32 models in bfloat16 where the processor can: errors of 1e-2.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads or 0}
    compiled = openvino.compile_model(model, "CPU", settings)
    # A SavedModel's inputs have longer names there, and a .tflite file's may have.
    takes = {
        one["name"]: next(port for port in compiled.inputs if any(one["name"] in name for name in port.names))
        for one in manifest["inputs"]
    }
    if "chat" in manifest:
        from chats import speaker

        gives = [
            next(port for port in compiled.outputs if any(name in one for one in port.names))
            for name in ("logits", "kv_cache_next")
        ]

        def step(tokens, position, kv_cache):
            said = compiled({takes["tokens"]: tokens, takes["position"]: position, takes["kv_cache"]: kv_cache})
            return [said[port] for port in gives]

        return speaker(step, folder, manifest, options)

    one_by_one = any(tensor.partial_shape[0] == 1 for tensor in takes.values())

    def predict(batch):  # uint8 [B, H, W, 3], or int32 [B, L] by name -> float32 [B, num_classes]
        named = {name: value.astype(takes[name].element_type.to_dtype()) for name, value in tensors(batch).items()}
        size = len(next(iter(named.values())))
        step = 1 if one_by_one else size
        parts = [{takes[name]: value[i : i + step] for name, value in named.items()} for i in range(0, size, step)]
        return np.concatenate([compiled(part)[0] for part in parts]).astype(np.float32)

    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import answering, main, threads

    main(load, threads, answering)
