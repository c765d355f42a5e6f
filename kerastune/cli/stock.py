"""kerastune assets, targets and cache: list, fetch and delete what is in stock."""

import click

from kerastune.cli.options import json_option
from kerastune.cli.progress import progress
from kerastune.cli.terminal import emit, put, say_next, table, typed


@click.group()
def assets() -> None:
    """Fetch pretrained weights and sample data."""


@assets.command("list")
@json_option
def assets_list(as_json: bool) -> None:
    """List the assets, and where the fetched ones are.

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
    keys = ["name", "kind", "download_mb", "licence"]

    def show() -> None:
        cells = [[*(str(row[key]) for key in keys), "yes" if row["path"] else "–"] for row in rows]
        table(["asset", "kind", "MB", "licence", "here"], cells)
        put(f"(here: in {store.home() / 'assets'})")

    emit(as_json, rows, show)
    say_next("kerastune assets fetch NAME")


@assets.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
def assets_fetch(names: tuple[str, ...], as_json: bool) -> None:
    """Download, check, convert and cache assets.

    Example: kerastune assets fetch efficientnet-lite0-imagenet fashion-mnist
    """
    from kerastune import assets as store

    with progress() as told:
        paths = {name: str(store.fetch(name, told.say)) for name in names}
    emit(as_json, paths, lambda: table(["asset", "here"], [list(row) for row in paths.items()]))
    say_next("kerastune recipes list")


@click.group()
def targets() -> None:
    """List deployment targets, and show how to deploy to them."""


@targets.command("list")
@json_option
def targets_list(as_json: bool) -> None:
    """List the deployment targets.

    Example: kerastune targets list
    """
    from dataclasses import asdict

    from kerastune.recipe import target

    found = [asdict(target.load(name)) for name in target.names()]
    rows = [[t["name"], t["format"], t["quantize"], t["images"], t["io"], t["summary"]] for t in found]
    emit(as_json, found, lambda: table(["target", "format", "quantize", "images", "io", "where"], rows))
    say_next("kerastune targets show NAME", "kerastune export RUN --target NAME")


@targets.command("show")
@click.argument("name")
@json_option
def targets_show(name: str, as_json: bool) -> None:
    """Show how to deploy to a target.

    Example: kerastune targets show linux
    """
    from dataclasses import asdict

    from kerastune.recipe import target

    readme = target.readme(name)
    emit(as_json, {**asdict(target.load(name)), "readme": readme}, lambda: put(readme.rstrip(), as_is=True))
    say_next(f"kerastune export RUN --target {typed(name)}")


@click.group()
def cache() -> None:
    """List and delete cached outputs of frozen layers, and decoded images."""


@cache.command("ls")
@json_option
def cache_ls(as_json: bool) -> None:
    """List the cached outputs and their sizes.

    Example: kerastune cache ls
    """
    from kerastune.training.prefix import cache as kept

    found = kept.listing()
    rows = [[r["key"][:12], f"{r['bytes'] / 1e6:.1f}", str(r["examples"]), r["used"], r["of"]] for r in found]

    def show() -> None:
        if rows:
            table(["key", "MB", "examples", "last used", "of"], rows)
        else:
            put("The cache is empty.")

    emit(as_json, found, show)
    say_next("kerastune cache clear [KEY...]")


@cache.command("clear")
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@json_option
def cache_clear(keys: tuple[str, ...], as_json: bool) -> None:
    """Delete all cached outputs, or those with these keys.

    The next training computes them again.

    Example: kerastune cache clear
    """
    from kerastune.training.prefix import cache as kept

    freed = kept.clear(keys or None)
    emit(as_json, {"bytes": freed}, lambda: put(f"{freed / 1e6:.1f} MB deleted"))
    say_next("kerastune cache ls")
