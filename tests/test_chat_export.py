"""Language models leave as TFLite, ONNX and SavedModel with a cache, and answer as in Keras, token for token."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_serving import Server

from kerastune import export, fine_tune, predict, verify
from kerastune.errors import DataError, KerastuneError, VerificationError
from kerastune.recipe import Export
from kerastune.verifying import artifact, runtimes

LONG = [{"unfreeze": "all", "epochs": 6, "learning_rate": 1e-2, "lora": False}]
WANTED = [
    Export(target="linux"),
    Export(target="linux", quantize="int4", max_accuracy_drop=0.5),
    Export(target="onnxruntime"),
    Export(target="tf-serving"),
]


@pytest.fixture(scope="module")
def made(chat_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run, and its artifacts by name."""
    run = fine_tune(chat_recipe(phases=LONG), tmp_path_factory.mktemp("runs") / "run")
    return {"run": run, **{a.manifest.name: a for a in export(run, WANTED)}}


def answers(of: Any, prompts: list[str], max_tokens: int) -> list[str]:
    return [each.document["answer"] for each in predict(of, prompts, max_tokens=max_tokens)]


@pytest.mark.parametrize("name", ["linux", "onnxruntime", "tf-serving"])
def test_a_float_file_answers_as_keras_does_token_for_token(made: dict[str, Any], name: str) -> None:
    """Twenty prompts through prefill and decode, against KerasHub's generate; and within 1e-4 nats a token."""
    for report in made[name].report.runtimes.values():
        assert report.passed, report
        assert report.generation.equal == report.generation.prompts == 20
        assert report.generation.tokens > 40
        assert report.golden.max_error <= 1e-4 and report.validation.outputs.max_error <= 1e-4
        perplexity = report.validation.beside["perplexity"]
        assert perplexity.value == pytest.approx(perplexity.keras, rel=1e-4)


def test_a_float_file_is_proved_in_more_than_one_runtime(made: dict[str, Any]) -> None:
    assert set(made["onnxruntime"].report.runtimes) == {"onnxruntime", "openvino"}


def test_prompts_are_answered_by_a_saved_model_of_their_own(made: dict[str, Any]) -> None:
    """Strings in and out, in TensorFlow alone: the template, the tokens and the loop are in the graph."""
    report = made["tf-serving"].report.runtimes["saved-model-text"]
    assert report.passed and report.generation.equal == 20
    assert report.golden.max_error <= 1e-4 and report.validation.outputs.max_error <= 1e-4
    assert made["tf-serving"].manifest.reading["raw"] == "serving_text/1"


def test_what_a_quantisation_costs_in_perplexity_is_reported(made: dict[str, Any]) -> None:
    found = made["linux-int4"].report.validation.beside["perplexity"]
    assert found.value != found.keras and found.value < 2 * found.keras
    assert made["linux-int4"].size_bytes < made["linux"].size_bytes


def test_the_manifest_says_how_a_conversation_is_held(made: dict[str, Any]) -> None:
    manifest = made["linux"].manifest
    assert manifest.signatures == ("prefill", "decode") and manifest.modality == "conversation"
    assert [one.name for one in manifest.inputs] == ["tokens", "position", "kv_cache"]
    assert manifest.reading["length"] % manifest.reading["prefill"] == 0
    assert manifest.reading["checked"]["differ"] == 0 and manifest.reading["checked"]["texts"] > 90


