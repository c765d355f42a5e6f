"""Tokenizer files: with them a device sees texts as KerasHub's graph does, or the difference is reported."""

import csv
import io
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import tiny
from keras_hub import models as hub
from tokenizers import pre_tokenizers

from kerastune.errors import KerastuneError
from kerastune.targets import texts as reader
from kerastune.tasks.tokenizer import NASTY, differences, write

EXPORT = Path(__file__).parents[1] / "export"
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [
    "Ġ t",
    "h e",
    "Ġt he",
    "Ġ Ġ",
    "ĠĠ ĠĠ",
    "Ġ a",
    "a a",
    "aa aa",
    "Ċ Ċ",
    "1 2",
    "12 3",
    "Ġ 1",
    "x x",
    "' s",
    "Ã ©",
]


def one_each(texts: Any) -> list[list[str]]:
    return [[text] for text in texts]


def rows(texts: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(texts.read_text("utf-8"))))


def byte_pairs(*specials: str) -> dict[str, Any]:
    pieces = [*LETTERS, *specials, *(merge.replace(" ", "") for merge in MERGES)]
    return {"vocabulary": {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, "merges": MERGES}


def word_piece(**settings: Any) -> Any:
    """BERT's preprocessor, with a vocabulary of every character in NASTY, in all its forms."""
    forms = [NASTY, *([unicodedata.normalize(form, text) for text in NASTY] for form in ("NFD", "NFKC"))]
    characters = {c for form in forms for text in form for c in text + text.casefold()}
    characters = sorted(c for c in characters if not c.isspace() and unicodedata.category(c) != "Cc")
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "##the",
        *characters,
        *(f"##{c}" for c in characters),
    ]
    return hub.BertTextClassifierPreprocessor(hub.BertTokenizer(pieces, **settings), sequence_length=128)


