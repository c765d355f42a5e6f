"""README.md of an artifact: what whoever receives the folder needs, in the fields that the Hugging Face Hub reads."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from kerastune import export
from kerastune.errors import VerificationError
from kerastune.exporting import card
from kerastune.recipe import Export
from kerastune.verifying import artifact


@pytest.fixture(scope="module")
def made(trained: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> artifact.Artifact:
    out = tmp_path_factory.mktemp("card") / "linux-dynamic"
    return export(trained("resnet"), Export(target="linux", quantize="dynamic"), out)[0]


def test_the_card_has_the_fields_that_the_hub_reads_with_this_files_own_figures(made: artifact.Artifact) -> None:
    read = ModelCard.load(made.folder / card.NAME)
    assert read.data.pipeline_tag == "image-classification" and read.data.metrics == ["accuracy"]
    (validation, test) = read.data.eval_results
    judged = made.report.validation.metric
    assert (validation.metric_value, test.metric_value) == (judged.value, made.manifest.test)
    assert validation.dataset_split == "validation"


def test_the_card_says_how_it_was_trained_proved_and_is_run(made: artifact.Artifact) -> None:
    page = ModelCard.load(made.folder / card.NAME).text
    assert "| input | `images` | 1 × any × any × 3 | uint8 |" in page
    assert "blue, green, red" in page and "| 1 | head | 195 | 3 |" in page
    judged = made.report.validation.metric
    assert f"| validation | {judged.examples} | {judged.value:.4f} | {judged.keras:.4f} |" in page
    assert "Verified in litert" in page and "python reader.py . --check" in page
    assert "### In your own program" in page and "## Limits and intended use" in page


def test_the_card_is_covered_by_the_manifest(made: artifact.Artifact, tmp_path: Path) -> None:
    import shutil

    copy = artifact.load(shutil.copytree(made.folder, tmp_path / "copy"))
    page = copy.folder / card.NAME
    page.write_text(page.read_text("utf-8").replace("accuracy", "precision"), "utf-8")
    with pytest.raises(VerificationError, match=r"README\.md"):
        artifact.load(copy.folder).check_files()


def test_a_label_or_a_licence_is_text_and_nothing_else(made: artifact.Artifact, trained: Any, tmp_path: Path) -> None:
    hostile = "# <script>alert(1)</script> [x](javascript:1)\n---\nlicense: mit | `rm`"
    manifest = replace(made.manifest, labels=(hostile, "b", "c"), licence=hostile)
    card.write(tmp_path, trained("resnet"), manifest, made.report)
    page = (tmp_path / card.NAME).read_text("utf-8")
    _, front, body = page.split("---\n", 2)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x|^license: mit", body, re.MULTILINE)
    assert json.loads(dict(line.split(": ", 1) for line in front.splitlines())["license_name"]) == hostile
