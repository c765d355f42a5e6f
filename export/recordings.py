"""Long recordings: where windows begin, those that are written down between others, and how transcripts are joined.

A window that begins in the middle of a word may give up long before what is said ends, and be sure of it. So windows
begin at pauses, and overlap by a third or more. Two neighbours that have little in common there have lost something:
one of them gave up or repeats itself. Then windows that begin between them are written down as well. Needs only numpy.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

RATE = 16_000
TICK = 320
"""Samples between two times."""
_NEAR = np.hanning(22)[1:-1] / np.hanning(22).sum()
"""Weights of the ticks around a place that make it quiet or loud: 0.2 s before and after."""
_LOUD = 0.01
"""Power of what may be said, as a share of that of loud places: 20 dB less."""


@dataclass
class Written:
    """A transcript: chosen tokens, their margins in nats, and their text in UTF-8."""

    tokens: list
    margins: list
    text: bytes


def window(sound, start, samples):
    """Returns the window of a sound that begins at a sample, float32 [samples], with silence after the sound's end."""
    part = np.asarray(sound[start : start + samples], np.float32)
    return np.pad(part, (0, samples - len(part)))


def beginnings(sound, samples):
    """Returns the samples at which the windows of a sound begin: the first at 0, each other one at the quietest place
    between the middle of the one before and its last third."""
    starts, each, powers = [0], samples // TICK, powers_of(sound)
    while starts[-1] + samples < len(sound):
        first = starts[-1] // TICK
        starts.append(TICK * quietest(powers, first + each // 2, first + each - each // 3))
    return starts


def powers_of(sound):
    """Returns the power around the beginning of each tick, float64 [ticks + 1]."""
    ticks = sound[: len(sound) // TICK * TICK].reshape(-1, TICK)
    each = np.einsum("ij,ij->i", ticks, ticks, dtype=np.float64)  # without a copy of a recording of an hour
    return np.convolve(np.pad(each, len(_NEAR) // 2), _NEAR, "valid")


def quietest(powers, first, last):
    """Returns the tick with the least power from one to another."""
    return first + int(powers[first : last + 1].argmin())


# --- written down once more --------------------------------------------------------------------------------


def mended(parts, sound, write, settings):
    """Returns the transcripts to join: those of all windows, unless two neighbours have lost something.

    Then a window that begins at the quietest place between them is written down, and so on where that helps. Of all
    ways from the first window to the end of the sound, the one counts on which the least time is between neighbours
    that have lost something, and of these the one with the fewest windows.

    Args:
        parts: a `Written` by start, of all windows of a sound.
        write: starts of windows -> a `Written` for each.
    """
    if len(parts) == 1:
        return parts
    samples, words, powers, known = settings["samples"], settings["words"], powers_of(sound), {}
    each, loud = samples // TICK, powers > _LOUD * np.quantile(powers, 0.95)

    def lost(left, right):
        """Returns the samples between two neighbours that have less in common than a token per second of sound."""
        if (left, right) not in known:
            mine, theirs = ([token for token in parts[one].tokens if token < words] for one in (left, right))
            seconds = loud[right // TICK : left // TICK + each].sum() * TICK // RATE
            known[left, right] = 0 if in_common(mine, theirs) >= seconds else right - left
        return known[left, right]

    while True:
        way = _surest(sorted(parts), TICK * (each - each // 3), len(sound) - samples, lost)
        gaps = [(one // TICK, (other - one) // TICK // 3) for one, other in pairwise(way) if lost(one, other)]
        between = [TICK * quietest(powers, one + gap, one + 2 * gap) for one, gap in gaps if 12 * gap > each]
        if not (new := [start for start in between if start not in parts]):
            return {start: parts[start] for start in way}
        parts = parts | dict(zip(new, write(new), strict=True))


def _surest(starts, furthest, last, lost):
    """Returns the way from the first start to one from `last` on which the least is lost, in steps up to `furthest`."""
    ways = {starts[0]: (0, 1, [starts[0]])}
    for start in starts[1:]:
        ways[start] = min(
            (gone + lost(before, start), count + 1, [*way, start])
            for before, (gone, count, way) in ways.items()
            if start - before <= furthest
        )
    return min(ways[start] for start in starts if start >= last)[2]


# --- joined ------------------------------------------------------------------------------------------------


def joined(parts, spell, settings):
    """Returns the transcript of windows that overlap, from those of each, by start."""
    (only, *others), (start, *starts) = parts.values(), parts
    if not others:
        return only
    tokens, margins = [], []
    left, leads = _said(only, settings, start)
    end = start + settings["samples"]
    for begins, part in zip(starts, others, strict=True):
        right, theirs = _said(part, settings, begins)
        stop, first = _seam_of_words(left, right, settings["words"]) if begins < end else (len(left), 0)
        if first == len(right):  # it writes nothing more
            continue
        tokens, margins, end = tokens + left[:stop], margins + leads[:stop], begins + settings["samples"]
        left, leads = right[first:], theirs[first:]
    tokens, margins = tokens + left, margins + leads
    return Written(tokens, margins, spell(tokens))


def _said(part, settings, start):
    """Returns tokens and margins without the end token, and with the recording's times."""
    said = part.tokens[:-1] if part.tokens[-1:] == [settings["end"]] else part.tokens
    if settings.get("timestamps"):
        said = [token + start // TICK if token >= settings["times"] else token for token in said]
    return said, part.margins[: len(said)]


def _seam_of_words(left, right, words):
    """Returns the `seam`, found without times, as places among all tokens."""
    mine, theirs = ([i for i, token in enumerate(one) if token < words] for one in (left, right))
    stop, start = seam([left[i] for i in mine], [right[i] for i in theirs])
    return [*mine, len(left)][stop], [*theirs, len(right)][start] if start else 0


def seam(left, right):
    """Returns how many tokens of a window are kept, and the first one that is kept of the next window.

    The two are laid over each other where they have most in common. The seam is in the middle of that, because words at
    the edges of windows are torn. A window that repeats itself ends, or begins, with what is made up: of equal places,
    the first of the left window and the last of the right one count. With fewer than two tokens in common, all are
    kept.
    """
    table = _table(left, right)
    best, i, j = max((score, -i, j) for i, row in enumerate(table) for j, score in enumerate(row))
    i, pairs = -i, []
    while table[i][j]:
        if is_same := left[i - 1] == right[j - 1]:
            pairs.append((i - 1, j - 1))
        if table[i][j] == table[i - 1][j - 1] + (1 if is_same else -1):
            i, j = i - 1, j - 1
        elif table[i][j] == table[i - 1][j] - 1:
            i -= 1
        else:
            j -= 1
    if best < 2:
        return len(left), 0
    # The next window hears more, so it has given up where it writes nothing more.
    return (len(left), len(right)) if pairs[0][1] == len(right) - 1 else pairs[len(pairs) // 2]


def in_common(left, right):
    """Returns how much two windows have in common, in tokens."""
    return max(map(max, _table(left, right)))


def _table(left, right):
    """Returns how much windows have in common up to each pair of tokens: equal ones count 1, all others between them -1
    (Smith and Waterman 1981)."""
    table = [[0] * (len(right) + 1)]
    for mine in left:
        above, row = table[-1], [0]
        for j, theirs in enumerate(right):
            row.append(max(0, above[j] + (1 if mine == theirs else -1), above[j + 1] - 1, row[j] - 1))
        table.append(row)
    return table
