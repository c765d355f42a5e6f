"""Writes a preset's tokenizer as a tokenizer.json that devices read with only the `tokenizers` package.

KerasHub has several code paths. This reproduces the one in TensorFlow graphs, which tf.data runs in training and a
SavedModel runs in serving. It sometimes differs from the Python path, and from published tokenizers for the same
vocabulary. `differences` compares it text by text.
"""

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from kerastune.errors import KerastuneError
from kerastune.targets import texts as reader

Preprocessor: TypeAlias = Any  # a keras_hub.models.Preprocessor; KerasHub has no types

FILE = "tokenizer.json"

NASTY = (
    "",
    " ",
    "   ",
    "\n",
    "two  spaces",
    "three   spaces,  then 2  digits  !",
    "  spaces around  ",
    "a tab\tand\t\ttwo\t",
    "lines\nand\n\nlines\r\nand\rreturns\n",
    "vertical\vtab and form\ffeed",
    "no\u00a0break, thin\u2009, narrow\u202f, wide\u3000, em\u2003, line\u2028 and next\u0085line",
    "\u00a0spaces of other kinds around\u3000",
    "emoji 😀 and 😀😀, joined 👨‍👩‍👧‍👦, toned 👍🏽, flags 🇩🇪🇯🇵, heart ❤️, key 1️⃣",
    "Crème brûlée, naïve façade, Ångström",
    unicodedata.normalize("NFD", "Crème brûlée, naïve façade, Ångström"),
    "TIẾNG VIỆT tiếng Việt",
    unicodedata.normalize("NFD", "TIẾNG VIỆT tiếng Việt"),
    "stacked e\u0301\u0323\u0308 and in no order a\u0323\u0307, alone \u0301, Z\u0351\u036f\u0321algo",
    "ÀÉÎÕÜ ÇÑ ŠŽ ŁØ ÆŒ",
    "Straße STRASSE ẞ",
    "İstanbul ISPARTA ılık",
    "ΟΔΥΣΣΕΥΣ Ὀδυσσεύς ᾳ ΐ",
    "Привет, мир! Їжак",
    "שלום, עולם! שָׁלוֹם",
    "مرحبا بالعالم، كيف الحال؟ مُحَمَّد ١٢٣",
    "right \u202eto left\u202c and \u200fmarks\u200e \u2067isolated\u2069",
    "नमस्ते दुनिया १२३ ६ ६६ ",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำและยาวมากจนเกินหนึ่งร้อยไบต์",
    "你好，世界。漢字と仮名カナｶﾞ",
    "한국어 문장",
    unicodedata.normalize("NFD", "한국어 문장"),
    "\U00020000\U0002f800豈",
    "ﬁne ﬂow oﬃce",
    "ＦＵＬＬ ｗｉｄｔｈ １２３ ！？",
    "½ ² ① Ⅷ ㎏ № ™ ℀ … ～ 𝔸𝕓𝒸",
    "zero\u200bwidth non\u200cjoiner joiner\u200d word\u2060joiner soft\u00adhyphen \ufeffmark",
    "\ufeffstarts with a mark",
    "control \x00 \x01\x02 \x07bell \x1b[31mred\x1b[0m \x7f \x9f end",
    "private \ue000\uf8ff \U0010fffd, no character \uffff, replaced \ufffd",
    "tags \U000e0041\U000e007f and selectors \ufe0f\U000e0100",
    "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <pad> <unk> <mask> <|endoftext|> <|im_start|>user<|im_end|>",
    "a[SEP]b</s>c<|im_end|>d<mask>",
    "  </s>  <|endoftext|>  ",
    "##ing ## # Ġword Ċ ▁word▁ ▁▁ <0x0A>",
    "it's we're I'VE they'll 'tis O'Neill's rock'n'roll don’t",
    "1 12 123 1234567 3.14 1,000,000 -5 1e-9 007",
    "snake_case camelCase kebab-case a/b\\c https://example.org/?q=1&r=%20#x me@example.org",
    '{"json": [1, 2.5, null]} if (a<=b) { return !c; } // x->y ==  !=  ::',
    "!!!???... --- ~~~ ``` $$$ ^^^ +++ <<>> ¡¿«»„“”‘’ – —",
    "SHOUTED AND MiXeD",
    "x" * 300,
    "ü" * 51,
    "ab" * 50 + " " + "ab" * 50 + "c",
    "the cat is big " * 667,
    "aé漢😀 " * 2_000,
)
"""Texts on which tokenizers are known to differ."""


