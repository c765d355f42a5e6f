"""Runs a .tflite artifact with LiteRT: pip install ai-edge-litert numpy."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def load(folder, manifest, options):
    from classify import decoded, encoded

    kernels = OpResolverType.BUILTIN_REF if options.kernels == "reference" else OpResolverType.AUTO
    interpreter = Interpreter(
        str(folder / manifest["model"]), num_threads=options.threads, experimental_op_resolver_type=kernels
    )
    image, scores = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def predict(images):  # uint8 [B, H, W, 3] -> float32 [B, num_classes]
        found = []
        for one in images:
            if tuple(interpreter.get_input_details()[0]["shape"]) != (1, *one.shape):
                interpreter.resize_tensor_input(image["index"], (1, *one.shape), strict=True)
                interpreter.allocate_tensors()
            interpreter.set_tensor(image["index"], encoded(one[None], image))
            interpreter.invoke()
            found.append(decoded(interpreter.get_tensor(scores["index"])[0], scores))
        return np.stack(found)

    interpreter.allocate_tensors()
    return predict


def arguments(parser):
    parser.add_argument("--kernels", choices=("default", "reference"), default="default", help="plain C++ or optimised")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import main, threads

    main(load, threads, arguments)
