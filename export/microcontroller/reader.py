"""Runs a .tflite artifact with TensorFlow Lite Micro, as a microcontroller does: pip install --pre tflite-micro."""

import sys
from pathlib import Path

from tflite_micro import runtime

ARENA = 64 * 2**20  # bytes of working memory; a device has and needs less


def load(folder, manifest, options):
    from artifact import decoded, encoded, names

    interpreter = runtime.Interpreter.from_file(str(folder / manifest["model"]), arena_size=options.arena)
    ((taken, image),) = ((one["name"], interpreter.get_input_details(0)) for one in manifest["inputs"])
    gives = {name: (i, interpreter.get_output_details(i)) for i, name in enumerate(names(manifest))}

    def run(inputs):  # images: uint8 [B, H, W, 3] -> outputs [B, …] by name
        found = {name: [] for name in gives}
        for one in inputs[taken]:
            interpreter.set_input(encoded(one[None], image), 0)
            interpreter.invoke()
            for name, (i, tensor) in gives.items():
                found[name].append(decoded(interpreter.get_output(i)[0], tensor))
        return found

    return run


def arguments(parser):
    parser.add_argument("--arena", type=int, default=ARENA, metavar="BYTES", help="working memory, as on the device")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import main

    main(load, arguments)
