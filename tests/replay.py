"""Runs a model on named inputs where there is no Keras: python replay.py RUNTIME MODEL EXAMPLES OUTPUTS NUMBER…

EXAMPLES is an .npz with "000/token_ids" and so on, batch included; OUTPUTS becomes one with "000/scores".
"""

import sys

import numpy as np


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    run = interpreter.get_signature_runner()
    return lambda **inputs: run(**inputs)


def tensorflow(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # kept alive: the signature does not hold its variables
    run = loaded.signatures["serving_default"]
    return lambda loaded=loaded, **inputs: {key: value.numpy() for key, value in run(**_tensors(tf, inputs)).items()}


def _tensors(tf, inputs):
    return {key: tf.constant(value) for key, value in inputs.items()}


def onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


def openvino(path):
    import openvino

    # Its default on this CPU is less than float32.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda **inputs: {name: value for one, value in model(inputs).items() for name in one.names}


def main(runtime, model, examples, outputs, *numbers):
    run = globals()[runtime](model)
    found = {}
    with np.load(examples, allow_pickle=False) as stored:
        for number in numbers:
            inputs = {key.partition("/")[2]: stored[key] for key in stored.files if key.startswith(f"{number}/")}
            found |= {f"{number}/{key}": np.array(value) for key, value in run(**inputs).items()}
    if {"keras_hub", "kerastune"} & sys.modules.keys():
        raise SystemExit("KerasHub or kerastune was imported, so this proves nothing")
    np.savez(outputs, allow_pickle=False, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
