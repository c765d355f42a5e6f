"""Average precision equals pycocotools', in the whole and of any resample of pictures."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kerastune.data import ragged
from kerastune.data.truths import BOX
from kerastune.tasks.learnt import average_precision as ap


def guesses(seed, pictures=30, classes=4):
    """Boxes, some of them crowds, and detections near some of them, of all kinds of score."""
    random = np.random.default_rng(seed)
    truth, said = [], np.zeros((pictures, 100, 6), np.float32)
    for n in range(pictures):
        count = int(random.integers(0, 8))
        corners = random.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(8, 90, (count, 2))], 1).round(1)
        rows = np.zeros(1 + count, BOX)
        rows["label"] = [-1, *random.integers(0, classes, count)]
        rows["corners"] = [(0, 0, 300, 300), *boxes]
        rows["crowd"] = [False, *(random.random(count) < 0.1)]
        truth.append(rows)
        near = [
            [*(box + random.normal(0, 6, 4)), random.random(), label if random.random() < 0.8 else 0]
            for box, label in zip(boxes.repeat(3, 0), rows["label"][1:].repeat(3), strict=True)
            if random.random() < 0.7
        ]
        far = [[x, y, x + 30, y + 40, random.random(), 1] for x, y in random.uniform(0, 200, (3, 2))]
        found = np.array(
            sorted((row for row in (*near, *far) if row[2] > row[0] and row[3] > row[1]), key=lambda r: -r[4])
        )
        said[n, : len(found)] = found
    return ragged.of_rows(truth, np.zeros(0, BOX)), said


def of_coco(truth, said):
    """Average precision, at an overlap of 0.5, and recall, as pycocotools has them."""

    def box(corners):
        x1, y1, x2, y2 = map(float, corners)
        return [x1, y1, x2 - x1, y2 - y1]

    boxes = [
        {"image_id": n, "category_id": int(row["label"]), "bbox": box(row["corners"]), "iscrowd": int(row["crowd"])}
        for n, rows in enumerate(truth)
        for row in rows[1:]
    ]
    boxes = [{**one, "id": i, "area": one["bbox"][2] * one["bbox"][3]} for i, one in enumerate(boxes, 1)]
    found = [
        {"image_id": n, "category_id": int(row[5]), "bbox": box(row[:4]), "score": float(row[4])}
        for n, rows in enumerate(said)
        for row in rows
        if row[4] > 0
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": n} for n in range(len(truth))],
            "annotations": boxes,
            "categories": [{"id": i} for i in range(4)],
        }
        known.createIndex()
        judge = COCOeval(known, known.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0], judge.stats[1], judge.stats[8]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_pycocotools(seed):
    truth, said = guesses(seed)
    found = ap.matches(truth, said)
    ours = ap.average(found), ap.average(found, [0]), ap.recall(found)
    np.testing.assert_allclose(ours, of_coco(truth, said), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_statistics_of_a_resample_are_those_of_its_pictures():
    truth, said = guesses(9)
    chosen = np.random.default_rng(0).integers(0, len(truth), len(truth))
    found = ap.matches(truth, said)[chosen]
    np.testing.assert_allclose(ap.average(found), of_coco(truth[chosen], said[chosen])[0], atol=1e-6)


def test_a_perfect_detector_has_a_precision_of_one_and_a_blind_one_of_zero():
    truth, said = guesses(1)
    said[:] = 0
    assert ap.average(ap.matches(truth, said)) == 0
    for rows, out in zip(truth, said, strict=True):
        for n, row in enumerate(rows[1:]):
            out[n] = (*row["corners"], 0.9, row["label"])
    found = ap.matches(truth, said)
    assert ap.average(found) == pytest.approx(1)
    right, wrong, boxes = ap.at_threshold(found, 0.5)
    assert (right, wrong) == (boxes, 0)


def test_the_best_threshold_leaves_out_what_is_wrong():
    truth, said = guesses(2)
    said[:] = 0
    for rows, out in zip(truth, said, strict=True):
        for n, row in enumerate(rows[1:]):
            out[n] = (*row["corners"], 0.6, row["label"])
        out[len(rows) - 1] = (0, 0, 3, 3, 0.4, 0)
    assert ap.best_threshold(ap.matches(truth, said)) == pytest.approx(0.6)
