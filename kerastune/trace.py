"""One live Keras model, traced into graphs: the waist that every format starts from. Runs in a process of its own.

`model.export` is not used: it traces with `training=None`, and a preprocessing layer's default then switches
every later layer to training mode (Keras 3.15: SegFormer off by 3.8). Everything here says `training=False`.

    WORK/images.npz            in: golden images
    WORK/saved_model/          out: SavedModel with all signatures
    WORK/SIGNATURE.pb          out: frozen GraphDef of each tensor signature
    WORK/SIGNATURE.json        out: its input's and its output's tensor names -> the names users see
    WORK/reference.npy         out: what Keras itself says about the golden images
"""

import json
import sys
from pathlib import Path

import numpy as np

from kerastune import run


def main(run_folder: str, work_folder: str) -> None:
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from kerastune.tasks import TASKS

    work = Path(work_folder)
    of = run.load(run_folder)
    task_kind = TASKS[of.recipe.task]
    task = task_kind.load(str(of.folder))
    with np.load(work / "images.npz", allow_pickle=False) as stored:
        images = [stored[name] for name in stored.files]
    np.save(work / "reference.npy", task_kind.reference(task, images))
    signatures = task_kind.signatures(task)
    # Keras wraps some convolutions in their own XLA-compiled functions, which no converter can read; run
    # eagerly they are inlined. The flag is global and must cover write_out too.
    tf.config.run_functions_eagerly(True)
    # No archive.track(task): endpoints track their variables by themselves, and Keras 3.15 would store them twice.
    archive = keras.export.ExportArchive()
    for name, (function, spec) in signatures.items():
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(work / "saved_model"), verbose=False)
    for name, (function, spec) in signatures.items():
        if spec.dtype != tf.string:
            traced = tf.function(function).get_concrete_function(spec)
            frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False, aggressive_inlining=True)
            (work / f"{name}.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
            names = {
                frozen.inputs[0].name: spec.name,
                frozen.outputs[0].name: next(iter(traced.structured_outputs)),
            }
            (work / f"{name}.json").write_text(json.dumps(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