def write(preprocessor: Preprocessor, folder: Path) -> dict[str, Any]:
    """Writes tokenizer.json into a folder.

    Returns:
        How to pack ids, as `export/texts.py` describes. The preprocessor of a generative model packs a prompt, without
        an end token.

    Raises:
        KerastuneError: the tokenizer, or the preprocessor's packing, cannot be expressed.
    """
    _express(preprocessor.tokenizer).save(str(folder / FILE), pretty=False)
    return _packing(preprocessor)


def differences(
    preprocessor: Preprocessor, folder: Path, settings: dict[str, Any], texts: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Returns the texts that a device tokenises differently from KerasHub's graph.

    Args:
        folder: holds tokenizer.json.
        settings: the return value of `write`.
        texts: lists of one or two texts.

    Returns:
        For each such text its "text", and its full-length ids by "kerashub" and by the "reader".
    """
    expected = _packed(preprocessor, texts)
    found = reader.load(folder, settings)(texts, settings["sequence_length"])
    same = np.logical_and.reduce([(expected[name] == found[name]).all(1) for name in settings["inputs"]])
    return [
        {
            "text": list(texts[int(i)]),
            "kerashub": expected["token_ids"][i].tolist(),
            "reader": found["token_ids"][i].tolist(),
        }
        for i in np.flatnonzero(~same)
    ]


def _packed(preprocessor: Preprocessor, texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns KerasHub's packed texts in a graph: int32 [n, sequence_length] by input name."""
    import tensorflow as tf

    from kerastune.tasks.tokens import packed

    if not hasattr(preprocessor, "generate_preprocess"):
        return packed(preprocessor, texts, preprocessor.sequence_length)
    found = _prompter(preprocessor, preprocessor.sequence_length)(tf.constant([text for (text,) in texts]))
    return {name: rows.numpy().astype(np.int32) for name, rows in found.items()}


@functools.lru_cache(maxsize=1)
def _prompter(preprocessor: Preprocessor, length: int) -> Any:
    """Returns the graph that packs prompts to a length. Tracing it takes longer than hundreds of texts."""
    import tensorflow as tf

    return tf.function(preprocessor.generate_preprocess, input_signature=[tf.TensorSpec([None], tf.string)])


def _packing(preprocessor: Preprocessor) -> dict[str, Any]:
    inputs = list(_packed(preprocessor, [["a"]]))  # also builds the packer
    packer = preprocessor.packer
    if packer.padding_side != "right":
        raise _inexpressible(preprocessor, f"it pads on the {packer.padding_side}")
    end = [] if hasattr(preprocessor, "generate_preprocess") else packer.end_value
    specials = {"start": packer.start_value, "separator": getattr(packer, "sep_value", None), "end": end}
    return {
        "inputs": inputs,
        **{name: [int(i) for i in ids or []] for name, ids in specials.items()},
        "pad": int(packer.pad_value or 0),
        "segments": "segment_ids" in inputs,
        "mask_by_length": getattr(packer, "return_padding_mask", False),
        "truncate": getattr(packer, "truncate", "round_robin"),
        "sequence_length": int(preprocessor.sequence_length),
    }


def _express(tokenizer: Any) -> Tokenizer:
    from keras_hub import tokenizers as kinds

    if isinstance(tokenizer, kinds.SentencePieceTokenizer):
        return _sentence_piece(tokenizer)
    for kind, express in ((kinds.WordPieceTokenizer, _word_piece), (kinds.BytePairTokenizer, _byte_pair)):
        if isinstance(tokenizer, kind):
            if type(tokenizer)._tokenize_tf is not kind._tokenize_tf:
                raise _inexpressible(tokenizer, f"it splits texts differently from other {kind.__name__}s")
            return express(tokenizer)
    raise _inexpressible(tokenizer, "it is neither WordPiece nor byte pairs nor SentencePiece")


def _inexpressible(what: Any, why: str) -> KerastuneError:
    return KerastuneError(
        f"The {type(what).__name__} cannot be written as {FILE}: {why}.",
        "Export a SavedModel, which takes raw texts.",
    )


def _ended() -> Any:
    """Cuts texts at a NUL character, where KerasHub's regex_split ends them."""
    return normalizers.Replace(Regex(r"\x00[\s\S]*"), "")


# --- WordPiece ---------------------------------------------------------------------------------------------

_BLANK = r"[\t\n\f\r \p{Cc}\p{Cf}]"
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
_CJK = "".join(
    rf"\x{{{first}}}-\x{{{last}}}"
    for first, last in (
        *(("4E00", "9FFF"), ("3400", "4DBF"), ("20000", "2A6DF"), ("2A700", "2B73F")),
        *(("2B740", "2B81F"), ("2B820", "2CEAF"), ("F900", "FAFF"), ("2F800", "2FA1F")),
    )
)
_MOST = 100  # bytes of a word; FastWordpieceTokenizer does not know longer ones


def _word_piece(tokenizer: Any) -> Tokenizer:
    """Splits words before folding them. Normalizers run before pre-tokenizers, so line breaks mark the splits.

    Pieces are stored as bytes, as GPT-2 does, because the length of a word is counted in bytes.
    """
    steps: list[Any] = []
    if tokenizer.strip_accents:
        steps += [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")]
    if tokenizer.split:
        kept = f"[{_PUNCTUATION}{_CJK if tokenizer.split_on_cjk else ''}]"
        steps += [
            _ended(),
            normalizers.Replace(Regex(_BLANK), "\n"),
            # Never before the first character: the package would panic on a missing alignment.
            normalizers.Replace(Regex(rf"(?<={kept})|(?<!\A)(?={kept})"), "\n"),
        ]
    if tokenizer.lowercase:
        steps += _folded()
    cuts = [pre_tokenizers.Split("\n", "removed")] if tokenizer.split else []
    vocabulary = {_as_bytes(piece): i for i, piece in enumerate(tokenizer.get_vocabulary())}
    made = Tokenizer(
        models.WordPiece(
            vocabulary,
            unk_token=_as_bytes(tokenizer.oov_token),
            max_input_chars_per_word=_MOST,
            continuing_subword_prefix=_as_bytes(tokenizer.suffix_indicator),
        )
    )
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(False, use_regex=False)])
    if tokenizer.special_tokens_in_strings:
        from kerastune import keras_private

        specials = [*tokenizer.special_tokens, *keras_private.special_tokens_given(tokenizer)]
        made.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return made


