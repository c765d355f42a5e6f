"""The stand-in for TF Serving answers what the artifact computes, to every client, and refuses what TF Serving refuses.

Scores are compared with those of the in-process reader, to 1e-6: batching changes the last bits.
"""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from ovmsclient import make_grpc_client
from PIL import Image
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from kerastune.errors import KerastuneError, VerificationError
from kerastune.serving import serving
from kerastune.serving.serving import replay_warmup, serving_files, write_warmup
from kerastune.verifying import artifact
from kerastune.verifying.runtimes import ask

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-6


class Server:
    """`kerastune serve` as a user starts it."""

    def __init__(self, folder, *options):
        command = [sys.executable, "-m", "kerastune", "serve", str(folder), "--port", "0", "--grpc-port", "0", "--json"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            text += line
        self.where = json.loads(text)
        self.url = self.where["rest"]
        self.port = int(re.search(r":(\d+)/", self.url)[1])

    def post(self, document, path=":predict"):
        """Status and answer."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    @property
    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def made(exported):
    return exported("efficientnet")["saved_model"]


@pytest.fixture(scope="module")
def server(made):
    started = Server(made.folder)
    yield started
    started.process.send_signal(signal.SIGINT)
    _, said = started.process.communicate(timeout=40)
    assert started.process.returncode == 0, said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def golden(made):
    """Images, and what the artifact says in this process's child."""
    images, _ = made.golden()
    return images, ask(made, "saved-model", images).scores


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.where["grpc"], [("grpc.max_send_message_length", -1)]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def question(inputs, signature="serving_default", name="saved_model"):
    import tensorflow as tf

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


# --- answers -----------------------------------------------------------------------------------------------


def test_rows_columns_encoded_files_and_grpc_say_what_the_reader_says(server, golden, stub):
    for image, expected in zip(*golden, strict=True):
        pixels, file = image.tolist(), b64(png(image))
        encoded = {"signature_name": "serve_bytes"}
        found = [
            server.post({"instances": [pixels]})[1]["predictions"],
            server.post({"instances": [{"images": pixels}]})[1]["predictions"],
            server.post({"inputs": [pixels]})[1]["outputs"],
            server.post({"inputs": {"images": [pixels]}}, "/versions/1:predict")[1]["outputs"],
            server.post({**encoded, "instances": [file]})[1]["predictions"],
            server.post({**encoded, "instances": [{"image_bytes": file}]})[1]["predictions"],
            server.post({**encoded, "inputs": {"image_bytes": [file]}})[1]["outputs"],
            [list(stub.Predict(question({"images": image[None]})).outputs["scores"].float_val)],
            [list(stub.Predict(question({"image_bytes": [png(image)]}, "serve_bytes")).outputs["scores"].float_val)],
        ]
        assert np.abs(np.array(found)[:, 0] - expected).max() <= TOLERANCE


def test_a_foreign_client_gets_the_same(server, golden):
    client = make_grpc_client(server.where["grpc"])
    image, expected = golden[0][0], golden[1][0]
    which = ("saved_model", 1)  # this client's default, version 0, is none to TF Serving
    assert client.get_model_status(*which)[1]["state"] == "AVAILABLE"
    assert client.get_model_metadata(*which)["inputs"]["images"]["dtype"] == "DT_UINT8"
    assert np.abs(client.predict({"images": image[None]}, *which)[0] - expected).max() <= TOLERANCE


def test_the_curl_line_that_is_printed_works(server, made, pictures, tmp_path):
    Image.open(pictures / "red" / "03.png").convert("RGB").resize((900, 700)).save(tmp_path / "photo.jpg", quality=100)
    assert (tmp_path / "photo.jpg").stat().st_size > 131072  # longer than an argument may be
    done = subprocess.run(["bash", "-c", server.where["example"]], cwd=tmp_path, capture_output=True, text=True)
    (scores,) = json.loads(done.stdout)["predictions"]
    assert made.labels[int(np.argmax(scores))] == "red"


def test_status_and_metadata_are_those_of_tf_serving(server):
    curl = ["curl", "--silent", "--fail"]
    status = json.loads(subprocess.check_output([*curl, server.url]))
    error = {"error_code": "OK", "error_message": ""}
    assert status == {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": error}]}
    metadata = json.loads(subprocess.check_output([*curl, server.url + "/versions/1/metadata"]))
    assert metadata["model_spec"] == {"name": "saved_model", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serve_bytes"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_client_in_the_artifact_replays_the_proof_and_labels_a_file(server, made, pictures, protocol):
    address = f"http://127.0.0.1:{server.port}" if protocol == "rest" else server.where["grpc"]
    command = [sys.executable, "reader.py", ".", f"--{protocol}", address, "--check", pictures / "red" / "00.png"]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True)
    assert done.stdout.startswith("ok:"), done.stderr
    assert done.stdout.splitlines()[2].endswith("red")


@pytest.mark.parametrize("signature", ["serve_bytes", "serving_default"])
def test_the_client_sends_batches_of_pixels_or_of_files(server, golden, monkeypatch, signature):
    for folder in ("export", "export/tf-serving"):
        monkeypatch.syspath_prepend(ROOT / folder)
    import reader

    image, expected = golden[0][0], golden[1][0]
    for predict in (
        reader.over_rest(f"http://127.0.0.1:{server.port}", "saved_model", signature),
        reader.over_grpc(server.where["grpc"], "saved_model", signature),
    ):
        assert np.abs(predict(np.stack([image] * 3)) - expected).max() <= TOLERANCE


def test_the_client_fails_on_a_server_of_another_model(server, made, copied):
    other = copied(made)
    images, scores = other.golden()
    artifact.write(other.folder, other.manifest, images, scores[:, ::-1])
    command = [sys.executable, other.folder / "reader.py", other.folder, "--rest", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.startswith("FAILED")
    done = subprocess.run([*command, "--check", "--name", "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "answered 404" in done.stderr


def test_64_requests_at_once_are_answered_right_and_in_fewer_executions(server, golden):
    images, expected = golden
    before = server.counts
    with ThreadPoolExecutor(64) as pool:
        asked = [{"signature_name": "serve_bytes", "instances": [b64(png(images[i % len(images)]))]} for i in range(64)]
        answers = list(pool.map(server.post, asked))
    for i, (status, answer) in enumerate(answers):
        assert status == 200
        assert np.abs(np.array(answer["predictions"][0]) - expected[i % len(images)]).max() <= TOLERANCE
    after = server.counts
    assert after["requests"] - before["requests"] == 64
    assert after["executions"] - before["executions"] <= 32


def test_a_corrupt_image_fails_alone(server, golden):
    images, expected = golden
    files = [png(image) for image in images[:15]]
    files.insert(7, files[0][:100])
    with ThreadPoolExecutor(16) as pool:
        asked = [{"signature_name": "serve_bytes", "instances": [b64(file)]} for file in files]
        answers = list(pool.map(server.post, asked))
    status, answer = answers.pop(7)
    assert status == 400
    assert "PNG" in answer["error"]
    assert [status for status, _ in answers] == [200] * 15
    found = np.array([answer["predictions"][0] for _, answer in answers])
    assert np.abs(found - expected[:15]).max() <= TOLERANCE


# --- refusals ----------------------------------------------------------------------------------------------

REFUSED = {
    '{"instances"': "JSON Parse error",
    "[1]": "not an object",
    "[" * 100_000: "JSON Parse error",
    "{}": "either an 'instances' or an 'inputs'",
    '{"instances": [1], "inputs": [1]}': "either an 'instances' or an 'inputs'",
    '{"instances": []}': "at least one value",
    '{"instances": [[[[1, 2, 300]]]]}': "300 out of bounds for uint8",
    '{"instances": [[[[1, 2, 3.5]]]]}': "type float, and uint8 is expected",
    '{"instances": [[[[1, 2, true]]]]}': "type bool, and uint8 is expected",
    '{"instances": [[[["1", 2, 3]]]]}': "type str, and uint8 is expected",
    '{"instances": [[[[1, 2, 3], [1, 2]]]]}': "ragged",
    '{"instances": [[[[1, 2, 3], 1]]]}': "ragged",
    '{"instances": [[[1, 2, 3]]]}': "shape",
    '{"instances": [{"images": [[[1, 2, 3]]]}, {}]}': "element: 1",
    '{"inputs": {"pixels": [1]}}': "Missing named input: images",
    '{"inputs": {"images": [[[[1, 2, 3]]]], "pixels": 1}}': "no input pixels",
    '{"signature_name": "nonsense", "instances": [1]}': "serve_bytes, serving_default",
    '{"signature_name": 1, "instances": [1]}': "must be a string",
    '{"signature_name": "serve_bytes", "instances": [{"b64": "%"}]}': "base64",
    '{"signature_name": "serve_bytes", "instances": ["no image"]}': "Unknown image file format",
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body[:60])
def test_a_bad_request_is_400_with_a_reason(server, body):
    status, answer = server.post(body.encode())
    assert status == 400
    assert REFUSED[body] in answer["error"]


def test_other_models_versions_and_addresses_are_refused(server):
    one = {"instances": [[[[1, 2, 3]]]]}
    assert server.post(one, "x:predict") == (404, {"error": "Servable not found for request: Latest(saved_modelx)"})
    missing = {"error": "Servable not found for request: Specific(saved_model, 2)"}
    assert server.post(one, "/versions/2:predict") == (404, missing)
    malformed = {"error": "Malformed request: POST /v1/models/saved_model:regress"}
    assert server.post(one, ":regress") == (400, malformed)


def test_a_request_above_the_limit_is_413(server):
    command = ["curl", "--silent", "--data-binary", "@-", server.url + ":predict"]
    for header in ("Content-Type: application/json", "Transfer-Encoding: chunked"):
        content = bytes(server.where["max_request_bytes"] + 1)
        done = subprocess.run([*command, "-w", "%{http_code}", "-H", header], input=content, capture_output=True)
        assert done.stdout.endswith(b"413")
        assert b"67108864 bytes" in done.stdout


def refusal(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return caught.value.code().name, caught.value.details()


def test_grpc_refuses_with_the_codes_of_tf_serving(stub, golden):
    pixels = golden[0][0][None]
    cases = [
        (question({"images": pixels.astype("float32")}), "INVALID_ARGUMENT", "float32, and uint8 is expected"),
        (question({"images": pixels[0]}), "INVALID_ARGUMENT", "shape"),
        (question({"pixels": pixels}), "INVALID_ARGUMENT", "Sent extra: {pixels}. Missing but required: {images}"),
        (question({}), "INVALID_ARGUMENT", "Missing but required: {images}"),
        (question({"images": pixels}, "x"), "FAILED_PRECONDITION", "not found"),
        (question({"images": pixels}, name="x"), "NOT_FOUND", "Latest(x)"),
        (question({"image_bytes": [b"x"]}, "serve_bytes"), "INVALID_ARGUMENT", "Unknown image file format"),
    ]
    for request, code, reason in cases:
        found = refusal(stub.Predict, request)
        assert found[0] == code
        assert reason in found[1]


def test_grpc_refuses_tensors_that_are_not_what_their_shape_says(stub):
    vast = question({"images": np.zeros((1, 2, 2, 3), np.uint8)})
    vast.inputs["images"].tensor_content, vast.inputs["images"].int_val[:] = b"", [7]
    vast.inputs["images"].tensor_shape.dim[1].size = 10**9
    assert refusal(stub.Predict, vast)[0] == "INVALID_ARGUMENT"
    short = question({"images": np.zeros((1, 2, 2, 3), np.uint8)})
    short.inputs["images"].tensor_content = b"1"
    assert refusal(stub.Predict, short)[0] == "INVALID_ARGUMENT"
    assert refusal(stub.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest())[0] == "INVALID_ARGUMENT"


def test_grpc_takes_more_than_its_usual_4_mib_and_no_more_than_is_announced(server, stub):
    image = np.zeros((1, 1500, 1500, 3), np.uint8)
    assert len(stub.Predict(question({"images": image})).outputs["scores"].float_val) == 3
    vast = np.zeros((1, server.where["max_request_bytes"] // 3, 1, 3), np.uint8)
    assert refusal(stub.Predict, question({"images": vast}))[0] == "RESOURCE_EXHAUSTED"


def test_artifacts_of_other_formats_and_changed_ones_are_refused(exported, copied, made):
    with pytest.raises(KerastuneError, match="is onnx") as caught:
        serving.serve(exported("efficientnet")["onnx"])
    assert "--target tf-serving" in caught.value.hint
    other = copied(made)
    with (other.folder / "model/1/saved_model.pb").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VerificationError, match="has changed"):
        serving.serve(other)


def test_a_port_in_use_is_named(server, made):
    with pytest.raises(KerastuneError, match=f"127.0.0.1:{server.port} cannot be listened on"):
        serving.serve(made, port=server.port)


def test_a_missing_package_is_named_with_its_command(made, monkeypatch):
    monkeypatch.delitem(sys.modules, "kerastune.serving.server", raising=False)
    monkeypatch.delattr("kerastune.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(KerastuneError, match="needs uvicorn") as caught:
        serving.serve(made, port=0, grpc_port=0)
    assert "pip install" in caught.value.hint


# --- the end -----------------------------------------------------------------------------------------------


def test_a_signal_loses_no_accepted_request(made, golden):
    """16 requests are half sent when the signal comes; their second halves come when nobody listens any more."""
    images, expected = golden
    server = Server(made.folder, "--name", "fashion 1")
    body = json.dumps({"instances": [images[0].tolist()]}).encode()
    head = f"POST /v1/models/fashion%201:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with grpc.insecure_channel(server.where["grpc"]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        large = np.broadcast_to(images[0][:1, :1], (1, 1000, 1000, 3))
        over_grpc = [stub.Predict.future(question({"images": large}, name="fashion 1")) for _ in range(8)]
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(16)]
        for client in clients:
            client.sendall(head + body[:1000])
        while server.counts["requests"] < 24:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(OSError):
            while True:
                socket.create_connection(("127.0.0.1", server.port)).close()
                time.sleep(0.01)
        for client in clients:
            client.sendall(body[1000:])
        answered = [len(call.result(timeout=60).outputs["scores"].float_val) for call in over_grpc]
    assert answered == [3] * 8
    for client in clients:
        with client, client.makefile("rb") as answer:
            head, _, said = answer.read().partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0]
        assert np.abs(np.array(json.loads(said)["predictions"][0]) - expected[0]).max() <= TOLERANCE
    _, said = server.process.communicate(timeout=40)
    assert server.process.returncode == 0, said
    assert "Stopped after 24 requests, 0 of them refused." in said


# --- what goes beside the model ----------------------------------------------------------------------------


def test_the_files_for_tf_serving_name_the_model():
    files = serving_files('a "quoted" näme')
    config = text_format.Parse(files["models.config"], model_server_config_pb2.ModelServerConfig())
    (one,) = config.model_config_list.config
    assert one.name == 'a "quoted" näme'
    assert f"./model:{one.base_path}:ro" in files["docker-compose.yml"]


def test_warm_up_requests_are_replayed_and_answered_as_the_reader_does(made, copied, golden):
    images, expected = golden
    model = copied(made).folder / "model" / "1"
    assert write_warmup(model, images[:2])
    found = replay_warmup(model)
    assert [signature for signature, _ in found] == ["serving_default", "serve_bytes"] * 2
    for (_, outputs), scores in zip(found, np.repeat(expected[:2], 2, axis=0), strict=True):
        assert np.abs(outputs["scores"][0] - scores).max() <= TOLERANCE
