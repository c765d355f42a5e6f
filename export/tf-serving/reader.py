"""Sends images or texts to a TF Serving server, or to kerastune's stand-in.

python reader.py ARTIFACT --rest http://127.0.0.1:8501 --check    needs only numpy
python reader.py ARTIFACT --grpc 127.0.0.1:8500 photo.jpg         pip install tensorflow-serving-api
python reader.py ARTIFACT --check                                 without a server: saved_model.py
"""

import base64
import json
import os
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

import numpy as np


def arguments(parser):
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--rest", metavar="URL", help="REST server, such as http://127.0.0.1:8501")
    server.add_argument("--grpc", metavar="HOST:PORT", help="gRPC server, such as 127.0.0.1:8500")
    parser.add_argument("--name", help="model name on the server; default: the artifact's")
    parser.add_argument(
        "--signature",
        choices=("serve_bytes", "serving_default"),
        default="serve_bytes",
        help="send images as PNG files (default) or as pixels, which are several times larger",
    )
    parser.set_defaults(raw=False)


def load(folder, manifest, options):
    name = options.name or manifest["name"]
    if options.rest:
        return over_rest(options.rest, name, options.signature, manifest)
    if options.grpc:
        return over_grpc(options.grpc, name, options.signature)
    import saved_model

    return saved_model.load(folder, manifest, options)


def over_rest(address, name, signature, manifest):
    url = f"{address.rstrip('/')}/v1/models/{urllib.parse.quote(name, safe='')}:predict"
    dtypes = {one["name"]: one["dtype"] for one in manifest["outputs"]}

    def run(inputs):  # arrays [B, …] by name -> arrays [B, …] by name
        named, given = asked(inputs, signature)
        rows = {key: [in_json(row) for row in value] for key, value in given.items()}
        body = json.dumps({"signature_name": named, "inputs": rows}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said = json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            sys.exit(f"{url} answered {error.code}: {error.read(1000).decode(errors='replace')!a}")
        except OSError as error:
            sys.exit(f"{url} does not answer: {error}")
        outputs = said if len(dtypes) > 1 else dict.fromkeys(dtypes, said)  # a single output has no name
        return {key: from_json(outputs[key], dtype) for key, dtype in dtypes.items()}

    return run


def over_grpc(address, name, signature):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]  # else 4 MiB
    service = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))

    def run(inputs):  # arrays [B, …] by name -> arrays [B, …] by name
        request = predict_pb2.PredictRequest()
        named, given = asked(inputs, signature)
        request.model_spec.name, request.model_spec.signature_name = name, named
        for key, value in given.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        try:
            found = service.Predict(request, timeout=60).outputs
            return {key: tf.make_ndarray(value) for key, value in found.items()}
        except grpc.RpcError as error:
            sys.exit(f"{address} answered {error.code().name}: {error.details()!a}")

    return run


def asked(inputs, signature):
    """Returns the signature to use and its inputs: images as files or pixels, everything else unchanged."""
    if "images" not in inputs:
        return "serving_default", inputs
    if signature == "serve_bytes":
        return signature, {"image_bytes": [png(image) for image in inputs["images"]]}
    return signature, inputs


def from_json(rows, dtype):
    """Converts an output: texts to their bytes, and numbers to an array."""
    return [row.encode() for row in rows] if rows and isinstance(rows[0], str) else np.array(rows, dtype)


def in_json(row):
    """Converts a row of an input for TF Serving's REST interface."""
    return {"b64": base64.b64encode(row).decode()} if isinstance(row, bytes) else row.tolist()


def png(image):  # uint8 [H, W, 3] -> bytes, without loss
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # in an artifact, artifact.py is next to this file
    from artifact import answering, main

    main(load, arguments, answering)
