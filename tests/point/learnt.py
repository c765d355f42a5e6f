"""A point, as it is learnt: how far off it is, in pixels."""

import numpy as np

from kerastune.tasks.learnt.contract import Answer, Learnt, Metric, Mistake, Shown, by_rows, mean_of_first


def point(predictions):
    return np.asarray(predictions["point"])


def distance(truth, predictions):
    return np.linalg.norm(point(predictions).astype(np.float64) - truth, axis=1, keepdims=True)


def metrics(labels, truth, predictions):
    found = distance(truth, predictions)
    return {"distance": float(found.mean()), "loss": float((found**2).mean())}


def mistakes(labels, truth, predictions):
    order = np.argsort(-distance(truth, predictions)[:, 0])
    return [Mistake(int(i), str(truth[i].round(1)), str(point(predictions)[i].round(1))) for i in order]


def answer(labels, predictions, index, top):
    x, y = map(float, point(predictions)[index])
    return Answer((f"{x:.1f} {y:.1f}",), {"x": x, "y": y})


POINT = Learnt(
    name="point",
    metric=Metric("distance", higher_is_better=False, share=False),
    metrics=metrics,
    per_example=distance,
    statistic=mean_of_first,
    comparison=by_rows(
        point,
        agree=lambda ours, theirs: np.abs(ours - theirs).max(-1) < 0.5,
        scale=lambda expected: float(np.ptp(expected, axis=0).max()),
        alike="points (to half a pixel)",
        unit="pixels",
    ),
    shown=Shown(
        "numbers.html.j2",
        "Where it is wrong",
        lambda labels, truth, predictions, test: {},
        mistakes,
        answer,
        lambda labels, record: "a point",
    ),
    labels=lambda labels: (),
)
