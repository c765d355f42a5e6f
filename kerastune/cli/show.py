"""Shows plans, runs, artifacts, verifications and benchmarks as tables and sentences.

Each function takes the document that its command prints with --json, so that both agree.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune.cli.terminal import put, shown, table, typed

if TYPE_CHECKING:
    from kerastune.records import Audit
    from kerastune.run import Run
    from kerastune.verifying.artifact import Artifact
    from kerastune.verifying.verification import Agreement, Candidate, RuntimeReport, VerificationReport


def predicting(folder: Path, of: "Run | Artifact") -> str:
    """Returns the command that asks a run or an artifact about an example, as a user would type it."""
    from kerastune.modalities import MODALITIES
    from kerastune.run import Run

    source = of if isinstance(of, Run) else Run(of.run) if of.run else None
    if source and (file := source.example_file):
        return typed("kerastune", "predict", folder, file)
    if isinstance(of, Run):
        modality, paired = of.recipe.data.modality, of.recipe.data.paired
    else:
        modality, paired = of.manifest.modality, of.manifest.sides > 1
    asked = [MODALITIES[modality].asked_as] * (2 if paired else 1)
    return " ".join([typed("kerastune", "predict", folder), *asked])


# --- plans -------------------------------------------------------------------------------------------------


def plan(document: dict[str, Any], audits: "Sequence[Audit]") -> None:
    """Shows what a run will do."""
    counts = document["counts"]
    rows = [[label, *(str(counts[split][label]) for split in counts)] for label in document["labels"]]
    # Not the sum: an example may have several labels, or none.
    totals = ["all", *(str(document["examples"][split]) for split in counts)]
    table(["label", *counts], [*rows, totals])
    for note in document["notes"]:
        put(f"note: {note}")
    for warning in document["warnings"]:
        put(f"warning: {warning}")
    for skipped in document["skipped"]:
        put(f"left out: {skipped['id']}: {skipped['problem']}")
    put()
    for number, audit in enumerate(audits, start=1):
        title, header, rows = phase(audit, f"phase {number} ({audit.unfreeze})")
        put(title)
        table(header, rows)
        put()
    gpu = "" if document["gpu_mb"] is None else f", of the GPU's {document['gpu_mb']:,} MB"
    put(f"memory: up to about {document['memory_mb']:,} MB for the model, and 1 GB for the libraries{gpu} (estimated)")
    for decision in document["decisions"]:
        where = f"phase {decision['phase']}: " if "phase" in decision else ""
        put(f"{where}{decision['key']} = {decision['asked']}: {decision['got']} ({decision['why']})")
    if all(row["passed"] is None for row in document["exports"]):
        put(f"exports: {', '.join(row['name'] for row in document['exports']) or 'none'}")
    else:
        put()
        _rehearsal(document["exports"], document["seconds"]["exports"])


def phase(audit: "Audit", title: str) -> tuple[str, list[str], list[list[str]]]:
    """Returns the title, header and rows that show a phase. Adjacent units with equal settings share a row."""
    facts = [
        f"{audit.epochs} epoch{'s' if audit.epochs != 1 else ''}",
        *([] if audit.optimizer_steps is None else [_steps(audit.optimizer_steps)]),
        f"{audit.trainable_parameters:,} of {audit.trainable_parameters + audit.frozen_parameters:,} parameters train",
        f"{audit.optimizer}, {audit.schedule} learning rate",
        f"BatchNorm: {audit.batch_norm.inference} inference, {audit.batch_norm.training} training",
    ]
    rows = []
    for _, alike in groupby(audit.units, key=lambda unit: (unit.trainable_parameters > 0, unit.learning_rate)):
        units = list(alike)
        names = [unit.name for unit in units]
        trainable = sum(unit.trainable_parameters for unit in units)
        rows.append(
            [
                ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)} units)",
                f"{sum(unit.parameters for unit in units):,}",
                f"{trainable:,}",
                f"{units[0].learning_rate:g}" if trainable else "frozen",
            ]
        )
    return f"{title}: {'; '.join(facts)}", ["units", "parameters", "trainable", "learning rate"], rows


def _steps(count: int) -> str:
    return f"{count:,} optimizer step{'s' if count != 1 else ''}"


def _rehearsal(exports: list[dict[str, Any]], seconds: float) -> None:
    table(
        ["export", "format", "quantize", "size MB", "converter MB", "latency ms", "max error", ""],
        [
            [
                row["name"],
                row["format"],
                row["quantize"],
                figure(row["size_bytes"], ".2f", 1e6),
                figure(row["converter_peak_mb"], ",.0f"),
                figure(row["latency_ms"], ".1f"),
                figure(row["max_error"], ".1e"),
                "ok" if row["passed"] else "refused",
            ]
            for row in exports
        ],
    )
    for row in exports:
        if not row["passed"]:
            put(f"{row['name']}: {'; '.join(row['problems'])}")
    put(
        f"(tried in {seconds:.0f} s with an untrained head: max_accuracy_drop is not judged, and auto stops at the "
        "first candidate within the other limits; converter MB is its peak memory; latency is a median)"
    )


# --- runs --------------------------------------------------------------------------------------------------


def run_document(made: "Run") -> dict[str, Any]:
    """Returns a run's figures, report and artifacts, for `run` and for --json."""
    from kerastune.verifying import artifact

    record, metric = made.record, made.metric
    before, after = record.before or {}, record.metrics or {}
    perplexities = {
        f"{split}_perplexity": {"before": before[split]["perplexity"], "after": after[split]["perplexity"]}
        for split in ("test", "validation")
        if "perplexity" in before.get(split, {})
    }
    return {
        "run": str(made.folder),
        "status": record.status,
        "metric": metric,
        f"test_{metric}": after["test"][metric],
        f"validation_{metric}": after["validation"][metric],
        **({f"known_{metric}": after["known"][metric]} if "known" in after else {}),
        **({f"untuned_test_{metric}": before["test"][metric]} if before else {}),
        **perplexities,
        "baseline": after["test"].get("baseline"),
        "seconds": record.seconds,
        "report": str(made.report),
        "artifacts": [artifact_document(each, each.report) for each in artifact.inside(made.exports) if each.report],
    }