@pytest.mark.parametrize("name", ["linux", "onnxruntime", "tf-serving"])
def test_the_reader_converses_alone(made: dict[str, Any], name: str) -> None:
    reader = "saved_model.py" if name == "tf-serving" else "reader.py"
    command = [sys.executable, reader, ".", "sun 0?", "--check", "--max-tokens", "6"]
    done = subprocess.run(command, cwd=made[name].folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "20 answers equal Keras's" in done.stdout and "sun 0?\n  " in done.stdout


def test_a_file_answers_a_prompt_as_its_run_does(made: dict[str, Any]) -> None:
    said = answers(made["run"], ["sun 0?", "tide 1?"], 8)
    assert all(answers(made[name], ["sun 0?", "tide 1?"], 8) == said for name in ("linux", "onnxruntime"))


def test_answers_with_a_temperature_are_drawn_from_the_seed(made: dict[str, Any]) -> None:
    first, again, other = (
        predict(made["linux"], "sun 0?", max_tokens=8, temperature=2.0, seed=seed)[0].document for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_prompt_longer_than_the_cache_is_refused(made: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"Example 2: the prompt has .* the model takes 512, including the answer"):
        predict(made["linux"], ["sun 0?", "sun " * 300])


def test_a_prompt_that_could_speak_as_somebody_else_is_refused(made: dict[str, Any]) -> None:
    for of in (made["run"], made["linux"]):
        with pytest.raises(DataError, match=r"holds '<\|im_end\|>'"):
            predict(of, "sun<|im_end|>")


def test_a_model_of_labels_is_told_nothing_of_tokens(made: dict[str, Any], exported: Any) -> None:
    with pytest.raises(KerastuneError, match="max_tokens is only for causal_lm"):
        predict(exported("resnet")["onnx"], "photo.png", max_tokens=8)


def test_a_long_prompt_is_read_in_parts_as_a_whole(made: dict[str, Any]) -> None:
    """Over 64 tokens, so that the cache is filled twice before the answer."""
    prompt = "sun sea fog " * 12
    assert answers(made["linux"], [prompt], 8) == answers(made["run"], [prompt], 8)


@pytest.mark.parametrize("name", ["linux", "onnxruntime"])
def test_a_changed_weight_is_caught(made: dict[str, Any], name: str, copied: Callable[[Any], Any]) -> None:
    of = copied(made[name])
    perturb(of.folder / of.manifest.model)
    with pytest.raises(VerificationError, match="largest error"):
        verify(rehashed(of), made["run"].folder, in_runtimes=[of.manifest.runtime])


def test_another_template_is_caught(made: dict[str, Any], copied: Callable[[Any], Any]) -> None:
    of = copied(made["linux"])
    path = of.folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("<|im_end|>\n", "<|im_end|>"), "utf-8")
    with pytest.raises(VerificationError, match="largest error"):
        verify(rehashed(of), made["run"].folder)


def test_an_answer_that_parts_where_two_tokens_tie_is_the_same() -> None:
    from kerastune.targets.chats import same_answers

    said, margins = np.array([[1, 2, -1]] * 3), np.full((3, 4), 1.0)
    margins[1, 1] = 1e-5
    found = np.array([[1, 2, -1], [1, 3, -1], [1, 3, -1]])
    assert same_answers(found, said, margins).tolist() == [True, True, False]


def test_what_cannot_hold_a_language_model_says_so(made: dict[str, Any]) -> None:
    with pytest.raises(KerastuneError, match="target android is for images"):
        export(made["run"], Export(target="android"))
    with pytest.raises(KerastuneError, match="language models lose accuracy in full int8"):
        export(made["run"], Export(target="linux", quantize="int8"))
    assert "one signature" in str(runtimes.refusal("openvino", made["linux"].manifest))


def test_serve_answers_prompts_as_the_run_does(made: dict[str, Any]) -> None:
    server = Server(made["tf-serving"].folder)
    try:
        status, said = server.post({"instances": ["sun 0?", "tide 1?"]})
        assert status == 200, said
        assert said["predictions"] == answers(made["run"], ["sun 0?", "tide 1?"], 48)
        for prompt, why in (("<|im_end|>", "a marker of the chat template"), ("sun " * 300, "including the answer")):
            status, said = server.post({"instances": [prompt]})
            assert status == 400 and why in said["error"]
    finally:
        server.stop()


def test_a_saved_model_of_raw_texts_takes_several_prompts_and_no_marks(made: dict[str, Any]) -> None:
    import tensorflow_text  # noqa: F401  its operators

    model = tf.saved_model.load(str(made["tf-serving"].folder / "serving_text/1"))
    answer = model.signatures["serving_default"]
    prompts = ["sun 0?", "tide 1?", "sun sea fog 2?"]
    said = answer(prompts=tf.constant(prompts))["answers"].numpy()
    assert [text.decode() for text in said] == answers(made["run"], prompts, 48)
    for prompt, why in (("a\n<|im_end|>", "a marker of the chat template"), ("sun " * 300, "no room in 512 tokens")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=why):
            answer(prompts=tf.constant([prompt]))


def test_a_template_is_a_graph_unless_it_changes_what_is_said(chat_recipe: Callable[..., Any]) -> None:
    from kerastune.tasks.causal_lm import task as causal_lm
    from kerastune.tasks.causal_lm.chats import Chat, encoded, frame

    recipe = chat_recipe()
    tokenizer = causal_lm.build(recipe, recipe.preset, 0, "float32").chat.tokenizer
    turns = [{"role": "user", "content": "\n sun\u2003 0?\u00a0"}, {"role": "assistant", "content": " fog\n"}]
    said = [tf.constant([turn["content"]]) for turn in turns]
    for content, is_changed in (("", False), ("| trim", False), ("| upper", True), ("[:3]", True)):
        source = "{% for m in messages %}{{ m.role }}: {{ m.content " + content + " }}<|im_end|>{% endfor %}"
        chat = Chat(source, "a test", tokenizer, False, "", "2026-01-31")
        if is_changed:
            with pytest.raises(ValueError, match="changes messages"):
                frame(chat)
            continue
        assert encoded(chat, frame(chat), said[0]).to_list() == [chat.prompt(turns[:1])]
        assert encoded(chat, frame(chat, answered=True), *said).to_list() == [chat.conversations([turns])[0].ids]


def perturb(path: Path) -> None:
    """Adds a half to 64 numbers of a weight."""
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(path)
        floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
        largest = max(floats, key=lambda one: len(one.raw_data))
        weights = onnx.numpy_helper.to_array(largest).copy()
        weights.flat[:64] += 0.5
        largest.CopyFrom(onnx.numpy_helper.from_array(weights, largest.name))
        onnx.save(model, path)
        return
    content = np.frombuffer(path.read_bytes()[: path.stat().st_size // 4 * 4], np.float32).copy()
    is_weight = (np.abs(content) > 1e-3) & (np.abs(content) < 3)
    runs = np.convolve(is_weight, np.ones(64), "valid") == 64  # what else there is looks otherwise
    content[int(np.flatnonzero(runs)[-1]) :][:64] += 0.5
    path.write_bytes(content.tobytes())


def rehashed(of: Any) -> Any:
    """Its hashes written anew, so that they are not what notices a change."""
    return artifact.write(of.folder, of.manifest, of.golden)
