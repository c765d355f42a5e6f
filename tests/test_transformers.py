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

from kerastune import artifact, export, fine_tune, hugging_face, inference, runtimes, support, tokenizer, verify
from kerastune.errors import KerastuneError, RecipeError, VerificationError
from kerastune.recipe import Export

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

    from kerastune.tasks import causal_lm
    from kerastune.tasks.chats import Chat

    task = sentence_piece_lm(family) if family in ("Gemma", "Mistral") else tiny.causal_lm(family)
    random = np.random.default_rng(0)
    for weight in task.weights:
        weight.assign(weight.numpy() + 0.1 * random.normal(size=weight.shape).astype(np.float32))
    template = ENDED if family in ("Gemma", "Mistral", "Llama3") else CHATML
    starts = bool(getattr(task.preprocessor, "add_start_token", False))
    task.chat = Chat(template, "test", task.preprocessor.tokenizer, starts, None)
    (cutter := folder / "tokenizer").mkdir(parents=True)
    tokenizer.write(task.preprocessor, cutter)
    causal_lm.write_beside(task, cutter)
    hugging_face.write(task, causal_lm.contract(task), cutter, folder / family)
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
    said = {family: {"keras": written(family, folder / family)[1]} for family in support.TRANSFORMERS}
    paths = [folder / family / family for family in said]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", f"TALKS = {TALKS!r}{ASK}", *map(str, paths)], check=True, env=offline)
    for path in paths:
        with np.load(path.with_suffix(".npz")) as stored:
            found = {"ids": json.loads(path.with_suffix(".json").read_text()), "logits": [stored[k] for k in stored]}
            said[path.name]["transformers"] = found
    return said


@needs_transformers
@pytest.mark.parametrize("family", support.TRANSFORMERS)
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
    from kerastune.tasks import causal_lm

    task, said = written(family, tmp_path)
    recipe = chat_recipe(preset=str(tmp_path / family))
    again = causal_lm.build(recipe, recipe.preset, 0, "float32")
    assert again.chat.origin == "chat_template.jinja"
    for text, ids, expected in zip(TALKS, said["ids"], said["logits"], strict=True):
        assert again.chat.prompt([{"role": "user", "content": text}]) == ids
        np.testing.assert_allclose(logits(again, ids), expected, atol=1e-5)
