"""`kerastune serve` answers raw texts, tokenised as the artifact's reader does, beside tokens.

Scores and vectors are compared with those of the in-process reader, to 1e-5: batches are padded to their longest text.
"""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from served import Server
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from kerastune import export, fine_tune
from kerastune.recipe import Export, parse
from kerastune.verifying.runtimes import ask

TOLERANCE = 1e-5
LONG = [{"unfreeze": "all", "epochs": 8, "learning_rate": 2e-2}]
SHORT = [{"unfreeze": "all", "epochs": 1, "learning_rate": 1e-2}]
TEXTS = ["the cat is big", "a slow red bus, a bike and the emu", ""]
PAIRS = [["the cat is big", "a cat 3"], ["the bus", "a red bus is fast"]]


@pytest.fixture(scope="module")
def classifier(text_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An artifact that labels pairs of texts."""
    run = fine_tune(text_recipe(data={"pair_column": "pair"}, phases=LONG), tmp_path_factory.mktemp("runs") / "pairs")
    return export(run, Export(target="tf-serving"))[0]


@pytest.fixture(scope="module")
def embedder(texts: Path, embedder_preset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An artifact that makes vectors."""
    data = {"source": "csv", "path": str(texts), "text_column": "text", "label_column": "label"}
    values = {"name": "embedder", "task": "text_embedding", "preset": str(embedder_preset("Bert")), "data": data}
    run = fine_tune(parse({**values, "phases": SHORT}, "test"), tmp_path_factory.mktemp("runs") / "embedder")
    return export(run, Export(target="tf-serving"))[0]


def started(of: Any) -> Iterator[Server]:
    server = Server(of.folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def labels(classifier: Any) -> Iterator[Server]:
    yield from started(classifier)


@pytest.fixture(scope="module")
def vectors(embedder: Any) -> Iterator[Server]:
    yield from started(embedder)


def said(of: Any, rows: list[list[str]]) -> Any:
    return ask(of, "saved-model", [np.array(row) for row in rows]).outputs[of.manifest.outputs[0].name]


def test_texts_become_vectors_in_rows_columns_and_grpc(vectors: Server, embedder: Any) -> None:
    encoded = [{"b64": base64.b64encode(text.encode()).decode()} for text in TEXTS]
    asked = [
        {"instances": TEXTS},
        {"instances": [{"texts": text} for text in TEXTS]},
        {"instances": encoded, "signature_name": "serve_texts"},
        {"inputs": TEXTS},
        {"inputs": {"texts": TEXTS}},
    ]
    answers = [vectors.post(one) for one in asked]
    assert [status for status, _ in answers] == [200] * 5, answers
    found = [answer.get("predictions") or answer["outputs"] for _, answer in answers]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "tf-serving", "serve_texts"
    request.inputs["texts"].CopyFrom(tf.make_tensor_proto(TEXTS))
    with grpc.insecure_channel(vectors.where["grpc"]) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    found.append(tf.make_ndarray(answer.outputs["embeddings"]))
    expected = said(embedder, [[text] for text in TEXTS])
    assert np.abs(np.array(found) - expected).max() <= TOLERANCE < np.ptp(expected, axis=0).max()


def test_pairs_are_rows_with_both_texts(labels: Server, classifier: Any) -> None:
    status, answer = labels.post({"instances": [dict(zip(("texts", "pairs"), pair, strict=True)) for pair in PAIRS]})
    assert status == 200, answer
    expected = said(classifier, PAIRS)
    assert np.abs(np.array(answer["predictions"]) - expected).max() <= TOLERANCE < np.ptp(expected, axis=0).max()


def test_tokens_are_answered_as_before(vectors: Server, embedder: Any) -> None:
    from kerastune.targets import texts

    rows = texts.load(embedder.folder, embedder.manifest.reading)([[TEXTS[0]]])
    status, answer = vectors.post({"inputs": {name: row.tolist() for name, row in rows.items()}})
    assert status == 200, answer
    assert np.abs(np.array(answer["outputs"]) - said(embedder, [[TEXTS[0]]])).max() <= TOLERANCE


def test_both_kinds_of_input_are_announced(labels: Server, classifier: Any) -> None:
    tokens = sorted(one.name for one in classifier.manifest.inputs)
    assert labels.where["signatures"] == {"serve_texts": ["pairs", "texts"], "serving_default": tokens}


REFUSED: dict[str, tuple[Any, str]] = {
    "a number": ({"instances": ["a", 1]}, "input texts holds int"),
    "a list": ({"instances": ["a", ["b"]]}, "ragged"),
    "no UTF-8": ({"instances": [{"b64": "/w=="}]}, "codec can't decode"),
    "another input": ({"instances": [{"texts": "a", "pairs": "b"}]}, "Keys must be: texts"),
    "nothing": ({"instances": []}, "at least one value"),
    "tokens that are none": ({"instances": [1]}, "An object is expected, with the inputs"),
    "texts for tokens": ({"instances": ["a"], "signature_name": "serving_default"}, "An object is expected"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_request_is_400_with_a_reason(vectors: Server, what: str) -> None:
    document, reason = REFUSED[what]
    status, answer = vectors.post(document)
    assert status == 400 and reason in answer["error"], answer


def test_pairs_that_do_not_match_are_400(labels: Server) -> None:
    status, answer = labels.post({"inputs": {"texts": ["a", "b"], "pairs": ["c"]}})
    assert status == 400 and "have different numbers of texts" in answer["error"]
    status, answer = labels.post({"instances": ["a text"]})
    assert status == 400 and "pairs, texts" in answer["error"]


def test_the_curl_line_that_is_printed_works(labels: Server) -> None:
    import json
    import subprocess

    done = subprocess.run(["bash", "-c", labels.where["example"]], capture_output=True, text=True)
    (scores,) = json.loads(done.stdout)["predictions"]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
