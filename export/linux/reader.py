"""Runs a .tflite artifact with LiteRT: pip install ai-edge-litert numpy."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def load(folder, manifest, options):
    from classify import decoded, encoded, tensors

    kernels = OpResolverType.BUILTIN_REF if options.kernels == "reference" else OpResolverType.AUTO
    interpreter = Interpreter(
        str(folder / manifest["model"]), num_threads=options.threads, experimental_op_resolver_type=kernels
    )
    if "chat" in manifest:
        from chats import speaker

        return speaker(stepping(interpreter), folder, manifest, options)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    takes, (scores,) = signature.get_input_details(), signature.get_output_details().values()
    shapes = {name: tuple(tensor["shape"]) for name, tensor in takes.items()}

    def predict(batch):  # uint8 [B, H, W, 3], or int32 [B, L] by name -> float32 [B, num_classes]
        named = tensors(batch)
        found = []
        for i in range(len(next(iter(named.values())))):
            one = {name: value[i : i + 1] for name, value in named.items()}
            if any(shapes[name] != value.shape for name, value in one.items()):
                for name, value in one.items():
                    interpreter.resize_tensor_input(takes[name]["index"], value.shape, strict=True)
                    shapes[name] = value.shape
                interpreter.allocate_tensors()
            for name, value in one.items():
                interpreter.set_tensor(takes[name]["index"], encoded(value, takes[name]))
            interpreter.invoke()
            found.append(decoded(interpreter.get_tensor(scores["index"])[0], scores))
        return np.stack(found)

    return predict


def stepping(interpreter):
    """A language model's two signatures as one function."""
    prefill, decode = (interpreter.get_signature_runner(name) for name in ("prefill", "decode"))

    def step(tokens, position, kv_cache):
        said = (decode if tokens.shape[1] == 1 else prefill)(tokens=tokens, position=position, kv_cache=kv_cache)
        return said["logits"], said["kv_cache_next"]

    return step


def arguments(parser):
    parser.add_argument("--kernels", choices=("default", "reference"), default="default", help="plain C++ or optimised")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, classify.py is beside this file
    from classify import answering, main, threads

    main(load, threads, arguments, answering)
