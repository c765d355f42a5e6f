"""Hugging Face folders, in and out: transformers says of a tuned language model what Keras says, and KerasHub, too."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import export, fine_tune, predict, verify
from kerastune.errors import RecipeError, VerificationError
from kerastune.formats import FORMATS, support
from kerastune.recipe import Export, parse
from kerastune.tasks import tokenizer
from kerastune.tasks.causal_lm import hugging_face
from kerastune.verifying import artifact, runtimes

HERE = runtimes.RUNTIMES["transformers"]
needs_transformers = pytest.mark.skipif(not HERE.version, reason=HERE.install)

ENDED = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] }}{{ eos_token if m.role == 'assistant' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
TALKS = ["sun 0?", "  two  spaces ", "naïve 花 🙂, cafe\u0301, it's", "a line\n\n and another "]


def sentence_piece_lm(family: str) -> Any:
    """A new language model whose tokens SentencePiece made; Mistral's heads are wider than their share."""
    import keras
    import keras_hub as hub
    import sentencepiece

    pieces = {"Gemma": ("<pad>", "<eos>", "<bos>", "<unk>"), "Mistral": ("<unk>", "<s>", "</s>")}[family]
    named = dict(zip(("pad", "eos", "bos", "unk") if family == "Gemma" else ("unk", "bos", "eos"), pieces, strict=True))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["sun sea fog gull rope salt tide wind 0 1 2 ? ! user assistant [ ]"] * 9),
        model_writer=(made := io.BytesIO()),
        model_type="bpe",
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        add_dummy_prefix=family == "Mistral",
        remove_extra_whitespaces=False,
        **({"pad_id": -1} | {f"{name}_id": i for i, name in enumerate(named)}),
        **{f"{name}_piece": piece for name, piece in named.items()},
    )
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    kind = getattr(hub.models, f"{family}CausalLM")
    cutter = kind.preprocessor_cls.tokenizer_cls(proto=made.getvalue())
    size = {"vocabulary_size": cutter.vocabulary_size(), "num_layers": 2, "hidden_dim": 32, "intermediate_dim": 64}
    size |= {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 16 if family == "Gemma" else 24}
    backbone = getattr(hub.models, f"{family}Backbone")(**size)
    return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(cutter, sequence_length=96))


