"""kerastune validate, run, train, resume, lr-find, evaluate and report: from a recipe to a run."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kerastune import child, files
from kerastune.cli import show
from kerastune.cli.options import (
    force_option,
    json_option,
    launcher_option,
    like_option,
    optional_recipe_argument,
    out_option,
    read,
    recipe_argument,
    running,
    workers_option,
)
from kerastune.cli.progress import progress, starting
from kerastune.cli.terminal import emit, put, say, say_next, shown, typed
from kerastune.errors import INTERRUPTED, KerastuneError

if TYPE_CHECKING:
    from kerastune.progress import Progress
    from kerastune.recipe import Recipe
    from kerastune.run import Run


@click.command()
@recipe_argument
@click.option("--no-exports", is_flag=True, help="Skip trying the exports, which takes minutes.")
@json_option
def validate(recipe: str, overrides: tuple[str, ...], no_exports: bool, as_json: bool) -> None:
    """Check a recipe, its data and its exports, without training.

    Reads all data and prints what a run would do. Makes and verifies the exports with the untrained model, and discards
    them.

    Example: kerastune validate quickstart -s train.batch_size=64
    """
    from kerastune import recipe as recipes

    wanted = read(recipe, overrides)
    with starting():
        from kerastune import tasks
        from kerastune.exporting import rehearsal
        from kerastune.records import to_json
        from kerastune.training import plan as planning

    failure: KerastuneError | None = None
    started = time.monotonic()
    names = map(recipes.export_name, wanted.exports)
    rows: list[dict[str, Any]] = [{"name": name, "passed": None, "problems": []} for name in names]
    with progress() as told:
        plan = planning.plan(wanted, told)
        described = tasks.get(wanted.task).building.describe(plan.recipe, plan.task, plan.splits)
        planned = time.monotonic()
        if wanted.exports and not no_exports:
            rows, failure = rehearsal.rehearse(wanted, plan, told)
    document = {
        "recipe": wanted.model_dump(mode="json"),
        "labels": list(plan.splits.labels),
        "counts": plan.counts,
        "examples": {name: len(part) for name, part in plan.splits.parts.items()},
        "notes": list(plan.splits.notes),
        "warnings": [*described.get("warnings", ()), *rehearsal.warnings(wanted, plan)],
        "skipped": list(plan.splits.skipped),
        "phases": [to_json(audit) for audit in plan.audits],
        "decisions": [to_json(decision) for decision in plan.decisions],
        "memory_mb": plan.memory_mb,
        "gpu_mb": plan.gpu_mb,
        "exports": rows,
        "seconds": {"plan": round(planned - started, 1), "exports": round(time.monotonic() - planned, 1)},
    }
    emit(as_json, document, lambda: show.plan(document, plan.audits))
    if failure:
        raise failure
    say_next(running(recipe, overrides))


@click.command()
@optional_recipe_argument
@like_option
@out_option
@force_option
@workers_option
@launcher_option
@json_option
def run(as_json: bool, **wanted: Any) -> None:
    """Train, evaluate, export, verify and report.

    Example: kerastune run quickstart -o runs/first
    """
    _fine_tune("run", as_json, **wanted)


@click.command()
@optional_recipe_argument
@like_option
@out_option
@force_option
@workers_option
@launcher_option
@json_option
def train(as_json: bool, **wanted: Any) -> None:
    """Train and evaluate without exporting.

    Example: kerastune train quickstart -s phases.0.epochs=1
    """
    _fine_tune("train", as_json, **wanted)


def _fine_tune(
    job: Literal["train", "run"],
    as_json: bool,
    recipe: str | None,
    overrides: tuple[str, ...],
    like: str | None,
    out: Path | None,
    force: bool,
    workers: int | None,
    launcher: str,
) -> None:
    from kerastune import run as runs
    from kerastune.workers import cluster

    earlier = None
    if like:
        if recipe or overrides:
            raise click.UsageError("--like RUN brings the recipe with it: give no RECIPE and no -s.")
        earlier = runs.load(like)
        wanted = earlier.recipe
    elif recipe:
        wanted = read(recipe, overrides)
    else:
        raise click.UsageError("Give a RECIPE, or a run to repeat: --like RUN.")
    if not cluster.found().is_chief:
        _follow()
        return
    out = _refused_out(wanted, out, force)
    if launcher == "ray":
        if not workers or not recipe:
            raise click.UsageError("--launcher ray needs a RECIPE and --workers N.")
        from kerastune.workers import on_ray

        changes = (word for override in overrides for word in ("-s", override))
        on_ray.start([job, recipe, *changes, *(["--force"] if force else [])], str(out), workers)
        _conclude(runs.load(out), None, as_json)
        return
    made = None
    try:
        with child.forking():
            with _workers(workers) as group:
                from kerastune.training import train as trainer

                with progress() as told:
                    made = trainer.fine_tune(
                        wanted, out, force=force, job=job, like=earlier, group=group, progress=told
                    )
            with progress() as told:
                failure = _finish(made, told)
    except KeyboardInterrupt:
        _interrupted(out, made)
    else:
        _conclude(made, failure, as_json)


@click.command()
@click.argument("run_folder", metavar="RUN")
@workers_option
@json_option
def resume(run_folder: str, workers: int | None, as_json: bool) -> None:
    """Resume a training or a run that was killed or interrupted.

    A training's result is bit-identical to an uninterrupted one. Then finishes the job that it was part of: makes the
    exports that a run lacks, and its report.

    Example: kerastune resume runs/first
    """
    from kerastune.workers import cluster

    if not cluster.found().is_chief:
        _follow()
        return
    made = _trained(run_folder)
    try:
        with child.forking():
            if not made:
                with _workers(workers) as group:
                    from kerastune.training import train as trainer

                    with progress() as told:
                        made = trainer.resume(run_folder, told, group=group)
            with progress() as told:
                failure = _finish(made, told)
    except KeyboardInterrupt:
        _interrupted(files.absolute(run_folder), made)
    else:
        _conclude(made, failure, as_json)


def _follow() -> None:
    with starting():
        from kerastune.training import following
        from kerastune.workers import cluster, group
    with progress() as told:
        following.follow(group.joined(cluster.found()), told)


@contextlib.contextmanager
def _workers(count: int | None) -> Iterator[Any]:
    """The workers that train with this process, their chief, as --workers or TF_CONFIG say. None if there are none."""
    from kerastune.workers import cluster, local

    with local.beside(count) if count and count > 1 else contextlib.nullcontext():
        with starting():
            from kerastune.workers import group
        of = cluster.found()
        yield group.joined(of) if of.count > 1 else None


@click.command("lr-find")
@recipe_argument
@click.option(
    "--phase",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Phase to test, from 1; earlier phases train first.",
)
@click.option(
    "--steps", default=100, show_default=True, type=click.IntRange(10), help="Steps over which the rate rises."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="lr-find.png", show_default=True, help="Plot to write."
)
@json_option
def lr_find(recipe: str, overrides: tuple[str, ...], phase: int, steps: int, out: Path, as_json: bool) -> None:
    """Find a learning rate.

    Trains with a rising rate and finds where the loss falls fastest.

    Example: kerastune lr-find quickstart --phase 1 -o rates.png
    """
    wanted = read(recipe, overrides)
    files.refuse_plot(out)
    with starting():
        from kerastune.training import lr_finder
    with progress() as told:
        found = lr_finder.find(wanted, phase, steps, told)
    lr_finder.plot(found, out)
    document = {
        "phase": phase,
        "suggestion": found.suggestion,
        "why_none": found.why_none,
        "plot": str(out),
        "rates": found.rates.tolist(),
        "losses": found.losses.tolist(),
    }
    suggestion = f"{found.suggestion:.1e}" if found.suggestion else f"none: {found.why_none}"
    emit(as_json, document, lambda: put(f"suggested learning rate: {suggestion}\nplot: {shown(out)}"))
    if found.suggestion:
        say_next(running(recipe, (*overrides, f"phases.{phase - 1}.learning_rate={suggestion}")))
    else:
        more = running(recipe, overrides, "lr-find", "--phase", str(phase), "--steps", str(4 * steps))
        say_next(("for a smoother curve", more), f"look at {shown(out)}")


@click.command()
@click.argument("run_folder", metavar="RUN")
@json_option
def evaluate(run_folder: str, as_json: bool) -> None:
    """Score a run's model again on its validation and test splits.

    Example: kerastune evaluate runs/first
    """
    from kerastune import run as runs

    of = runs.load(run_folder)
    with starting():
        from kerastune.training import train

    with progress() as told:
        metrics = train.evaluate(of, told)
    emit(as_json, metrics, lambda: show.metrics(metrics, of))
    then = show.predicting(of.folder, of) if of.exports.is_dir() else _exporting(run_folder)
    say_next(typed("kerastune", "report", run_folder), then)


@click.command()
@click.argument("run_folder", metavar="RUN")
@json_option
def report(run_folder: str, as_json: bool) -> None:
    """Rebuild report.html from the run folder.

    Example: kerastune report runs/first
    """
    from kerastune import run as runs
    from kerastune.reporting import report as reporter

    of = runs.load(run_folder)
    with progress() as told:
        path = reporter.write(of, progress=told)
    emit(as_json, {"report": str(path)}, lambda: put(shown(path)))
    say_next("open it in a browser; it is one file and needs no network")


def _trained(run_folder: str) -> "Run | None":
    """A run whose training is complete, but not its exports or its report."""
    from kerastune import run as runs
    from kerastune.exporting import exporter

    folder = files.absolute(run_folder)
    if not runs.is_run(folder) or runs.has_work(folder):
        return None
    of = runs.load(folder)
    is_left = not of.report.is_file() or (of.record.job == "run" and exporter.missing(of))
    return of if of.record.status == "complete" and is_left else None


def _refused_out(wanted: "Recipe", out: Path | None, force: bool) -> Path:
    """Returns the run's folder; refuses one that cannot be made before importing TensorFlow, which takes seconds."""
    from kerastune import run as runs
    from kerastune import unfinished

    folder = files.absolute(out) if out else runs.default_folder(wanted)
    unfinished.refuse_out(folder, force)
    return folder


