"""The stand-in for TF Serving answers what the artifact computes, to every client, and refuses what TF Serving refuses.

Scores are compared with those of the in-process reader, to 1e-6: the size of a batch changes the last bits.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from manifests import a_manifest
from ovmsclient import make_grpc_client
from PIL import Image
from processes import until
from served import Server
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.modalities import image as pictures_of
from kerastune.serving import files, stand_in
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Golden
from kerastune.verifying.runtimes import ask

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def made(exported):
    return exported("efficientnet")["saved_model"]


@pytest.fixture(scope="module")
def server(made):
    started = Server(made.folder)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def golden(made):
    """Images, and what the artifact says in this process's child."""
    images = made.golden.examples
    return images, ask(made, "saved-model", images).outputs["scores"]


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.where["grpc"], [("grpc.max_send_message_length", -1)]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


png = pictures_of.png


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
    assert np.abs(client.predict({"images": image[None]}, *which)[0] - expected).max() <= TOLERANCE


def test_the_curl_line_that_is_printed_works(server, made, pictures, tmp_path):
    Image.open(pictures / "red" / "03.png").convert("RGB").resize((900, 700)).save(tmp_path / "photo.jpg", quality=100)
    assert (tmp_path / "photo.jpg").stat().st_size > 131072  # longer than an argument may be
    done = subprocess.run(["bash", "-c", server.where["example"]], cwd=tmp_path, capture_output=True, text=True)
    (scores,) = json.loads(done.stdout)["predictions"]
    assert made.manifest.labels[int(np.argmax(scores))] == "red"


def test_a_model_that_is_there_is_available(server):
    status = json.loads(subprocess.check_output(["curl", "--silent", "--fail", server.url]))
    error = {"error_code": "OK", "error_message": ""}
    assert status == {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": error}]}


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_client_in_the_artifact_replays_the_proof_and_labels_a_file(server, made, pictures, protocol):
    address = f"http://127.0.0.1:{server.port}" if protocol == "rest" else server.where["grpc"]
    command = [sys.executable, "reader.py", ".", f"--{protocol}", address, "--check", pictures / "red" / "00.png"]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True)
    assert done.stdout.startswith("ok:"), done.stderr
    assert done.stdout.splitlines()[2].endswith("red")


@pytest.mark.parametrize("signature", ["serve_bytes", "serving_default"])
def test_the_client_sends_batches_of_pixels_or_of_files(server, made, golden, monkeypatch, signature):
    for folder in ("export", "export/tf-serving"):
        monkeypatch.syspath_prepend(ROOT / folder)
    import reader

    image, expected = golden[0][0], golden[1][0]
    manifest = made.manifest.document()
    for run in (
        reader.over_rest(f"http://127.0.0.1:{server.port}", "saved_model", signature, manifest),
        reader.over_grpc(server.where["grpc"], "saved_model", signature),
    ):
        assert np.abs(run({"images": np.stack([image] * 3)})["scores"] - expected).max() <= TOLERANCE