def written(family: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model with no weight at its first value, its Hugging Face folder, and what Keras says of `TALKS`."""
    import tiny
    from conftest import CHATML

    from kerastune.tasks.causal_lm import task as causal_lm
    from kerastune.tasks.causal_lm import tracing
    from kerastune.tasks.causal_lm.chats import Chat

    task = sentence_piece_lm(family) if family in ("Gemma", "Mistral") else tiny.causal_lm(family)
    random = np.random.default_rng(0)
    for weight in task.weights:
        weight.assign(weight.numpy() + 0.1 * random.normal(size=weight.shape).astype(np.float32))
    template = ENDED if family in ("Gemma", "Mistral", "Llama3") else CHATML
    starts = bool(getattr(task.preprocessor, "add_start_token", False))
    task.chat = Chat(template, "test", task.preprocessor.tokenizer, starts, None, "2026-01-31")
    (cutter := folder / "tokenizer").mkdir(parents=True)
    tokenizer.write(task.preprocessor, cutter)
    causal_lm.write_beside(task, cutter)
    hugging_face.write(task, tracing.contract(task), cutter, folder / family)
    prompts = [task.chat.prompt([{"role": "user", "content": text}]) for text in TALKS]
    return task, {"ids": prompts, "logits": [logits(task, ids) for ids in prompts]}


def logits(task: Any, ids: list[int]) -> Any:
    row = np.array([ids])
    return np.asarray(task({"token_ids": row, "padding_mask": np.ones_like(row)}, training=False))[0]


ASK = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

for folder in sys.argv[1:]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in TALKS
    ]
    said = {f"{i:03}": model(torch.tensor([row])).logits[0].detach().numpy() for i, row in enumerate(ids)}
    np.savez(Path(folder).with_suffix(".npz"), **said)
    Path(folder).with_suffix(".json").write_text(json.dumps(ids))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each family, what Keras said, and what transformers says in a process without TensorFlow."""
    folder = tmp_path_factory.mktemp("folders")
    said = {family: {"keras": written(family, folder / family)[1]} for family in FORMATS["transformers"].families}
    paths = [folder / family / family for family in said]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", f"TALKS = {TALKS!r}{ASK}", *map(str, paths)], check=True, env=offline)
    for path in paths:
        with np.load(path.with_suffix(".npz")) as stored:
            found = {"ids": json.loads(path.with_suffix(".json").read_text()), "logits": [stored[k] for k in stored]}
            said[path.name]["transformers"] = found
    return said


@needs_transformers
@pytest.mark.parametrize("family", FORMATS["transformers"].families)
def test_a_family_says_in_transformers_what_it_says_in_keras(asked: dict[str, Any], family: str) -> None:
    """The chat template's tokens are the same, and logits within 1e-4."""
    keras, theirs = asked[family]["keras"], asked[family]["transformers"]
    assert theirs["ids"] == keras["ids"]
    for ours, found in zip(keras["logits"], theirs["logits"], strict=True):
        np.testing.assert_allclose(found, ours, atol=1e-4)
    assert max(np.ptp(row) for row in keras["logits"]) > 1


@pytest.mark.parametrize("family", ["Qwen", "Llama3", "Gemma"])
def test_a_folder_that_was_written_is_a_preset_again(family: str, tmp_path: Path, chat_recipe: Any) -> None:
    """Equal logits, tokens and chat template, through KerasHub's reader of Hugging Face folders."""
    from kerastune.tasks.causal_lm import task as causal_lm

    _, said = written(family, tmp_path)
    recipe = chat_recipe(preset=str(tmp_path / family))
    again = causal_lm.build(recipe, recipe.preset, 0, "float32")
    assert again.chat.origin == "chat_template.jinja"
    for text, ids, expected in zip(TALKS, said["ids"], said["logits"], strict=True):
        assert again.chat.prompt([{"role": "user", "content": text}]) == ids
        np.testing.assert_allclose(logits(again, ids), expected, atol=1e-5)


def test_kerashub_reads_the_tokenizer_of_a_gpt2_that_was_written(tmp_path: Path) -> None:
    import keras_hub

    task, _ = written("GPT2", tmp_path)
    again = keras_hub.models.GPT2Tokenizer.from_preset(str(tmp_path / "GPT2"))
    assert again.get_vocabulary() == task.preprocessor.tokenizer.get_vocabulary()
    assert list(again.merges) == list(task.preprocessor.tokenizer.merges)


FOLDERS = Path(__file__).with_name("hugging_face")
"""Tiny models as transformers saves them, and what it says: tests/make_hugging_face_folders.py."""


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_folder_of_transformers_says_in_keras_what_it_said_there(family: str, chat_recipe: Any) -> None:
    """Equal tokens, logits within 1e-4, and the folder's own chat template."""
    from kerastune.tasks.causal_lm import task as causal_lm

    recipe = chat_recipe(preset=str(FOLDERS / family))
    task = causal_lm.build(recipe, recipe.preset, 0, "float32")
    assert task.chat.source == (FOLDERS / family / "chat_template.jinja").read_text("utf-8")
    with np.load(FOLDERS / family / "said.npz") as said:
        for i, text in enumerate(said["texts"].tolist()):
            assert task.chat.encode([text])[0][-len(said[f"ids_{i}"]) :] == said[f"ids_{i}"].tolist()
            np.testing.assert_allclose(logits(task, said[f"ids_{i}"].tolist())[-1], said[f"found_{i}"], atol=1e-4)


def test_an_encoder_of_transformers_says_in_keras_what_it_said_there(texts: Path) -> None:
    """Equal tokens, and the last hidden state within 1e-4."""
    from kerastune.tasks.text_classification import task as text_classification

    values = {
        "name": "bert",
        "task": "text_classification",
        "preset": str(FOLDERS / "bert"),
        "phases": [{"unfreeze": "all", "epochs": 1, "learning_rate": 1e-3}],
    }
    recipe = parse({**values, "data": {"source": "csv", "path": str(texts)}}, "test")
    task = text_classification.build(recipe, recipe.preset, 2, "float32")
    with np.load(FOLDERS / "bert" / "said.npz") as said:
        for i, text in enumerate(said["texts"].tolist()):
            ids = said[f"ids_{i}"].astype(np.int32)[None]
            rows = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
            assert np.asarray(task.preprocessor(text)["token_ids"])[: ids.shape[1]].tolist() == ids[0].tolist()
            found = np.asarray(task.backbone(rows)["sequence_output"])[0, -1]
            np.testing.assert_allclose(found, said[f"found_{i}"], atol=1e-4)


def test_positions_scaled_in_a_way_that_kerashub_does_not_read_are_refused(tmp_path: Path, chat_recipe: Any) -> None:
    from kerastune.tasks.causal_lm import task as causal_lm

    folder = shutil.copytree(FOLDERS / "qwen2", tmp_path / "qwen2")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rope_parameters"] |= {"rope_type": "yarn", "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    recipe = chat_recipe(preset=str(folder))
    with pytest.raises(RecipeError, match="scales its positions by 'yarn'"):
        causal_lm.build(recipe, recipe.preset, 0, "float32")


# --- exports -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(chat_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A Qwen's run, and its artifact."""
    phases = [{"unfreeze": "all", "epochs": 6, "learning_rate": 1e-2, "lora": False}]
    run = fine_tune(chat_recipe("Qwen", phases=phases), tmp_path_factory.mktemp("runs") / "run")
    (folder,) = export(run, Export(target="transformers"))
    return {"run": run, "folder": folder}


@pytest.mark.slow
@needs_transformers
def test_an_artifact_answers_in_transformers_as_in_keras(made: dict[str, Any]) -> None:
    """Twenty prompts by transformers' own template, tokens and `generate`; within 1e-4 nats a token."""
    (report,) = made["folder"].report.runtimes.values()
    assert report.passed, report
    assert report.generation.equal == report.generation.prompts == 20
    assert report.golden.max_error <= 1e-4 and report.validation.outputs.max_error <= 1e-4
    theirs, ours = (predict(made[name], ["sun 0?", "tide 1?"], max_tokens=8) for name in ("run", "folder"))
    assert theirs == ours


@pytest.mark.slow
@needs_transformers
def test_a_changed_weight_of_an_artifact_is_caught(made: dict[str, Any], copied: Callable[[Any], Any]) -> None:
    of = copied(made["folder"])
    path = of.folder / of.manifest.model
    content = bytearray(path.read_bytes())
    content[-4000:] = (np.frombuffer(bytes(content[-4000:]), np.float32) + 0.5).astype(np.float32).tobytes()
    path.write_bytes(content)
    artifact.write(of.folder, of.manifest, of.golden)
    with pytest.raises(VerificationError, match="largest error"):
        verify(of.folder, made["run"].folder)


def test_what_kerashub_does_not_write_is_refused_with_what_it_does() -> None:
    why = support.refusal("Qwen3Backbone", "transformers", "none", "text")
    assert why == "Qwen3 cannot be exported as transformers, only Gemma, GPT2, Llama3, Mistral, Qwen, Speech"


def test_a_recipe_of_another_task_is_refused() -> None:
    values = {
        "name": "a",
        "task": "text_classification",
        "preset": "bert",
        "phases": [{"unfreeze": "all", "epochs": 1, "learning_rate": 1e-3}],
    }
    values |= {"data": {"source": "csv", "path": "a.csv"}, "exports": [{"target": "transformers"}]}
    with pytest.raises(RecipeError, match="target transformers is for conversations and sounds"):
        parse(values, "test")
