"""kerastune runs: lists, compares and deletes runs."""

from pathlib import Path
from typing import Any

import click

from kerastune.cli.options import json_option
from kerastune.cli.show import figure
from kerastune.cli.terminal import emit, put, say, say_next, shown, table, typed
from kerastune.errors import KerastuneError


@click.group(invoke_without_command=True)
@click.pass_context
def runs(ctx: click.Context) -> None:
    """List, compare and delete runs. Without a subcommand, list those in runs/."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(runs_list, folder=Path("runs"), as_json=False)


@runs.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@json_option
def runs_list(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER, the newest first, and what to do next with each.

    Example: kerastune runs list
    """
    from kerastune import run

    found = [_row(path) for path in run.inside(folder)]

    def show() -> None:
        if not found:
            put(f"There are no runs in {shown(folder)}.")
            return
        cells = []
        for row in found:
            megabytes = f"{row['size_bytes'] / 1e6:.1f}"
            then = "open report.html" if row["status"] == "complete" else row["next"]
            cells.append([shown(Path(row["run"])), row["status"], row["task"], _metric(row), megabytes, then])
        table(["run", "status", "task", "test", "MB", "next"], cells)

    emit(as_json, found, show)
    say_next(*(["kerastune runs compare A B", "kerastune runs remove RUN"] if found else ["kerastune run RECIPE"]))


@runs.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@json_option
def runs_compare(first: str, second: str, as_json: bool) -> None:
    """Compare two runs: recipes, metrics with 95 % intervals, and artifacts.

    If both were judged on the same examples, the verdict comes from paired examples.

    Example: kerastune runs compare runs/first runs/second
    """
    from dataclasses import asdict

    from kerastune import run
    from kerastune.reporting import comparing

    a, b = run.load(first), run.load(second)
    found = comparing.compare(a, b)

    def show() -> None:
        put("recipe" if found.recipe else "recipe: the same")
        for line in found.recipe:
            put(f"  {line}")
        put()
        rows = []
        for one in found.metrics:
            values = [f"{value:.4f} ({low:.4f} to {high:.4f})" for value, (low, high) in (one.a, one.b)]
            rows.append([f"{one.split} {one.metric}", *values, one.verdict])
        table(["metric (95 % interval)", "A", "B", "B is"], rows)
        if found.artifacts:
            put()
            table(["artifact", "A MB", "B MB", "A metric", "B metric"], [_artifact(one) for one in found.artifacts])

    emit(as_json, asdict(found), show)
    say_next(typed("kerastune", "report", second))


@runs.command("remove")
@click.argument("folders", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def runs_remove(folders: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete runs, finished or not, with everything in them.

    Example: kerastune runs remove runs/first
    """
    from kerastune import run

    # All are checked before one is deleted; one that is named twice, as RUN and RUN.partial, is one.
    found = list(dict.fromkeys(run.removable(folder) for folder in folders))
    sizes = [run.size(path) for path in found]
    for path, size in zip(found, sizes, strict=True):
        say(f"{shown(path)}: {size / 1e6:.1f} MB")
    if not yes:
        click.confirm(f"Delete {'it' if len(found) == 1 else f'these {len(found)}'} for good?", abort=True, err=True)
    for path in found:
        run.remove(path)
    document = {"removed": [str(path) for path in found], "bytes": sum(sizes)}
    emit(as_json, document, lambda: put(f"{sum(sizes) / 1e6:.1f} MB deleted"))
    say_next("kerastune runs")


def _row(path: Path) -> dict[str, Any]:
    from kerastune import run

    record, task = None, "–"
    try:
        if run.is_unfinished(path):
            task = run.unfinished_recipe(path).task
            status = "training" if run.is_training(path) else "unfinished"
        else:
            record = run.load(path).record
            task, status = record.task, record.status
    except KerastuneError:  # the others are listed all the same
        status = "damaged"
    then = {
        "training": "wait until it ends",
        "unfinished": typed("kerastune", "resume", shown(path)),
        "interrupted": typed("kerastune", "resume", shown(path)),
        "complete": f"open {shown(path / 'report.html')}",
        "damaged": typed("kerastune", "runs", "remove", shown(path)),
    }
    return {
        "run": str(path),
        "status": status,
        "task": task,
        "metric": record and record.metric,
        "test": record and record.metrics and record.metrics["test"].get(record.metric),
        "size_bytes": run.size(path),
        "next": then[status],
    }


def _metric(row: dict[str, Any]) -> str:
    return "–" if row["test"] is None else f"{row['metric'].replace('_', ' ')} {row['test']:.4f}"


def _artifact(one: Any) -> list[str]:
    sizes = [figure(side and side.size_bytes, ".2f", 1e6) for side in (one.a, one.b)]
    return [one.name, *sizes, *(figure(side and side.metric, ".4f") for side in (one.a, one.b))]
