"""Runs an artifact of any format with OpenVINO: pip install openvino numpy."""

import sys
from pathlib import Path

import numpy as np
import openvino


def load(folder, manifest, options):
    from artifact import names

    model = openvino.Core().read_model(folder / manifest["model"])
    # By default, OpenVINO computes float32 models in bfloat16 if the processor supports it: errors of 1e-2.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads or 0}
    compiled = openvino.compile_model(model, "CPU", settings)
    # In OpenVINO, inputs of SavedModel and .tflite files can have longer names, and outputs do not have our names.
    takes = {
        one["name"]: next(port for port in compiled.inputs if any(one["name"] in name for name in port.names))
        for one in manifest["inputs"]
    }
    gives = dict(zip(names(manifest), compiled.outputs, strict=True))
    one_by_one = any(tensor.partial_shape[0] == 1 for tensor in takes.values())

    def run(inputs):  # arrays [B, …] by name -> arrays [B, …] by name
        named = {name: value.astype(takes[name].element_type.to_dtype(), copy=False) for name, value in inputs.items()}
        size = len(next(iter(named.values())))
        step = 1 if one_by_one else size
        parts = [{takes[name]: value[i : i + step] for name, value in named.items()} for i in range(0, size, step)]
        said = [compiled(part) for part in parts]
        if len(said) == 1:
            return {name: said[0][port] for name, port in gives.items()}
        return {name: np.concatenate([one[port] for one in said]) for name, port in gives.items()}

    return run


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, answering)