def run(document: dict[str, Any]) -> None:
    """Shows the results of a run."""
    put(f"run:    {shown(Path(document['run']))}")
    put(f"report: {shown(Path(document['report']))}")
    metric, words = document["metric"], document["metric"].replace("_", " ")
    put(", ".join(f"{split} {words} {document[f'{split}_{metric}']:.4f}" for split in ("test", "validation")))
    if f"known_{metric}" in document:
        put(f"({words} of labels that training saw: {document[f'known_{metric}']:.4f})")
    if f"untuned_test_{metric}" in document:
        put(f"(test {words} before training: {document[f'untuned_test_{metric}']:.4f})")
    if baseline := document["baseline"]:
        put(f"(test {words} of a guess, {baseline['answer']}: {baseline[metric]:.4f})")
        if not baseline["beaten"]:
            put(f"warning: the model's test {words} cannot be told from that of the guess")
    for split in ("test", "validation"):
        if found := document.get(f"{split}_perplexity"):
            put(f"{split} perplexity {found['before']:.2f} before training, {found['after']:.2f} after")
    if document["artifacts"]:
        put()
        _artifacts(document["artifacts"])


def metrics(found: dict[str, Any], of: "Run") -> None:
    """Shows the metrics of each split and each class."""
    from kerastune.modalities import MODALITIES

    for split, figures in found.items():
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        put(f"{split}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items()))
    if per_class := found["test"].get("per_class"):
        put()
        columns = ["precision", "recall", "f1"]
        table(
            ["label (test)", *columns, MODALITIES[of.recipe.data.modality].plural],
            [[name, *(f"{row[c]:.3f}" for c in columns), str(row["support"])] for name, row in per_class.items()],
        )


# --- artifacts ---------------------------------------------------------------------------------------------


def artifact_document(of: "Artifact", report: "VerificationReport") -> dict[str, Any]:
    """Returns an artifact with the figures of its own runtime, as one row."""
    compared = _compared(report.own)
    metric = report.validation.metric if report.validation else None
    return {
        "name": of.manifest.name,
        "folder": shown(of.folder),
        "unit": of.modality.name,
        "format": of.manifest.format,
        "quantize": of.manifest.quantize,
        "size_bytes": report.size_bytes,
        "latency_ms": report.own.latency_ms.median if report.own.latency_ms else None,
        "max_error": compared.max_error if compared else None,
        "metric": of.manifest.metric,
        "accuracy": metric.value if metric else None,
        "accuracy_drop": metric.drop if metric else None,
        "accuracy_drop_interval": list(metric.interval) if metric and metric.interval else None,
        "verified_by": report.runtime,
    }


def artifact(row: dict[str, Any], of: "Artifact", report: "VerificationReport") -> None:
    """Shows a verified artifact: its row, the candidates that `auto` tried, and the results in each runtime.

    Errors are the largest on the validation split, or on the golden examples if that was not scored.
    """
    _artifacts([row])
    _candidates(report.ladder)
    put()
    _runtimes(report.runtimes, of.learnt.metric.words, of.learnt.comparison.alike)
    for name, figure in (report.validation.beside if report.validation else {}).items():
        put(f"{name.replace('_', ' ')} {figure.value:.4f}, in Keras {figure.keras:.4f}")
    for warning in report.warnings:
        put(f"warning: {warning}")
    if report.validation is None:
        plural = of.modality.plural
        put(f"\nNOT scored on the validation split: only the golden {plural} were replayed. Give --run RUN.")


def _artifacts(found: list[dict[str, Any]]) -> None:
    metric, unit = found[0]["metric"].replace("_", " "), found[0]["unit"]
    table(
        ["artifact", "format", "quantize", "size MB", "latency ms", "max error", metric, "verified by"],
        [
            [
                a["name"],
                a["format"],
                a["quantize"],
                f"{a['size_bytes'] / 1e6:.2f}",
                figure(a["latency_ms"], ".1f"),
                figure(a["max_error"], ".1e"),
                figure(a["accuracy"], ".4f"),
                a["verified_by"],
            ]
            for a in found
        ],
    )
    put(f"({metric} on the validation split, in the runtime named; latency is the median for one {unit})")


def figure(value: float | None, form: str, unit: float = 1) -> str:
    """Returns a figure in a unit, or a dash."""
    return "–" if value is None else format(value / unit, form)


def _candidates(tried: "Sequence[Candidate]") -> None:
    if not tried:
        return
    put()
    rows = []
    for each in tried:
        name = each.quantize + (f", {len(each.kept_float)} layers in float" if each.kept_float else "")
        latency = each.latency_ms.median if each.latency_ms else None
        metric = each.validation.metric.value if each.validation and each.validation.metric else None
        figures = figure(each.size_bytes, ".2f", 1e6), figure(latency, ".1f"), figure(metric, ".4f")
        rows.append([name, *figures, "kept" if each.passed else "; ".join(each.problems)])
    table(["tried", "size MB", "latency ms", "accuracy", ""], rows)


def _runtimes(found: "Mapping[str, RuntimeReport]", metric: str, compared: str) -> None:
    """Compares each runtime with Keras on the same examples."""
    rows = []
    for name, runtime in found.items():
        if runtime.passed is None:
            rows.append([name, *["–"] * 5, "not judged"])
            continue
        judged = runtime.validation.metric if runtime.validation else None
        rows.append(
            [
                f"{name} {runtime.version}",
                figure(largest.max_error if (largest := _compared(runtime)) else None, ".1e"),
                _agreement(runtime),
                figure(judged.drop if judged else None, ".4f"),
                "{:.4f} to {:.4f}".format(*judged.interval) if judged and judged.interval else "–",
                figure(runtime.latency_ms.median if runtime.latency_ms else None, ".1f"),
                judged.verdict if judged else "",
            ]
        )
    header = ["runtime", "max error", f"{compared} as in Keras", f"{metric} drop", "95 % interval", "latency ms"]
    table([*header, f"{metric} is"], rows)
    for name, runtime in found.items():
        if runtime.passed is None:
            put(f"{name}: {'; '.join(runtime.problems)}")


def _compared(runtime: "RuntimeReport") -> "Agreement | None":
    """Returns the examples on which a runtime was compared with Keras: the validation split, or the golden ones."""
    return runtime.validation.outputs if runtime.validation else runtime.golden


def _agreement(runtime: "RuntimeReport") -> str:
    """Returns the share of a runtime's answers that equal Keras's."""
    if answers := runtime.generation:
        return f"{answers.equal} of {answers.prompts}"
    outputs = runtime.validation.outputs if runtime.validation else None
    return f"{outputs.agreement:.2%} of {outputs.examples}" if outputs and outputs.agreement is not None else "–"


def benchmark(rows: list[dict[str, Any]]) -> None:
    """Shows the cost and accuracy of artifacts in each runtime."""
    header = ["artifact", "runtime", "size MB", "load ms", "latency ms", "95th percentile", "peak MB", "accuracy"]
    cells = [
        [
            row["artifact"],
            f"{row['runtime']} {row['version']}",
            f"{row['size_bytes'] / 1e6:.2f}",
            f"{row['load_ms']:.0f}",
            f"{row['latency_ms']['median']:.2f}",
            f"{row['latency_ms']['p95']:.2f}",
            figure(row["peak_mb"], ".0f"),
            figure(row["accuracy"], ".4f"),
        ]
        for row in rows
    ]
    table(header, cells)


def machine(found: dict[str, Any]) -> None:
    """Shows what `doctor` found."""
    table(["package", "version"], [list(row) for row in found["versions"].items()])
    has = found["machine"]
    put(f"\nmachine: {has['cpu']}, {has['cores']} cores, {has['memory_gb']} GB, {has['system']}")
    put(f"GPUs: {', '.join(found['gpus']) or 'none'}")
    if nvidia := found["nvidia"]:
        wheels = f"without {', '.join(nvidia['missing'])}" if nvidia["missing"] else "all wheels"
        put(f"NVIDIA: driver {nvidia['driver']}; CUDA: {wheels}; XLA's libdevice: {nvidia['libdevice'] or 'missing'}")
    put(f"XLA: {'works' if found['xla'] else 'does not work'}")
    for name, version in found["runtimes"].items():
        put(f"runtime {name}: {version or 'not installed'}")
    for hub, there in found["hubs"].items():
        put(f"{hub}: {'reachable' if there else 'not reachable (fetched assets need no hub)'}")
    for line in found["advice"]:
        put(f"advice: {line}")
