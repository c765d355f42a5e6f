"""The report is one self-contained page that says what the run folder says, whatever the labels are called."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import a_manifest
from PIL import Image

from kerastune import data, recipe, run
from kerastune.records import Audit, DataRecord, Decision, Machine, Norms, Ran, RunRecord, Trained
from kerastune.reporting import report
from kerastune.tasks.learnt.statistics import Paired
from kerastune.verifying import manifest, verification
from kerastune.verifying.verification import Agreement, Latency, RuntimeReport, Validation, VerificationReport

# Warnings of matplotlib (missing glyphs) or Pillow would reach the user's terminal.
pytestmark = pytest.mark.filterwarnings("error")

HOSTILE = ("<script>alert('1')</script>", "q\"uo'te & $x_1$\x1b[31m\nline", "مرحبا 花 \u202e" + "long" * 40)


def a_run(folder: Path, labels: tuple[str, ...] = ("cat", "dog"), **changes: Any) -> run.Run:
    """A run on made images, 12 a label, whose model says the first label about the last image of every other."""
    images = folder.parent / "images"
    for n in range(len(labels)):
        for i in range(12):
            path = images / ("train", "validation", "test")[i % 3] / f"label{n}" / f"<i>&{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 60, 3), (7 * n + i, i, n), np.uint8)).save(path)
    wanted = recipe.parse(
        {
            "name": "made",
            "task": "image_classification",
            "preset": "some-preset",
            "data": {"source": "folder", "path": str(images)},
            "phases": [{"unfreeze": "head", "epochs": 1}, {"unfreeze": "match:$花_{^", "epochs": 1}],
            "exports": [{"target": "linux"}],
        },
        "made.toml",
    )
    splits = data.load(wanted.data)
    truth = splits.test.labels
    scores = np.full((len(truth), len(labels)), 0.1 / len(labels), np.float32)
    scores[np.arange(len(truth)), truth] += 0.9
    last = np.flatnonzero(np.diff(truth, append=-1) != 0)[1:]
    scores[last] = np.roll(scores[last], 1) * 0
    scores[last, 0] = np.linspace(0.5, 0.99, len(last) + 1)[1:]
    said = {"ids": np.array(splits.test.ids), "truth": truth, "predictions/scores": scores}
    predictions = {f"{split}/{key}": value for split in ("test", "validation") for key, value in said.items()}
    matrix = np.zeros((len(labels), len(labels)), int)
    np.add.at(matrix, (truth, scores.argmax(-1)), 1)
    scored = {
        "accuracy": float(matrix.trace() / matrix.sum()),
        "loss": 0.25,
        "macro_f1": 0.5,
        "per_class": {n: {"precision": 0.8, "recall": 0.75, "f1": 0.77, "support": 4} for n in labels},
        "confusion_matrix": matrix.tolist(),
    }
    done = Ran(epochs_run=1, seconds=61.0, precision="float32", xla=False, frozen_sha256="f" * 64, frozen_weights=3)
    phase = Audit(
        unfreeze="",
        learning_rate=1e-3,
        epochs=1,
        optimizer="adam",
        schedule="constant",
        units=(Trained("stem", 9, 0, None),),
        trainable_parameters=12345,
        frozen_parameters=9,
        batch_norm=Norms(1, 0),
        ran=done,
    )
    record = RunRecord(
        status="complete",
        job="run",
        name=wanted.name,
        task=wanted.task,
        preset=wanted.preset,
        preset_sha256="0" * 64,
        recipe_sha256=wanted.sha256(),
        labels=labels,
        target="label",
        metric="accuracy",
        seed=0,
        backbone="ResNetBackbone",
        parameters=12354,
        model={"image_size": [128, 128]},
        metrics={"validation": scored, "test": scored},
        data=DataRecord(
            splits.fingerprint,
            {s: dict.fromkeys(labels, 4) for s in ("train", "validation", "test")},
            ("a <b>note</b>",),
            tuple({"id": f"<bad>{i}", "problem": "is cut"} for i in range(300)),
        ),
        phases=tuple(replace(phase, unfreeze=p.unfreeze) for p in wanted.phases),
        decisions=(Decision("train.xla", "auto", False, "Keras's own choice"),),
        saving=(),
        started="2026-01-02T03:04:05+01:00",
        resumed=(),
        versions={"python": "3.11", "kerastune": "0.1.0"},
        machine=Machine("Linux", "A CPU", 2, 8.0, ()),
        seconds={"prepare": 1.0, "train": 122.0},
    )
    numbers = {"loss": 0.5, "accuracy": 0.6, "val_loss": 0.4, "learning_rate": 1e-3, "seconds": 1.5}
    history = [{"phase": n, "epoch": 1, "val_accuracy": 0.7, **numbers} for n in (1, 2)]
    folder.mkdir()
    run.write(folder, wanted, replace(record, **changes), history, predictions)
    return run.Run(folder)


def an_artifact(
    of: run.Run, report: bool = True, problems: tuple[str, ...] = (), scored: bool = True, **more: Any
) -> None:
    """An exported file and, with `report`, its verification; beside the run if it was `scored` there."""
    folder = of.exports / "linux"
    folder.mkdir(parents=True)
    held = {"model.tflite": manifest.File(sha256="0", bytes=4_560_000)}
    manifest.write(a_manifest(name="linux", quantize="int8", files=held), folder / "manifest.json")
    metric = Paired(8, 0.8765, 0.8888, 0.0123, (-0.0456, 0.0789), 1.0, "too few to tell")
    own = RuntimeReport(
        passed=not problems,
        problems=problems,
        golden=Agreement(16, 1e-7, 1.0),
        validation=Validation(Agreement(8, 0.0321, 1.0), metric, {}) if scored else None,
        latency_ms=Latency(6.54, 9.87),
    )
    found = VerificationReport(
        passed=not problems,
        problems=problems,
        warnings=(),
        size_bytes=4_560_000,
        runtime="litert",
        runtimes={"litert": own},
        machine={"cpu": "Another CPU"},
    )
    if report:
        verification.write(replace(found, **more), folder / "report.json")


class _Page(HTMLParser):
    """The tags of a page that parses, and the text it shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "br":
            self.text += "\n"
        elif tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def test_the_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    an_artifact(of)
    page = _Page(report.write(of))
    assert "script" not in {tag for tag, _ in page.tags}
    links = [value or "" for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    assert "url(" not in of.report.read_text("utf-8") and "@import" not in of.report.read_text("utf-8")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_it_shows_what_was_measured(tmp_path: Path) -> None:
    words = _Page(report.write(a_run(tmp_path / "run"))).words
    assert "87.50 %" in words and "8 images" in words
    assert "95 % interval 52.91 % to 97.76 %" in words  # Wilson for 7 of 8: Brown, Cai & DasGupta 2001
    assert "3 frozen weights proved unchanged" in words and "12,345" in words
    assert "2 min 3 s" in words and "2026-01-02 03:04 UTC+01:00" in words
    assert "Nothing has been exported yet. The recipe exports linux." in words


@pytest.mark.parametrize("beaten", [True, False])
def test_the_baseline_stands_beside_the_metric_and_a_model_that_is_no_better_is_called_that(
    tmp_path: Path, beaten: bool
) -> None:
    scored = a_run(tmp_path / "run").record.metrics or {}
    baseline = {"answer": "always <cat>", "accuracy": 0.625, "beaten": beaten}
    of = a_run(tmp_path / "again", metrics={**scored, "test": {**scored["test"], "baseline": baseline}})
    words = _Page(report.write(of)).words
    assert "62.50 % for always <cat>" in words and ("No better than a guess." in words) == (not beaten)


def test_an_artifact_is_shown_with_its_proof(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    an_artifact(of)
    words = _Page(report.write(of)).words
    for shown in ("✓ verified", "4.56", "6.5 (9.9)", "87.65 %", "1.23 (−4.56 to 7.89)", "3.2e-02", "Another CPU"):
        assert shown in words
    assert "pip install ai-edge-litert numpy pillow" in words and "python reader.py . --check" in words


@pytest.mark.parametrize(
    ("made", "verdict"),
    [({"report": False}, "– not verified"), ({"problems": ("too <far> off",)}, "too <far> off")],
)
def test_an_artifact_without_proof_is_not_called_verified(tmp_path: Path, made: dict[str, Any], verdict: str) -> None:
    of = a_run(tmp_path / "run")
    an_artifact(of, **made)
    words = _Page(report.write(of)).words
    assert verdict in words and "✓" not in words and "0 verified in their runtime" in words


def test_what_the_split_is_too_small_to_tell_stands_beside_the_file(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    an_artifact(of, warnings=("1 of 41 images lost: too few to tell",))
    words = _Page(report.write(of)).words
    assert "✓ verified" in words and "linux: 1 of 41 images lost: too few to tell." in words


def test_a_verification_away_from_the_run_shows_its_golden_error(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    an_artifact(of, scored=False)
    assert "1.0e-07" in _Page(report.write(of)).words


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    text = report.write(a_run(tmp_path / "run", HOSTILE)).read_text("utf-8")
    assert "<script" not in text and "<i>&" not in text and "<bad>" not in text and "<b>note" not in text
    assert "\x1b" not in text and "\u202e" not in text
    words = _Page(tmp_path / "run" / "report.html").words
    assert "<script>alert('1')</script>" in words and "$x_1$\\x1b[31m\\nline" in words and "مرحبا 花 \\u202e" in words
    assert "label1/<i>&8.png" in words and "and 100 more" in words


def test_the_most_confident_mistakes_come_first(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run", tuple(f"label {n:02}" for n in range(16)))
    page = _Page(report.write(of))
    captions = re.findall(r"output label (\d+) with (\S+)\s%\s+truth label (\d+)", page.text)
    assert [int(truth) for _, _, truth in captions] == list(range(15, 3, -1))  # 12 of 15
    assert {said for said, _, _ in captions} == {"00"} and captions[0][1] == "99.00"
    assert "15 of 64 test images are labelled wrong" in page.words
    assert sum((attrs.get("src") or "").startswith("data:image/jpeg") for _, attrs in page.tags) == 12


def test_without_the_data_it_is_built_and_says_why(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / "label0" / "new.png")
    assert "Without the images: The data have changed" in _Page(report.write(of)).words
    shutil.rmtree(tmp_path / "images")
    words = _Page(report.write(of)).words
    assert "Without the images: There is no folder" in words and "output cat with" in words


def test_an_interrupted_run_says_what_it_lacks(tmp_path: Path) -> None:
    first, second = a_run(tmp_path / "whole").record.phases
    begun = replace(second, ran=Ran(epochs_run=0, seconds=1.0, precision="float32"))
    of = a_run(tmp_path / "run", status="interrupted", metrics=None, phases=(first, begun))
    run.write(of.folder, of.recipe, of.record, [], {})
    (of.folder / "predictions.npz").unlink()
    words = _Page(report.write(run.Run(of.folder))).words
    assert "Training was interrupted." in words and "kerastune evaluate" in words
    assert "not proved: the phase did not finish" in words and "No epoch was finished" in words


def test_a_perfect_run_has_no_mistakes_to_show(tmp_path: Path) -> None:
    of = a_run(tmp_path / "run")
    ids, truth, _ = of.predictions("test")
    said = {"ids": np.array(ids), "truth": truth, "predictions/scores": np.eye(2, dtype=np.float32)[truth]}
    right = {f"{split}/{key}": value for split in ("test", "validation") for key, value in said.items()}
    run.write(of.folder, of.recipe, of.record, of.history, right)
    words = _Page(report.write(of)).words
    assert "0 of 8 test images are labelled wrong" in words and "mistakes" not in words.partition("Label by label")[2]


def test_with_many_labels_pairs_stand_for_the_matrix(tmp_path: Path) -> None:
    page = _Page(report.write(a_run(tmp_path / "run", tuple(f"label {n:03}" for n in range(120)))))
    assert "Confused most often" in page.words and "Confusion matrix" not in page.words
    assert "All 120 labels" in page.words and "The 12 most confident mistakes" in page.words
    assert (tmp_path / "run" / "report.html").stat().st_size < 1_500_000


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = a_run(tmp_path / "run")
    before = report.write(of).read_text("utf-8")
    monkeypatch.setattr(report, "_duration", lambda seconds: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(run.Run(of.folder))
    assert of.report.read_text("utf-8") == before and not list(of.folder.glob(".*"))
