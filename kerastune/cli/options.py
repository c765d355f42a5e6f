"""Options and arguments that commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kerastune.cli.terminal import typed

if TYPE_CHECKING:
    from kerastune.recipe import Recipe

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
out_option = click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write.")
force_option = click.option("--force", is_flag=True, help="Replace the folder if it exists.")
like_option = click.option(
    "--like", metavar="RUN", help="Repeat a run, with its recipe and the decisions of `auto`. Leave out RECIPE."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Train with N processes: one for each GPU, or on the CPUs. Several machines: docs/scale.md.",
)
launcher_option = click.option(
    "--launcher",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who starts the workers of --workers: this process on this machine, or Ray on its cluster.",
)
_overrides_option = click.option(
    "-s",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key: -s train.batch_size=64 -s phases.0.epochs=1",
)


def recipe_argument(function: Function) -> Function:
    """Adds RECIPE and its overrides to a command."""
    return click.argument("recipe")(_overrides_option(function))


def optional_recipe_argument(function: Function) -> Function:
    """Adds an optional RECIPE and its overrides to a command."""
    return click.argument("recipe", required=False)(_overrides_option(function))


def read(recipe: str, overrides: tuple[str, ...]) -> "Recipe":
    """Reads a recipe. Finds the mistakes that need no TensorFlow before it is imported."""
    from kerastune import assets, data
    from kerastune import recipe as recipes

    wanted = recipes.read(recipe, overrides)
    assets.resolve_preset(wanted.preset)
    data.refuse_missing(wanted.data)
    return wanted


def running(recipe: str, overrides: tuple[str, ...], command: str = "run", *options: str) -> str:
    """Returns the command that runs a recipe with its overrides, as a user would type it."""
    changes = (word for override in overrides for word in ("-s", override))
    return typed("kerastune", command, recipe, *changes, *options)
