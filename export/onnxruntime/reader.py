"""Runs an .onnx artifact with ONNX Runtime: pip install onnxruntime numpy."""

import sys
from pathlib import Path

import onnxruntime


def load(folder, manifest, options):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or 0
    others = [folder / f"{name}.onnx" for name in manifest["signatures"][1:]]  # a file holds one signature
    sessions = {}
    for path in (folder / manifest["model"], *others):
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        sessions[frozenset(one.name for one in session.get_inputs())] = session
    dtypes = {one["name"]: one["dtype"] for one in manifest["inputs"]}

    def run(inputs):  # arrays [B, …] by name, those of one signature -> arrays [B, …] by name
        session = sessions[frozenset(inputs)]
        gives = [one.name for one in session.get_outputs()]
        found = session.run(gives, {name: value.astype(dtypes[name], copy=False) for name, value in inputs.items()})
        return dict(zip(gives, found, strict=True))

    return run


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, answering)
