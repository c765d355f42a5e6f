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
_APART = 1.5
"""Tokens that a second costs between two places that seem to be one."""
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
    samples, powers, known, usual = settings["samples"], powers_of(sound), {}, _usual(parts)
    each, loud = samples // TICK, powers > _LOUD * np.quantile(powers, 0.95)

    def lost(left, right):
        """Returns the samples between two neighbours that have less in common than a token per second of sound."""
        if (left, right) not in known:
            mine, theirs = (_words(_said(parts[one], settings, one, usual), settings) for one in (left, right))
            seconds = loud[right // TICK : left // TICK + each].sum() * TICK // RATE
            known[left, right] = 0 if _overlap(mine, theirs)[0] >= seconds else right - left
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


@dataclass
class Token:
    """A token with its margin, its place in its window, and about when it is said, in seconds of the recording."""

    id: int
    margin: float
    place: int
    second: float


def joined(parts, spell, settings):
    """Returns the transcript of windows that overlap, from those of each, by start."""
    (only, *others), (start, *starts) = parts.values(), parts
    if not others:
        return only
    usual = _usual(parts)
    found, left, end = [], _said(only, settings, start, usual), start + settings["samples"]
    for begins, part in zip(starts, others, strict=True):
        right = _said(part, settings, begins, usual)
        mine, theirs = _words(left, settings), _words(right, settings)
        stop, first = seam(mine, theirs) if begins < end else (len(mine), 0)
        if (theirs and first == len(theirs)) or not right:  # it writes nothing more
            continue
        if stop < len(mine):
            left = [one for one in left if one.place < mine[stop].place]
        if first:
            right = [one for one in right if one.place >= theirs[first].place]
        found, left, end = found + left, right, begins + settings["samples"]
    found += left
    tokens = [one.id for one in found]
    return Written(tokens, [one.margin for one in found], spell(tokens))


def _usual(parts):
    """Returns how many tokens a window usually has."""
    return float(np.median([len(part.tokens) for part in parts.values()]))


def _said(part, settings, start, usual):
    """Returns the tokens without the end token, and with the recording's times, as a list of `Token`.

    They are taken to be spread evenly over the window. But where there are fewer than usual, the window has given up or
    is not full, and where there are many more, it repeats itself: then they follow each other as they usually do.
    """
    said = part.tokens[:-1] if part.tokens[-1:] == [settings["end"]] else part.tokens
    if settings.get("timestamps"):
        said = [token + start // TICK if token >= settings["times"] else token for token in said]
    full = len(said) if usual < len(said) <= 1.5 * usual else usual
    apart = settings["samples"] / RATE / max(full, 1)
    return [
        Token(token, margin, i, start / RATE + i * apart)
        for i, (token, margin) in enumerate(zip(said, part.margins, strict=False))
    ]


def _words(said, settings):
    return [one for one in said if one.id < settings["words"]]


def seam(left, right):
    """Returns how many tokens of a window are kept, and the first one that is kept of the next window.

    The two, lists of `Token`, are laid over each other where they have most in common. The seam is in the middle of
    that, because words at the edges of windows are torn. A window that repeats itself ends, or begins, with what is
    made up: of equal places, the first of the left window and the last of the right one count. With fewer than two
    tokens in common, all are kept.
    """
    best, i, j, table = _overlap(left, right)
    pairs = []
    while table[i][j]:
        if is_same := left[i - 1].id == right[j - 1].id:
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


def _overlap(left, right):
    """Returns how much two windows have in common, in tokens, where in both that ends, and the table of it.

    People say the same words again and again. So of all places, the one counts that has most in common when each second
    between the two, by the number of tokens before them, costs `_APART` tokens.
    """
    table = _table([one.id for one in left], [one.id for one in right])
    places = [(i, j) for i, row in enumerate(table) for j, score in enumerate(row) if score]

    def likely(place):
        i, j = place
        apart = int(abs(left[i - 1].second - right[j - 1].second) * _APART)
        return table[i][j] - apart, -i, j

    i, j = max(places, key=likely, default=(0, 0))
    return table[i][j], i, j, table


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
