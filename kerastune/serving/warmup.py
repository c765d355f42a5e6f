"""Writes and replays a SavedModel's warm-up requests. A script that imports TensorFlow and TF Serving's stubs alone.

python warmup.py write MODEL IMAGES.npz      a request for each image and signature
python warmup.py replay MODEL OUTPUTS.npz    what the model answers to them
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def write(model: Path, images: Path) -> None:
    signatures = SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs[0].signature_def
    (model / FILE).parent.mkdir(exist_ok=True)
    with np.load(images, allow_pickle=False) as stored, tf.io.TFRecordWriter(str(model / FILE)) as file:
        for name in stored.files:
            encoded = tf.io.encode_png(stored[name]).numpy()
            inputs = {"serving_default": {"images": stored[name][None]}, "serve_bytes": {"image_bytes": [encoded]}}
            for signature in (s for s in inputs if s in signatures):
                asked = predict_pb2.PredictRequest()
                asked.model_spec.signature_name = signature
                for key, value in inputs[signature].items():
                    asked.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=asked))
                file.write(log.SerializeToString())


def requests(model: Path) -> Iterator[Any]:
    """The PredictRequests in a SavedModel's warm-up file; none if it has no such file."""
    if (model / FILE).is_file():
        for record in tf.data.TFRecordDataset(str(model / FILE)).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


def replay(model: Path, found: Path) -> None:
    loaded = tf.saved_model.load(str(model))
    outputs, names = {}, []
    for number, asked in enumerate(requests(model)):
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in asked.inputs.items()}
        names.append(asked.model_spec.signature_name)
        for key, value in loaded.signatures[names[-1]](**inputs).items():
            outputs[f"{number}/{key}"] = value.numpy()
    if not names:
        sys.exit(f"there is no {FILE}")
    if foreign := {"kerastune", "keras_hub"} & set(sys.modules):
        sys.exit(f"{', '.join(foreign)} was imported, so the answers prove nothing")
    np.savez(found, allow_pickle=False, signatures=np.array(names), **outputs)


if __name__ == "__main__":
    {"write": write, "replay": replay}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