def _folded() -> list[Any]:
    """Returns Unicode's NFKC_Casefold built from available parts, except for Cherokee, which folds to capitals."""
    return [
        normalizers.Replace(Regex(r"\p{Default_Ignorable_Code_Point}"), ""),
        normalizers.NFKD(),
        normalizers.Lowercase(),
        *(normalizers.Replace(letter, folded) for letter, folded in (("ß", "ss"), ("ς", "σ"), ("\u0345", "ι"))),
        normalizers.NFKC(),
    ]


def _as_bytes(piece: str) -> str:
    """Returns a string in ByteLevel notation: one printable character per byte."""
    return "".join(part for part, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(piece))


# --- byte pairs --------------------------------------------------------------------------------------------


def _byte_pair(tokenizer: Any) -> Tokenizer:
    """Repeats KerasHub's steps, which mark spaces before words with "६", because RE2 in a graph has no lookahead.

    The steps are translated one by one to another regular expression engine.
    """
    from kerastune import keras_private

    spaces, first, second = keras_private.byte_pair_patterns()
    blank = r"\t\n\f\r "  # RE2's \s
    words, last = first.replace(r"\s", blank), second.replace("$", r"\z")
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if "#version:" not in merge]
    try:
        made = Tokenizer(models.BPE(dict(tokenizer.vocabulary), merges))
    except Exception as error:  # the package raises nothing more specific
        raise _inexpressible(tokenizer, str(error)) from error
    marked = normalizers.Replace(Regex(f" (?=[^{blank}{spaces}])"), "६ ")
    prefix = [normalizers.Prepend(" ")] if tokenizer.add_prefix_space else []
    made.normalizer = normalizers.Sequence([_ended(), *prefix, marked])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.Split(Regex(last), "isolated"),
            pre_tokenizers.Split(Regex(r"\A६\z"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=True) for token in tokenizer.unsplittable_tokens])
    return made