def sentence_piece(**settings: Any) -> bytes:
    import sentencepiece

    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    texts = iter([*NASTY[3:-2], " ".join(tiny.WORDS)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=(made := io.BytesIO()),
        vocab_size=1000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **{**names, **ids, **settings},
    )
    return made.getvalue()


PREPROCESSORS: dict[str, Callable[[], Any]] = {
    **{
        family: lambda family=family: tiny.text_classifier(family).preprocessor
        for family in ("Bert", "DistilBert", "Roberta", "DebertaV3")
    },
    "cased": lambda: word_piece(),
    "lowercase": lambda: word_piece(lowercase=True),
    "without accents": lambda: word_piece(lowercase=True, strip_accents=True),
    "with specials": lambda: word_piece(lowercase=True, special_tokens_in_strings=True),
    "GPT-2": lambda: hub.GPT2CausalLMPreprocessor(hub.GPT2Tokenizer(**byte_pairs("<|endoftext|>"))),
    "Qwen3": lambda: hub.Qwen3CausalLMPreprocessor(hub.Qwen3Tokenizer(**byte_pairs("<|im_end|>", "<|endoftext|>"))),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Any]:
    """A preprocessor, the folder that its tokenizer.json was written to, and how it packs."""

    def make(name: str, length: int) -> Any:
        preprocessor = PREPROCESSORS[name]()
        preprocessor.sequence_length = length
        return preprocessor, tmp_path, write(preprocessor, tmp_path)

    return make


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_a_device_sees_texts_as_training_did(name: str, written: Callable[..., Any], texts: Path) -> None:
    known = [row["text"] for row in rows(texts)]
    assert differences(*written(name, 128), one_each([*NASTY, *known])) == []


@pytest.mark.parametrize(
    ("name", "truncate"),
    [
        *((name, "round_robin") for name in ("Bert", "DistilBert", "Roberta", "DebertaV3", "lowercase")),
        ("Bert", "waterfall"),
    ],
)
def test_pairs_are_packed_and_cut_off_alike(name: str, truncate: str, written: Callable[..., Any], texts: Path) -> None:
    preprocessor, folder, _ = written(name, 19)
    preprocessor.packer.truncate = truncate
    known = [[row["text"], row["pair"]] for row in rows(texts)]
    pairs = [*map(list, zip(NASTY, reversed(NASTY), strict=True)), *known]
    settings = write(preprocessor, folder)
    assert settings["truncate"] == truncate
    assert differences(preprocessor, folder, settings, pairs) == []


def swapped(file: dict[str, Any], settings: dict[str, Any]) -> None:
    vocabulary = file["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]


def cased(file: dict[str, Any], settings: dict[str, Any]) -> None:
    file["normalizer"]["normalizers"].remove({"type": "Lowercase"})


def unmerged(file: dict[str, Any], settings: dict[str, Any]) -> None:
    file["model"]["merges"].remove(["h", "e"])


def endless(file: dict[str, Any], settings: dict[str, Any]) -> None:
    settings["end"] = []


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("Bert", swapped, "the cat is old"),
        ("Bert", cased, "The car is old"),
        ("Roberta", unmerged, "see the car"),
        ("Bert", endless, "a car"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_caught(
    name: str, change: Callable[..., None], text: str, written: Callable[..., Any]
) -> None:
    preprocessor, folder, settings = written(name, 16)
    assert differences(preprocessor, folder, settings, [[text], ["is"]]) == []
    file = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(file, settings)
    (folder / "tokenizer.json").write_text(json.dumps(file), "utf-8")
    found = differences(preprocessor, folder, settings, [[text], ["is"]])
    assert [text] in [difference["text"] for difference in found]
    assert found[0]["kerashub"] != found[0]["reader"]


def test_what_cannot_be_expressed_is_reported_text_by_text(written: Callable[..., Any]) -> None:
    """KerasHub holds the place of a special token with "ĴA", and takes one in a text for it."""
    found = differences(*written("GPT-2", 16), [["plain"], ["a ĴA b"]])
    assert [difference["text"] for difference in found] == [["a ĴA b"]]


def test_sentencepiece_of_pairs_meets_texts_of_any_kind(tmp_path: Path) -> None:
    proto = sentence_piece(model_type="bpe", normalization_rule_name="identity", byte_fallback=True)
    preprocessor = hub.DebertaV3TextClassifierPreprocessor(hub.DebertaV3Tokenizer(proto), sequence_length=256)
    assert differences(preprocessor, tmp_path, write(preprocessor, tmp_path), one_each(NASTY)) == []


def test_a_unigram_model_differs_on_rare_marks(tmp_path: Path) -> None:
    """The package looks up whole graphemes: marks on marks in no order, and half-width kana with a mark, are lost."""
    preprocessor = hub.DebertaV3TextClassifierPreprocessor(hub.DebertaV3Tokenizer(sentence_piece()), sequence_length=64)
    marked = [text for text in NASTY if text[:4] != unicodedata.normalize("NFC", text)[:4]]  # written decomposed
    lost = ["a\u0323\u0307 e\u0301\u0323\u0308", "ｶﾞ"]
    found = differences(preprocessor, tmp_path, write(preprocessor, tmp_path), one_each([*marked, "ﬁne", *lost]))
    assert len(marked) >= 2 and [difference["text"][0] for difference in found] == lost


def test_a_model_that_sees_its_padding_gets_the_full_length(tmp_path: Path) -> None:
    proto = tiny._vocabulary("DebertaV3")["proto"].replace(b"[PAD]", b"<pad>")  # of the same length
    preprocessor = hub.FNetTextClassifierPreprocessor(hub.FNetTokenizer(proto), sequence_length=24)
    settings = write(preprocessor, tmp_path)
    assert reader.load(tmp_path, settings)([["the cat"]])["token_ids"].shape == (1, 24)
    assert settings["inputs"] == ["token_ids", "segment_ids"]
    assert differences(preprocessor, tmp_path, settings, [["the cat"], ["big"]]) == []


def test_tokenizers_that_cannot_be_expressed_say_why(tmp_path: Path) -> None:
    words = hub.DebertaV3Tokenizer(sentence_piece(model_type="word"))
    clip = hub.CLIPTokenizer(**byte_pairs("<|startoftext|>", "<|endoftext|>"))
    for tokenizer, why in (
        (words, "DebertaV3Tokenizer .* neither a unigram nor a BPE model"),
        (clip, "CLIPTokenizer .* splits texts differently from other BytePairTokenizers"),
        (keras_hub.tokenizers.ByteTokenizer(), "ByteTokenizer .* neither WordPiece nor"),
    ):
        with pytest.raises(KerastuneError, match=why):
            write(hub.TextClassifierPreprocessor(tokenizer), tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_the_reader_needs_neither_tensorflow_nor_keras(written: Callable[..., Any]) -> None:
    _, folder, settings = written("Bert", 16)
    code = (
        "import json, sys, texts\n"
        "found = texts.load(sys.argv[1], json.loads(sys.argv[2]))([['The cat is big'], ['old']])\n"
        "heavy = [name for name in ('tensorflow', 'keras', 'keras_hub', 'kerastune') if name in sys.modules]\n"
        "print(json.dumps([heavy, found['token_ids'].tolist()]))"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(settings)]
    out = subprocess.run(command, cwd=EXPORT, capture_output=True, text=True, check=True).stdout
    expected = reader.load(folder, settings)([["The cat is big"], ["old"]])["token_ids"]
    assert json.loads(out) == [[], expected.tolist()]
    assert expected.dtype == np.int32 and expected.shape == (2, 6)