def test_the_client_fails_on_a_server_of_another_model(server, made, copied):
    other = copied(made)
    turned = {"scores": other.golden.expected["scores"][:, ::-1]}
    artifact.write(other.folder, other.manifest, replace(other.golden, expected=turned))
    command = [sys.executable, other.folder / "reader.py", other.folder, "--rest", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.startswith("FAILED")
    done = subprocess.run([*command, "--check", "--name", "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "answered 404" in done.stderr


def test_64_requests_at_once_are_answered_right(server, golden):
    images, expected = golden
    with ThreadPoolExecutor(64) as pool:
        asked = [{"signature_name": "serve_bytes", "instances": [b64(png(images[i % len(images)]))]} for i in range(64)]
        answers = list(pool.map(server.post, asked))
    assert {status for status, _ in answers} == {200}
    found = np.array([answer["predictions"][0] for _, answer in answers])
    assert np.abs(found - expected[np.arange(64) % len(expected)]).max() <= TOLERANCE


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
    '{"instances"': "JSONDecodeError",
    "[1]": "not an object",
    "[" * 100_000: "RecursionError",
    "{}": "either an 'instances' or an 'inputs'",
    '{"instances": [1], "inputs": [1]}': "either an 'instances' or an 'inputs'",
    '{"instances": []}': "at least one value",
    '{"instances": [[[[1, 2, 300]]]]}': "300 out of bounds for uint8",
    '{"instances": [[[[1, 2, 3.5]]]]}': "type float, but uint8 is expected",
    '{"instances": [[[[1, 2, true]]]]}': "type bool, but uint8 is expected",
    '{"instances": [[[["1", 2, 3]]]]}': "type str, but uint8 is expected",
    '{"instances": [[[[1, 2, 3], [1, 2]]]]}': "ragged",
    '{"instances": [[[[1, 2, 3], 1]]]}': "ragged",
    '{"instances": [[[1, 2, 3]]]}': "shape",
    '{"instances": [{"images": [[[1, 2, 3]]]}, {}]}': "element: 1",
    '{"inputs": {"pixels": [1]}}': "Missing but required: {images}. Sent extra: {pixels}",
    '{"inputs": {"images": [[[[1, 2, 3]]]], "pixels": 1}}': "Sent extra: {pixels}",
    '{"signature_name": "nonsense", "instances": [1]}': "serve_bytes, serving_default",
    '{"signature_name": 1, "instances": [1]}': "must be a string, not int",
    '{"signature_name": {}, "instances": [1]}': "must be a string, not dict",
    '{"signature_name": "serve_bytes", "instances": [{"b64": "%"}]}': "base64",
    '{"signature_name": "serve_bytes", "instances": ["no image"]}': "Unknown image file format",
    '{"signature_name": "serve_bytes", "instances": ["\\ud83d"]}': "surrogates not allowed",
    '{"signature_name": ["serve_bytes"], "instances": [1]}': "must be a string, not list",
    '{"instances": ' + "[" * 900 + "]" * 900 + "}": "depth",
    '{"instances": [[[[1, 2, 1' + "0" * 5000 + "]]]]}": "digits",
    '{"signature_name": "' + "x" * 10**6 + '", "instances": [1]}': "xxx…",
    '{"inputs": {"' + "x" * 10**6 + '": 1}}': "Missing but required: {images}",
    '{"instances": '
    + json.dumps([[[[0] * 3]]] * 513)
    + "}": "input images has 513 rows; a request can have at most 512",
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body[:60])
def test_a_bad_request_is_400_with_a_reason(server, body):
    status, answer = server.post(body.encode())
    assert status == 400
    assert REFUSED[body] in answer["error"] and len(answer["error"]) <= 501


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
        (question({"images": pixels.astype("float32")}), "INVALID_ARGUMENT", "float32, but uint8 is expected"),
        (question({"images": pixels[0]}), "INVALID_ARGUMENT", "shape"),
        (question({"pixels": pixels}), "INVALID_ARGUMENT", "Missing but required: {images}. Sent extra: {pixels}"),
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


def test_grpc_takes_more_than_its_usual_4_mib_and_no_more_than_is_announced(server, stub):
    image = np.zeros((1, 1500, 1500, 3), np.uint8)
    assert len(stub.Predict(question({"images": image})).outputs["scores"].float_val) == 3
    vast = np.zeros((1, server.where["max_request_bytes"] // 3, 1, 3), np.uint8)
    assert refusal(stub.Predict, question({"images": vast}))[0] == "RESOURCE_EXHAUSTED"


def test_artifacts_of_other_formats_and_changed_ones_are_refused(exported, copied, made):
    with pytest.raises(KerastuneError, match="is onnx") as caught:
        stand_in.serve(exported("efficientnet")["onnx"])
    assert "--target tf-serving" in caught.value.hint
    other = copied(made)
    with (other.folder / "model/1/saved_model.pb").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VerificationError, match="has changed"):
        stand_in.serve(other)


def test_a_port_in_use_is_named(server, made):
    rpc = int(server.where["grpc"].split(":")[1])
    for ports, taken in (({"port": server.port}, server.port), ({"port": 0, "grpc_port": rpc}, rpc)):
        with pytest.raises(KerastuneError, match=f"Cannot listen on 127.0.0.1:{taken}"):
            stand_in.serve(made, **ports)


def test_a_missing_package_is_named_with_its_command(made, monkeypatch):
    monkeypatch.delitem(sys.modules, "kerastune.serving.server", raising=False)
    monkeypatch.delattr("kerastune.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(KerastuneError, match="needs uvicorn") as caught:
        stand_in.serve(made, port=0, grpc_port=0)
    assert "kerastune[serve]" in caught.value.hint


# --- the end -----------------------------------------------------------------------------------------------


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_signal_loses_no_accepted_request(made, golden):
    """16 requests are half sent when the signal comes; their second halves come when nobody listens any more."""
    images, expected = golden
    server = Server(made.folder, "--name", "fashion 1")
    body = json.dumps({"instances": [images[0].tolist()]}).encode()
    head = f"POST /v1/models/fashion%201:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(16)]
    for client in clients:
        client.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert b"100" in client.recv(1000).splitlines()[0]  # so it was accepted
        client.sendall(body[:1000])
    with grpc.insecure_channel(server.where["grpc"]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        large = np.broadcast_to(images[0][:1, :1], (1, 1000, 1000, 3))
        over_grpc = [stub.Predict.future(question({"images": large}, name="fashion 1")) for _ in range(8)]
        os.kill(server.process.pid, signal.SIGTERM)
        until(lambda: not is_open(server.port))
        for client in clients:
            client.sendall(body[1000:])
        answered = [len(call.result(timeout=60).outputs["scores"].float_val) for call in over_grpc]
    assert answered == [3] * 8
    for client in clients:
        with client, client.makefile("rb") as answer:
            head, _, said = answer.read().partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0]
        assert np.abs(np.array(json.loads(said)["predictions"][0]) - expected[0]).max() <= TOLERANCE
    server.end()


def test_a_client_that_goes_away_is_one_line_in_the_log_and_one_that_wants_a_websocket_none(made):
    server = Server(made.folder)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v1/models/saved_model:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        client.sendall(b"Expect: 100-continue\r\n\r\n")
        assert b"100" in client.recv(1000)
        client.sendall(b"{")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 4")
    assert server.post({"instances": [1]})[0] == 400
    said = server.stop()
    assert said.count("went away") == 1 and "websockets" not in said  # there are none to install


ENDLESS = """
import socket, sys, threading, time
from kerastune.serving import server
from kerastune.serving.signatures import Refused, Signature

def compute(arrays):
    print("computing", flush=True)
    while not closed.is_set():
        time.sleep(0.1)
    raise Refused("the server has stopped")

closed, server.GRACE_SECONDS, server._SECONDS = threading.Event(), 1, 2
served = server.Served("endless", 1, {"serving_default": Signature({}, {}, compute)}, closed)
with socket.create_server(("127.0.0.1", 0)) as listening:
    server.run(served, listening, "127.0.0.1", 0, lambda rpc: print(listening.getsockname()[1], rpc, flush=True))
"""


def test_a_request_that_takes_too_long_does_not_hold_the_server():
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    port, rpc = process.stdout.readline().split()
    with (
        grpc.insecure_channel(rpc) as channel,
        socket.create_connection(("127.0.0.1", int(port))) as client,
    ):
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(question({}, name="endless"))
        body = b'{"inputs": {}}'
        head = b"POST /v1/models/endless:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall(head + body)
        assert process.stdout.readline() + process.stdout.readline() == "computing\n" * 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert call.exception() is not None
    process.stdout.close()


def test_a_request_that_does_not_arrive_is_refused_in_time():
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True) as process:
        port, _ = process.stdout.readline().split()
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.sendall(b"POST /v1/models/endless:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            assert b"408" in client.recv(1000).splitlines()[0]
        process.send_signal(signal.SIGTERM)


# --- what goes beside the model ----------------------------------------------------------------------------


def test_the_files_for_tf_serving_name_the_model():
    texts = files.configuration('a "quoted" näme')
    config = text_format.Parse(texts["models.config"], model_server_config_pb2.ModelServerConfig())
    (one,) = config.model_config_list.config
    assert one.name == 'a "quoted" näme'
    assert f"./model:{one.base_path}:ro" in texts["docker-compose.yml"]


def test_warm_up_requests_are_replayed_and_answered_as_the_reader_does(made, copied, golden):
    images, expected = golden
    model = copied(made).folder / "model" / "1"
    requests = [("serving_default", {"images": images[0][None]}), ("serve_bytes", {"image_bytes": [png(images[1])]})]
    answers = files.write_warmup(model, requests)
    assert (model / "assets.extra/tf_serving_warmup_requests").stat().st_size > images[0].nbytes
    assert np.abs(np.concatenate([one["scores"] for one in answers]) - expected[:2]).max() <= TOLERANCE


def test_a_warm_up_request_that_the_model_refuses_is_an_error(made, copied):
    model = copied(made).folder / "model" / "1"
    with pytest.raises(ConverterError, match="The warm-up of"):
        files.write_warmup(model, [("serve_bytes", {"image_bytes": [b"no image"]})])


# --- any signature -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A server of a model with two inputs, two outputs and a signature that gives one number whatever it is asked."""
    import tensorflow as tf

    def detect(sounds, names):
        return {"sums": tf.reduce_sum(sounds, axis=1), "labels": tf.strings.upper(names), "raw_bytes": names}

    def count(sounds):
        return {"counts": tf.size(sounds)}

    module = tf.Module()
    specs = [tf.TensorSpec([None, None], tf.float32, "sounds"), tf.TensorSpec([None], tf.string, "names")]
    signatures = {
        "serving_default": tf.function(detect).get_concrete_function(*specs),
        "count": tf.function(count).get_concrete_function(specs[0]),
    }
    folder = tmp_path_factory.mktemp("two")
    tf.saved_model.save(module, folder / "model/1", signatures)
    manifest = a_manifest(name="two", format="saved_model", model="model/1", runtime="saved-model")
    artifact.write(folder, manifest, Golden([np.zeros((1, 1, 3), np.uint8)], {"scores": np.zeros((1, 3), np.float32)}))
    started = Server(folder, "--host", "0.0.0.0", "--allow-host", "models.example")
    yield started
    started.stop()


def test_several_inputs_and_outputs_have_their_names_in_rows_columns_and_grpc(two):
    sounds, names = np.array([[0.1, 0.1], [2, 3]], np.float32), ["é", "b"]
    rows = [{"sounds": sound, "names": name} for sound, name in zip(sounds.tolist(), names, strict=True)]
    expected = [
        {"sums": pytest.approx(0.2), "labels": "é", "raw_bytes": b64("é".encode())},
        {"sums": 5.0, "labels": "B", "raw_bytes": b64(b"b")},
    ]
    assert two.post({"instances": rows}) == (200, {"predictions": expected})
    status, answer = two.post({"inputs": {"sounds": sounds.tolist(), "names": names}})
    assert status == 200 and answer["outputs"] == {key: [one[key] for one in expected] for key in expected[0]}
    with grpc.insecure_channel(two.where["grpc"]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        asked = question({"sounds": sounds, "names": names}, name="two")
        assert dict(stub.Predict(asked).outputs).keys() == expected[0].keys()
        asked.output_filter.append("labels")
        assert {key: list(one.string_val) for key, one in stub.Predict(asked).outputs.items()} == {
            "labels": ["é".encode(), b"B"]
        }


def test_an_output_without_rows_is_given_in_columns_only(two):
    asked = {"signature_name": "count"}
    assert two.post({**asked, "inputs": [[1, 2], [3, 4]]}) == (200, {"outputs": 4})
    status, answer = two.post({**asked, "instances": [[1, 2], [3, 4]]})
    assert status == 400 and "output counts has shape [] for 2 instances" in answer["error"]


def test_a_name_that_a_web_page_may_own_is_no_host(two):
    known = ["localhost", "LOCALHOST:1", "127.0.0.1:8501", "10.1.2.3", "[::1]:8501", "[::1]", socket.gethostname()]
    unknown = ["evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.nip.io", "[", "[evil]:1", ":1"]
    for host in (*known, "models.example", "Models.Example.:8501", *unknown):
        command = ["curl", "--silent", "-w", "%{http_code}", "-H", f"Host: {host}", two.url]
        said = subprocess.check_output(command)
        assert said.endswith(b"400" if host in unknown else b"200"), host
        assert (b"--allow-host" in said) == (host in unknown)


def test_strings_that_repeat_themselves_over_grpc_are_refused(two):
    asked = question({"sounds": np.zeros((1, 1), np.float32), "names": ["x" * 1000]}, name="two")
    asked.inputs["names"].tensor_shape.dim[0].size = 10**6
    with grpc.insecure_channel(two.where["grpc"]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert refusal(stub.Predict, asked) == (
            "INVALID_ARGUMENT",
            "input names has 1 strings, but its shape is [1000000]",
        )


def test_an_image_that_would_fill_the_memory_is_refused(server):
    small = png(np.zeros((9, 9, 3), np.uint8))
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + small[24:29]
    vast = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    status, answer = server.post({"signature_name": "serve_bytes", "instances": [b64(vast)]})
    assert status == 400 and "safe to open" in answer["error"]
