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
    dtypes = {one["name"]: one["dtype"] for one in manifest["inputs"]}
    gives = [one["name"] for one in manifest["outputs"]]

    def run(inputs):  # arrays [B, …] by name -> arrays [B, …] by name
        found = session.run(gives, {name: value.astype(dtypes[name], copy=False) for name, value in inputs.items()})
        return dict(zip(gives, found, strict=True))

    return run


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, answering)
