"""Long recordings: where windows begin, what is written down once more, how transcripts are joined; without models."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kerastune.targets import audio, recordings

WINDOW = 12 * 16_000
TOLD = {"samples": WINDOW, "words": 1000, "end": 1000}
WORDS = list(range(150))


def numbers() -> Any:
    """A sound of 37.5 s that says a number every 0.25 s, with a pause after every second one."""
    loud = np.where(np.arange(8_000) < 7_000, 0.3, 0.0)
    return np.tile(loud, len(WORDS) // 2).astype(np.float32)


def telling(start: int, count: int = 1000) -> recordings.Written:
    """What a window says: the numbers that it hears whole, or some of them."""
    tokens = [k for k in WORDS if start <= k * 4_000 and (k + 1) * 4_000 <= start + WINDOW]
    return recordings.Written([*tokens[:count], TOLD["end"]], [0.0] * (len(tokens[:count]) + 1), b"")


def told(sound: Any, first: Callable[[int], Any], again: Callable[[int], Any]) -> tuple[list[int], list[int]]:
    """The transcript of a sound, and the windows that were written down once more."""
    starts, more = recordings.beginnings(sound, WINDOW), list[int]()

    def write(new: list[int]) -> list[Any]:
        more.extend(new)
        return [again(start) for start in new]

    parts = recordings.mended({start: first(start) for start in starts}, sound, write, TOLD)
    return recordings.joined(parts, lambda tokens: b"", TOLD).tokens, more


def test_windows_begin_at_pauses_overlap_by_a_third_and_leave_nothing_out() -> None:
    sound = numbers()
    starts = recordings.beginnings(sound, WINDOW)
    assert starts[0] == 0 and starts[-2] + WINDOW < len(sound) <= starts[-1] + WINDOW
    for one, following in pairwise(starts):
        assert WINDOW / 2 <= following - one <= WINDOW * 2 / 3
        assert not sound[following : following + 300].any()
    assert recordings.beginnings(sound[:WINDOW], WINDOW) == [0]
    np.testing.assert_array_equal(
        recordings.window(sound, starts[-1], WINDOW)[: len(sound) - starts[-1]], sound[starts[-1] :]
    )


def test_windows_that_agree_are_not_written_down_again() -> None:
    assert told(numbers(), telling, telling) == (WORDS, [])


@pytest.mark.parametrize(("place", "count"), [(n, count) for n in (1, 2, 3, 4) for count in (0, 1, 12, 24)] + [(5, 1)])
def test_a_window_that_gives_up_is_written_down_from_other_pauses(place: int, count: int) -> None:
    sound = numbers()
    bad = recordings.beginnings(sound, WINDOW)[place]
    first = lambda start: telling(start, count if start == bad else 1000)  # noqa: E731
    found, more = told(sound, first, telling)
    assert found == WORDS and 0 < len(more) <= 4


def test_a_first_window_that_gives_up_loses_little() -> None:
    found, more = told(numbers(), lambda start: telling(start, 1000 if start else 1), telling)
    assert found == [0, *WORDS[151 - len(found) :]] and len(found) > 150 - 12 and len(more) <= 3


def test_a_window_that_repeats_itself_is_written_down_from_another_pause() -> None:
    sound = numbers()
    bad = recordings.beginnings(sound, WINDOW)[2]
    loop = recordings.Written([7, 8] * 10, [0.0] * 20, b"")
    found, more = told(sound, lambda start: loop if start == bad else telling(start), telling)
    assert more and [token for token in found if token not in (7, 8)] == [k for k in WORDS if k not in (7, 8)]


def test_what_is_never_told_is_asked_for_once() -> None:
    found, more = told(numbers(), lambda start: telling(start, 0), lambda start: telling(start, 0))
    assert found == [] and len(more) == len(set(more)) == 6


def test_nothing_is_lost_in_silence() -> None:
    sound = numbers()
    sound[9 * 16_000 : 27 * 16_000] = 0
    heard = lambda start: recordings.Written([k for k in telling(start).tokens if k < 36 or k >= 108], [0.0] * 60, b"")  # noqa: E731
    assert told(sound, heard, telling)[1] == []


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (["abcdef", "defghi"], "abcdefghi"),
        (["abcdeX", "Ycdefg"], "abcdefg"),  # a torn word at each edge
        (["abcdef", "dXXefghi", "ghijkl"], "abcdefghijkl"),  # more between equal tokens
        (["abcdefXcdefXcdef", "defghi"], "abcdefghi"),  # a repetition at the end of a window
        (["abcdef", "deYdeYdefgh"], "abcdefgh"),  # at the beginning
        (["abc", "def"], "abcdef"),  # nothing in common: nothing is left out
        (["abcd", "dxyz"], "abcddxyz"),  # one token is no evidence
        (["", "abc"], "abc"),
        (["abcdef", "bc", "xyz"], "abcdefxyz"),  # a window that gave up
        (["abcdef", "bc", "efghi"], "abcdefghi"),
        (["abcdef", "", "", "efghi"], "abcdefefghi"),  # the first and the last window do not overlap
    ],
)
def test_transcripts_are_joined_where_they_have_most_in_common(windows: list[str], expected: str) -> None:
    settings = {"end": ord("$"), "words": 256, "samples": 3}
    parts = {
        start: recordings.Written([*map(ord, f"{one}$")], list(range(len(one) + 1)), b"")
        for start, one in enumerate(windows)
    }
    whole = recordings.joined(parts, lambda tokens: "".join(map(chr, tokens)).encode(), settings)
    assert whole.text.decode() == expected and len(whole.margins) == len(expected)


def test_sentences_that_differ_in_a_word_are_not_taken_for_each_other() -> None:
    """Each takes 2 s; the windows of 6 s have the third in common."""
    said = ["rsAtu", "rsBtu", "rsCtu", "rsDtu", "rsEtu"]
    windows = {0: "".join(said[:3]), 4 * 16_000: "".join(said[2:])}
    parts = {start: recordings.Written([*map(ord, text)], [0.0] * 15, b"") for start, text in windows.items()}
    settings = {"end": ord("$"), "words": 256, "samples": 6 * 16_000}
    assert bytes(recordings.joined(parts, bytes, settings).tokens).decode() == "".join(said)


# --- by a file ---------------------------------------------------------------------------------------------

READING = {**TOLD, "prompt": [1001, 1002], "max_tokens": 100, "cache": [1, 1], "sample_rate": 16_000}


@pytest.mark.parametrize("signatures", [["encode", "decode"], ["serving_default"]])
def test_files_that_choose_tokens_and_others_write_down_the_same(signatures: list[str], tmp_path: Path) -> None:
    sound = np.concatenate([np.repeat([(k + 300) / 600, 0.0], [3_500, 500]) for k in WORDS]).astype(np.float32)
    bad, short = -(-recordings.beginnings(sound, WINDOW)[2] // 4_000), list[int]()

    def said(window: Any) -> list[int]:
        """What a window says, by its loudness; the third one gives up."""
        whole = [k for k in WORDS if (window == sound[4_000 * k]).sum() == 3_500]
        short.extend(whole[2:] if whole[0] == bad else [])
        return [*(whole[:2] if whole[0] == bad else whole), TOLD["end"]]

    def run(inputs: Any) -> Any:
        if "tokens" in inputs:
            logits = np.zeros([1, 1003], np.float32)
            logits[0, inputs["cross_kv"][int(inputs["position"][0]) - 1]] = 1
            return {"logits": logits, "self_kv_next": inputs["self_kv"]}
        if "encode" in signatures:
            return {"cross_kv": said(inputs["sounds"][0])}
        rows = [np.pad(row, (0, 60 - len(row)), constant_values=-1) for row in map(said, inputs["sounds"])]
        return {"tokens": np.stack(rows), "margins": np.zeros([len(rows), 60]), "text": [b""] * len(rows)}

    (tmp_path / "vocabulary.json").write_text(json.dumps([f"Ġ{k}" for k in range(1000)]), "utf-8")
    options = SimpleNamespace(timestamps=False, beams=None, stream=None)
    predict = audio.predicting(run, tmp_path, {"reading": READING, "signatures": signatures}, options)
    found = predict(audio.taking(predict, tmp_path, READING)(sound))
    assert bytes(found["text"][0]).decode().split() == list(map(str, WORDS)) and len(short) > 20