def _finish(made: "Run", told: "Progress") -> KerastuneError | None:
    """Exports if the job includes it, and writes the report. Returns the failure of an export, to be shown last."""
    from kerastune.exporting import exporter
    from kerastune.reporting import report as reporter

    failure: KerastuneError | None = None
    if made.record.status == "interrupted":
        reporter.write(made, progress=told)
        say(f"Interrupted. The partly trained model is in {shown(made.folder)}; it has no scores yet.")
        say_next(*(typed("kerastune", command, made.folder) for command in ("resume", "evaluate")))
        click.get_current_context().exit(INTERRUPTED)
    if made.record.job == "run" and (wanted := exporter.missing(made)):
        try:
            exporter.export(made, wanted, progress=told)
        except KerastuneError as error:
            failure = error
    reporter.write(made, progress=told)
    return failure


def _interrupted(folder: Path, made: "Run | None") -> None:
    """Says what Ctrl-C left, and ends the command. `made` is the run if its training was complete."""
    from kerastune import run as runs

    if made:
        say(f"Interrupted. The trained model is in {shown(made.folder)}.")
        say_next(("to make what is missing", typed("kerastune", "resume", made.folder)))
    elif runs.has_work(folder):
        say(f"Interrupted. What is done is in {shown(runs.work_of(folder))}.")
        say_next(("to go on with it", typed("kerastune", "resume", folder)))
    else:
        say("Interrupted.")
    click.get_current_context().exit(INTERRUPTED)


def _conclude(made: "Run", failure: KerastuneError | None, as_json: bool) -> None:
    """Shows a finished run and the next step."""
    document = show.run_document(made)
    emit(as_json, document, lambda: show.run(document))
    if failure:
        raise failure
    folder = next((Path(each["folder"]) for each in document["artifacts"]), made.folder)
    then = _exporting(made.folder) if made.record.job == "train" else f"open {shown(made.report)} in a browser"
    say_next(show.predicting(folder, made), then)


def _exporting(run_folder: str | Path) -> str:
    return typed("kerastune", "export", run_folder, "--target", "linux")
