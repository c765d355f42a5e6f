"""Writes a SavedModel's warm-up requests. This script imports only TensorFlow and TF Serving's stubs:

python warmup.py MODEL ASKED.npz FOUND.npz

writes a request for each NUMBER/SIGNATURE/INPUT of ASKED, replays the file, and stores the answers as NUMBER/OUTPUT.
"""

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def write(model: Path, asked: Path) -> None:
    (model / FILE).parent.mkdir(exist_ok=True)
    with np.load(asked, allow_pickle=False) as stored, tf.io.TFRecordWriter(str(model / FILE)) as file:
        for _, keys in groupby(sorted(stored.files), lambda key: key.partition("/")[0]):
            request = predict_pb2.PredictRequest()
            for key in keys:
                _, request.model_spec.signature_name, name = key.split("/", 2)
                value = stored[key]
                request.inputs[name].CopyFrom(
                    tf.make_tensor_proto(value.tolist() if value.dtype.kind == "S" else value)
                )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            file.write(log.SerializeToString())


def requests(model: Path) -> Iterator[Any]:
    """Yields the PredictRequests in a SavedModel's warm-up file, if it has one."""
    if (model / FILE).is_file():
        for record in tf.data.TFRecordDataset(str(model / FILE)).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


def replay(model: Path, found: Path) -> None:
    loaded, answers = tf.saved_model.load(str(model)), {}
    for number, asked in enumerate(requests(model)):
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in asked.inputs.items()}
        for key, value in loaded.signatures[asked.model_spec.signature_name](**inputs).items():
            answers[f"{number}/{key}"] = value.numpy()
    if foreign := {"kerastune", "keras_hub"} & set(sys.modules):
        sys.exit(f"{', '.join(foreign)} was imported, so the answers prove nothing")
    np.savez(found, allow_pickle=False, **answers)


if __name__ == "__main__":
    folder, asked, found = map(Path, sys.argv[1:])
    write(folder, asked)
    replay(folder, found)
