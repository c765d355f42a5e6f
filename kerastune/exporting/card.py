"""README.md of an artifact: a model card for whoever receives the folder.

Its front matter has the fields that the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards).
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kerastune import tasks
from kerastune.errors import printable
from kerastune.recipe import target
from kerastune.run import Run
from kerastune.verifying.manifest import Manifest
from kerastune.verifying.runtimes import RUNTIMES
from kerastune.verifying.verification import VerificationReport

NAME = "README.md"
_LABELS = 50  # that are written out
_LONGEST = 500  # characters of a label, a meaning or a path


def write(folder: Path, of: Run, manifest: Manifest, report: VerificationReport) -> None:
    """Writes the card into the artifact's folder; `manifest` and `report` are of its last verification."""
    device, record = tasks.device(of.recipe.task), of.record
    learnt = device.learnt(of.recipe)
    judged = report.validation.metric if report.validation else None
    page = _template().render(
        front=_front_matter(of, manifest, report),
        preset=_preset(manifest),
        manifest=manifest,
        report=report,
        own=report.own,
        judged=judged,
        record=record,
        recipe=of.recipe,
        learnt=learnt,
        modality=device.modality,
        labels=manifest.labels[:_LABELS],
        more=max(len(manifest.labels) - _LABELS, 0),
        examples={split: sum(counts.values()) for split, counts in record.data.counts.items()},
        install=RUNTIMES[manifest.runtime].install,
        deploy=_deploying(manifest.target),
    )
    (folder / NAME).write_text(page, "utf-8")


def _front_matter(of: Run, manifest: Manifest, report: VerificationReport) -> list[str]:
    """Returns YAML, one key per line. Values are JSON, which is YAML and quotes any label or path."""
    licence = manifest.licence.lower()
    known = re.fullmatch(r"[a-z0-9.\-]+", licence)
    metric = manifest.metric
    dataset = {"name": _data(of), "type": str(getattr(of.recipe.data, "source", "")), "split": "validation"}
    found: list[dict[str, Any]] = []
    if report.validation and report.validation.metric:
        found.append({"type": metric, "name": f"validation {metric}", "value": report.validation.metric.value})
    found.append({"type": metric, "name": f"test {metric}, in Keras", "value": manifest.test})
    fields: dict[str, Any] = {
        "license": licence if known else "other",
        **({} if known else {"license_name": manifest.licence}),
        "base_model": _preset(manifest),
        "pipeline_tag": tasks.device(of.recipe.task).pipeline_tag,
        "tags": ["kerastune", manifest.format],
        "metrics": [metric],
        "model-index": [
            {
                "name": f"{manifest.run}/{manifest.name}",
                "results": [
                    {
                        "task": {"type": tasks.device(of.recipe.task).pipeline_tag},
                        "dataset": dataset,
                        "metrics": found,
                    }
                ],
            }
        ],
    }
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]


def _preset(manifest: Manifest) -> str:
    """Returns the preset's name, without this machine's folders."""
    name = manifest.preset.removeprefix("hf://")
    return Path(name).name if Path(name).is_absolute() else name


def _data(of: Run) -> str:
    data = of.recipe.data
    return str(getattr(data, "name", None) or Path(str(getattr(data, "path", ""))).name)


def _deploying(name: str) -> str:
    """Returns the target's README from "Deploy" on, with deeper headings."""
    page = target.readme(name)
    _, found, rest = page.partition("\n## Deploy\n")
    return re.sub(r"^##", "###", (rest if found else page).strip(), flags=re.MULTILINE)


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(str(files("kerastune.exporting"))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is Markdown: `text` escapes
    )
    environment.filters |= {"text": _text, "count": lambda number: f"{number:,}"}
    return environment.get_template("card.md.j2")


def _text(words: object) -> str:
    """Escapes words for Markdown and HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$])", r"\\\1", printable(str(words)[:_LONGEST]))
