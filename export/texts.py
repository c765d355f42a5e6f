"""Texts as an exported model takes them, without kerastune: numpy and the tokenizers package.

tokenizer.json makes ids of a text; how ids are packed into rows is a part of manifest.json, under "reading":

    inputs           names of the rows the model takes: token_ids, and padding_mask or segment_ids
    start, separator, end
                     ids before the first text, between two, and after the last
    pad              the id that fills rows up
    mask_by_length   whether padding_mask marks whatever was packed, or every id that is not `pad`
    truncate         which of two texts is cut off when both are too long together: round_robin or waterfall
    sequence_length  the longest row, in ids
    length           of a model that takes rows of one length: that length
    pairs            whether an example is two texts
"""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def asked(arguments, settings):
    """Texts that were given, two in a row where an example is a pair: what to call each, and the example."""
    sides = 2 if settings["pairs"] else 1
    if len(arguments) % sides:
        sys.exit(f"this model takes pairs of texts, and there are {len(arguments)} texts")
    for at in range(0, len(arguments), sides):
        yield " | ".join(arguments[at : at + sides]), np.array(arguments[at : at + sides])


def taking(predict, folder, settings):
    """What makes model inputs of an example, str [1 or 2], or of a batch of them, str [B, 1 or 2]."""
    if getattr(predict, "takes_strings", False):
        return lambda texts: dict(zip(("texts", "pairs"), np.atleast_2d(texts).T, strict=False))
    tokenised = load(folder, settings)
    return lambda texts: tokenised(np.atleast_2d(texts).tolist())


def load(folder, settings):
    """`tokenised(texts, length=None)` of the tokenizer.json in `folder`, packing as `settings` say."""
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))

    def tokenised(texts, length=None):
        """Rows by the name of the input, int32 [B, L], of B lists of one or two texts each.

        Args:
            length: L. By default the longest row's; of a model that takes one length, or is not told what is padding,
                that length.
        """
        rows = [pack([e.ids for e in tokenizer.encode_batch(parts, add_special_tokens=False)]) for parts in texts]
        if length is None:
            length = settings.get("length")
        if length is None and "padding_mask" not in settings["inputs"]:
            length = settings["sequence_length"]
        shape = len(rows), max((len(ids) for ids, _ in rows), default=0) if length is None else length
        found = {"token_ids": np.full(shape, settings["pad"], np.int32)}
        found |= {name: np.zeros(shape, np.int32) for name in ("padding_mask", "segment_ids")}
        for i, (ids, segments) in enumerate(rows):
            found["token_ids"][i, : len(ids)] = ids
            found["segment_ids"][i, : len(ids)] = segments
            found["padding_mask"][i, : len(ids)] = 1
        if not settings["mask_by_length"]:
            found["padding_mask"] = (found["token_ids"] != settings["pad"]).astype(np.int32)
        return {name: found[name] for name in settings["inputs"]}

    def pack(parts):
        """The ids of all texts as one row, and which text each id belongs to."""
        start, separator, end = (settings[name] for name in ("start", "separator", "end"))
        room = settings["sequence_length"] - len(start) - (len(parts) - 1) * len(separator) - len(end)
        ids, segments = list(start), [0] * len(start)
        kept = shares([len(part) for part in parts], room, settings["truncate"])
        for i, part in enumerate(parts):
            more = part[: kept[i]] + (end if i == len(parts) - 1 else separator)
            ids, segments = ids + more, segments + [i] * len(more)
        return ids, segments

    return tokenised


def shares(lengths, room, truncate):
    """How much of each text fits: a token of each in turn, or all that there is of the first."""
    kept = [0] * len(lengths)
    if truncate == "waterfall":
        for i, length in enumerate(lengths):
            kept[i] = min(length, room - sum(kept))
        return kept
    while sum(kept) < min(room, sum(lengths)):
        for i, length in enumerate(lengths):
            kept[i] += kept[i] < length and sum(kept) < room
    return kept
