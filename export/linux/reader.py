"""Runs a .tflite artifact with LiteRT: pip install ai-edge-litert numpy."""

import sys
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter, OpResolverType


def load(folder, manifest, options):
    from artifact import decoded, encoded

    kernels = OpResolverType.BUILTIN_REF if options.kernels == "reference" else OpResolverType.AUTO
    interpreter = Interpreter(
        str(folder / manifest["model"]), num_threads=options.threads, experimental_op_resolver_type=kernels
    )
    if len(interpreter.get_signature_list()) > 1:
        return choosing(interpreter)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    takes, gives = signature.get_input_details(), signature.get_output_details()
    shapes = {name: tuple(tensor["shape"]) for name, tensor in takes.items()}

    def run(inputs):  # arrays [B, …] by name -> arrays [B, …] by name
        found = {name: [] for name in gives}
        for i in range(len(next(iter(inputs.values())))):
            one = {name: value[i : i + 1] for name, value in inputs.items()}
            if any(shapes[name] != value.shape for name, value in one.items()):
                for name, value in one.items():
                    interpreter.resize_tensor_input(takes[name]["index"], value.shape, strict=True)
                    shapes[name] = value.shape
                interpreter.allocate_tensors()
            for name, value in one.items():
                interpreter.set_tensor(takes[name]["index"], encoded(value, takes[name]))
            interpreter.invoke()
            for name, tensor in gives.items():
                found[name].append(decoded(interpreter.get_tensor(tensor["index"])[0], tensor))
        return found

    return run


def choosing(interpreter):
    """Joins several signatures into one function, which calls the signature that takes the shapes of its inputs."""
    runners = [interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()]

    def run(inputs):
        for runner in runners:
            takes = runner.get_input_details()
            if takes.keys() == inputs.keys() and all(
                tuple(takes[name]["shape"]) == value.shape for name, value in inputs.items()
            ):
                return runner(**inputs)
        raise ValueError(f"no signature takes { ({name: value.shape for name, value in inputs.items()}) }")

    return run


def arguments(parser):
    parser.add_argument("--kernels", choices=("default", "reference"), default="default", help="plain C++ or optimised")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main, threads

    main(load, threads, arguments, answering)
