"""Pictures and their boxes move together."""

import numpy as np
import pytest

from kerastune.tasks import draws, geometry


def keys(seed, count):
    return draws.keys(seed, 0, np.arange(count))


def a_square():
    """A black picture with a white square, and its box in shares of the picture."""
    picture = np.zeros((1, 64, 64, 1), np.float32)
    picture[0, 20:40, 8:24] = 255
    return picture, np.array([[[8, 20, 24, 40]]], np.float32) / 64


def box_of(picture):
    rows, columns = (np.flatnonzero((picture[0, ..., 0] == 255).any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 64


def test_the_whole_window_changes_nothing():
    picture, box = a_square()
    whole = np.array([[0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(geometry.pictures(picture, whole), picture, atol=1e-2)
    np.testing.assert_allclose(geometry.boxes(box, whole)[0], box, atol=1e-6)


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_a_box_stays_on_its_square(flip):
    """Within the pixel that resampling blurs."""
    picture, box = a_square()
    for window in geometry.windows(keys(3, 20), flip, 0.3, 0.5)[:, None]:
        moved, seen = geometry.boxes(box, window)
        if seen[0, 0]:
            np.testing.assert_allclose(box_of(geometry.pictures(picture, window).numpy()), moved[0, 0], atol=1.5 / 64)


def test_half_of_the_windows_are_mirrored_and_draws_can_be_repeated():
    drawn = geometry.windows(keys(7, 400), "horizontal", 0.0)
    assert 150 < (drawn[:, 1] > drawn[:, 3]).numpy().sum() < 250
    assert (drawn[:, 0] < drawn[:, 2]).numpy().all()
    np.testing.assert_array_equal(drawn, geometry.windows(keys(7, 400), "horizontal", 0.0))
    assert not np.array_equal(drawn, geometry.windows(keys(8, 400), "horizontal", 0.0))


def test_a_box_that_is_mostly_cut_off_is_not_seen():
    _, box = a_square()
    right = np.array([[0, 20 / 64, 1, 1]], np.float32)  # from the 20th column on: a quarter of the square
    boxes, seen = geometry.boxes(box, right)
    assert not seen[0, 0]
    assert boxes[0, 0, 0] == 0


def test_class_ids_are_never_blended():
    ids = np.random.default_rng(0).integers(1, 5, (2, 32, 32, 1)).astype(np.float32)
    window = geometry.windows(keys(1, 2), "horizontal", 0.4, 0.3)
    found = geometry.pictures(ids, window, "nearest").numpy()
    assert set(np.unique(found)) <= {0, 1, 2, 3, 4}