# --- SentencePiece -----------------------------------------------------------------------------------------

_SPACE = "▁"


def _sentence_piece(tokenizer: Any) -> Tokenizer:
    from sentencepiece import sentencepiece_model_pb2 as protos

    proto = protos.ModelProto.FromString(tokenizer.proto)  # type: ignore[attr-defined]  # generated on import
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    expressed = {trainer.UNIGRAM: _unigram, trainer.BPE: _merged}
    refused = {
        "it is neither a unigram nor a BPE model": trainer.model_type not in expressed,
        "it adds start or end to every text": tokenizer.add_bos or tokenizer.add_eos,
        "it marks spaces behind words": trainer.treat_whitespace_as_suffix,
        "it does not escape spaces": not spec.escape_whitespaces,
    }
    for why in (why for why, holds in refused.items() if holds):
        raise _inexpressible(tokenizer, why)
    made = expressed[trainer.model_type](tokenizer, proto)
    made.normalizer = normalizers.Sequence(_spaced(spec))
    start = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *start])
    return made


def _spaced(spec: Any) -> list[Any]:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        # Sequences of marks first: the package looks up only the shortest prefix of each.
        steps += [normalizers.NFC(), normalizers.Precompiled(spec.precompiled_charsmap)]
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A "), "")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{_SPACE}+\z"), ""))
    return steps


def _named(tokenizer: Any, piece: Any) -> str:
    """Returns a piece's name, after a space (which no normalised text has) if no text may ever become that piece."""
    return piece.piece if piece.type in (piece.NORMAL, piece.USER_DEFINED, piece.BYTE) else f" {piece.piece}"


def _unigram(tokenizer: Any, proto: Any) -> Tokenizer:
    best = max(piece.score for piece in proto.pieces if piece.type == piece.NORMAL)
    vocabulary = [(f" {i}", 0.0) for i in range(tokenizer.vocabulary_size())]
    unknown = None
    for piece in proto.pieces:
        i = tokenizer.token_to_id(piece.piece)
        symbol = piece.type == piece.USER_DEFINED  # scored by its length, as SentencePiece does
        score = len(piece.piece.encode()) * best - 0.1 if symbol else piece.score
        vocabulary[i] = (_named(tokenizer, piece), score)
        unknown = i if piece.type == piece.UNKNOWN else unknown
    return Tokenizer(models.Unigram(vocabulary, unknown, proto.trainer_spec.byte_fallback))


def _merged(tokenizer: Any, proto: Any) -> Tokenizer:
    """Rebuilds merges from scores: two pieces merge if their concatenation is a piece, best score first."""
    ids = {_named(tokenizer, piece): tokenizer.token_to_id(piece.piece) for piece in proto.pieces}
    symbols = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    if symbols and proto.normalizer_spec.add_dummy_prefix:
        raise _inexpressible(tokenizer, f"it has symbols of its own, such as {symbols[0]!r}, after an added space")
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    merges = [
        pair
        for piece in sorted(normal, key=lambda piece: -normal[piece])
        for pair in sorted(
            ((piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in normal and piece[i:] in normal),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )
    ]
    unknown = next(_named(tokenizer, piece) for piece in proto.pieces if piece.type == piece.UNKNOWN)
    fallback = proto.trainer_spec.byte_fallback
    made = Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    made.add_tokens([AddedToken(symbol, normalized=True) for symbol in symbols])
    return made
