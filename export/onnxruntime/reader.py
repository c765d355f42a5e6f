"""Runs an .onnx artifact with ONNX Runtime: pip install onnxruntime numpy."""

import sys
from pathlib import Path

import onnxruntime


def load(folder, manifest, options):
    from classify import tensors

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or 0
    session = onnxruntime.InferenceSession(
        str(folder / manifest["model"]), settings, providers=["CPUExecutionProvider"]
    )
    if "chat" in manifest:
        from chats import speaker

        def step(tokens, position, kv_cache):
            takes = {"tokens": tokens, "position": position, "kv_cache": kv_cache}
            return session.run(["logits", "kv_cache_next"], takes)

        return speaker(step, folder, manifest, options)

    dtypes = {one["name"]: one["dtype"] for one in manifest["inputs"]}

    def predict(batch):  # uint8 [B, H, W, 3], or int32 [B, L] by name -> float32 [B, num_classes], or vectors
        return session.run(None, {name: value.astype(dtypes[name]) for name, value in tensors(batch).items()})[0]

    return predict


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import answering, main, threads

    main(load, threads, answering)
