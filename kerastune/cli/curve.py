"""kerastune curve: what further examples would bring."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kerastune import files
from kerastune.cli.options import force_option, json_option, optional_recipe_argument, read, running
from kerastune.cli.progress import progress, starting
from kerastune.cli.terminal import emit, put, say_next, shown, table, typed

if TYPE_CHECKING:
    from kerastune.records import Curve


@click.command()
@optional_recipe_argument
@click.option("--run", "run_folder", metavar="RUN", help="Put the curve into a run's report. Leave out RECIPE.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write. Default: runs/NAME-curve.")
@force_option
@json_option
def curve(
    recipe: str | None,
    overrides: tuple[str, ...],
    run_folder: str | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure what more examples would bring.

    Fits a linear head on 8, 16, 32, … examples of each label, up to all, three draws each: with the pretrained weights,
    and with random ones. Takes minutes. After a kill, the same command goes on.

    Example: kerastune curve questions
    """
    from kerastune import run as runs

    of = None
    if bool(recipe) == bool(run_folder) or (run_folder and (overrides or out)):
        raise click.UsageError("Give a RECIPE, or --run RUN alone.")
    if recipe:
        wanted = read(recipe, overrides)
        folder = files.absolute(out or Path("runs") / f"{wanted.name}-curve")
    else:
        of = runs.load(str(run_folder))
        wanted, folder = of.recipe, of.folder / "curve"
    with starting():
        from kerastune.training import curve as curves

    with progress() as told:
        found = curves.measure(wanted, folder, force=force, progress=told)
        from kerastune.reporting import charts

        with files.whole_file(folder / "curve.svg") as file:
            file.write(charts.learning_curve(found).encode())
        if of:
            from kerastune.reporting import report

            report.write(of, progress=told)
    document = {**asdict(found), "folder": str(folder)}
    emit(as_json, document, lambda: _show(found, folder))
    if of:
        say_next(f"open {shown(of.report)} in a browser")
    else:
        say_next(running(str(recipe), overrides), typed("kerastune", "curve", "--run", "RUN"))


def _show(found: "Curve", folder: Path) -> None:
    """Shows the mean and the spread of each size, and the result as a sentence."""
    from kerastune.records import curve_means

    rows = []
    both = zip(curve_means(found.points, "pretrained"), curve_means(found.points, "random"), strict=True)
    for (size, count, own, apart), (_, _, other, other_apart) in both:
        figures = [f"{own:.4f} ± {apart:.4f}", f"{other:.4f} ± {other_apart:.4f}"]
        rows.append(["all" if size is None else str(size), f"{count:,.0f}", *figures])
    table(["examples a label", "examples", "pretrained", "random weights"], rows)
    put(f"(test accuracy on {found.test:,} examples: the mean of three draws ± half their range; all are one draw)")
    put()
    put(found.sentence)
    put(f"curve: {shown(folder / 'curve.json')}, drawn in {shown(folder / 'curve.svg')}")
