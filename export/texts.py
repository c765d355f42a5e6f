"""Prepares texts for an exported model, without kerastune: numpy and the tokenizers package.

tokenizer.json turns a text into ids. manifest.json has the settings for packing ids into rows under "reading":

    inputs           names of the rows the model takes: token_ids, and padding_mask or segment_ids
    start, separator, end
                     ids before the first text, between two, and after the last
    pad              the id for padding
    mask_by_length   whether padding_mask marks all packed ids, or all ids that are not `pad`
    truncate         how to truncate two texts that are too long together: round_robin or waterfall
    sequence_length  the longest row, in ids
    length           the length of all rows, if the model takes only one length
    pairs            whether an example is two texts
"""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def asked(arguments, settings):
    """Yields the name and the example for each given text, or for each two if an example is a pair."""
    sides = 2 if settings["pairs"] else 1
    if len(arguments) % sides:
        sys.exit(f"this model takes pairs of texts, but there are {len(arguments)} texts")
    for at in range(0, len(arguments), sides):
        yield " | ".join(arguments[at : at + sides]), np.array(arguments[at : at + sides])


def taking(predict, folder, settings):
    """Returns a function from an example, str [1 or 2], or a batch, str [B, 1 or 2], to inputs."""
    if getattr(predict, "takes_strings", False):
        return lambda texts: dict(zip(("texts", "pairs"), np.atleast_2d(texts).T, strict=False))
    tokenised = load(folder, settings)
    return lambda texts: tokenised(np.atleast_2d(texts).tolist())


def load(folder, settings):
    """Returns `tokenised(texts, length=None)` for the tokenizer.json in `folder`, packing as in `settings`."""
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))

    def tokenised(texts, length=None):
        """Tokenises B lists of one or two texts to rows by input name, int32 [B, L].

        Args:
            length: L. By default the longest row's, or the model's if it takes only one length or has no padding mask.
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
        """Returns the ids of all texts as one row, and the index of the text for each id."""
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
    """Returns how many tokens of each text fit: alternately one of each, or first as many as possible of the first."""
    kept = [0] * len(lengths)
    if truncate == "waterfall":
        for i, length in enumerate(lengths):
            kept[i] = min(length, room - sum(kept))
        return kept
    while sum(kept) < min(room, sum(lengths)):
        for i, length in enumerate(lengths):
            kept[i] += kept[i] < length and sum(kept) < room
    return kept
