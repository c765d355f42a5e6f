"""kerastune recipes: list, show, copy, schema."""

import json
from pathlib import Path

import click

from kerastune.cli.options import json_option
from kerastune.cli.terminal import emit, put, say_next, table, typed
from kerastune.errors import KerastuneError


@click.group()
def recipes() -> None:
    """List, show and copy recipes."""


@recipes.command("list")
@json_option
def recipes_list(as_json: bool) -> None:
    """List the shipped recipes.

    Example: kerastune recipes list
    """
    from kerastune import recipe

    found = {name: recipe.find(name)[1].splitlines()[0].lstrip("# ") for name in recipe.shipped()}
    rows = [[name, summary] for name, summary in found.items()]
    emit(
        as_json,
        [{"name": n, "summary": s} for n, s in rows],
        lambda: table(["recipe", "summary"], rows),
    )
    say_next("kerastune recipes show NAME", "kerastune validate NAME")


@recipes.command("show")
@click.argument("name")
@json_option
def recipes_show(name: str, as_json: bool) -> None:
    """Print a recipe.

    Example: kerastune recipes show quickstart
    """
    from kerastune import recipe

    text = recipe.find(name)[1]
    emit(
        as_json, recipe.read(name).model_dump(mode="json") if as_json else None, lambda: put(text.rstrip(), as_is=True)
    )
    validate, copy = typed("kerastune", "validate", name), typed("kerastune", "recipes", "copy", name)
    say_next(validate, ("to make it yours", copy))


@recipes.command("copy")
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@json_option
def recipes_copy(name: str, destination: Path | None, as_json: bool) -> None:
    """Copy a recipe to your own file.

    Never overwrites an existing file.

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
        raise KerastuneError(f"{path} already exists.", "Give another path: recipes copy NAME DEST.") from None
    except OSError as error:
        raise KerastuneError(f"{path} cannot be written: {error.strerror}.") from error
    emit(as_json, {"path": str(path)}, lambda: put(str(path)))
    say_next((f"when {path} is edited", typed("kerastune", "validate", str(path))))


@recipes.command("schema")
@json_option
def recipes_schema(as_json: bool) -> None:
    """Print the JSON Schema of recipes, with every key.

    Example: kerastune recipes schema > recipe.schema.json
    """
    from kerastune import recipe

    click.echo(json.dumps(recipe.json_schema(), indent=2))
