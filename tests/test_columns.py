"""What is known about examples is packed, and reads as it was given."""

from array import array
from hashlib import sha256
from itertools import pairwise

import numpy as np

from kerastune.data.columns import Chosen, Digests, Examples, Strings
from kerastune.data.source import Example

GIVEN = [f"{sha256(str(n % 7).encode()).hexdigest()}" for n in range(20)]


def digests() -> Digests:
    found = Digests(len(GIVEN))
    for i, digest in enumerate(GIVEN):
        found[i] = digest
    return found


def test_names_are_read_as_they_were_given_even_where_they_are_no_unicode() -> None:
    names, given = Strings(), ["", "ü", "a\udcff.jpg", "b" * 1000]
    for name in given:
        names.append(name)
    assert names == given and names[-1] == given[-1] and names[1:3] == tuple(given[1:3])
    assert Chosen(names, array("q", [2, 0])) == ("a\udcff.jpg", "")


def test_examples_with_equal_labels_share_them_and_numbers_keep_their_sign() -> None:
    given = [Example(f"{i}", label) for i, label in enumerate(["".join(["a", "b"]), "ab", 0.0, -0.0, ("x", "y")])]
    found = Examples(given)
    assert list(found) == given and found[3:] == given[3:]
    assert found.label(0) is found.label(1) and str(found.label(3)) == "-0.0"


def test_digests_sort_as_their_texts_and_copies_come_together_in_their_order() -> None:
    order, starts = digests().sorted(range(20))
    assert [GIVEN[i] for i in order] == sorted(GIVEN)
    assert order.tolist() == sorted(range(20), key=lambda i: (GIVEN[i], i))
    assert len(starts) == 8
    assert all(len({GIVEN[i] for i in order[a:b]}) == 1 for a, b in pairwise(starts))
    assert digests().copies([0, 8, 7, 1, 3, 15]) == [[0, 7], [8, 1, 15]]


def test_a_place_is_the_digest_as_a_fraction() -> None:
    np.testing.assert_array_equal(digests().places(), [int(digest[:16], 16) / 2**64 for digest in GIVEN])
