"""kerastune manifest: what to give Kubernetes or Slurm."""

import click

from kerastune.cli.options import json_option, recipe_argument
from kerastune.cli.terminal import emit, put


@click.command()
@recipe_argument
@click.option("--kubernetes", "system", flag_value="kubernetes", required=True, help="An indexed Job and its Service.")
@click.option("--slurm", "system", flag_value="slurm", help="A batch script.")
@click.option("--workers", type=click.IntRange(2), default=2, show_default=True, metavar="N", help="Machines.")
@click.option("--gpus", type=click.IntRange(0, 1), default=1, show_default=True, help="GPUs of each worker.")
@click.option("--image", default="kerastune:latest", show_default=True, help="Container image, for Kubernetes.")
@click.option("-o", "--out", default="/shared/run", show_default=True, help="Run folder, as the machines see it.")
@json_option
def manifest(
    recipe: str,
    overrides: tuple[str, ...],
    system: str,
    workers: int,
    gpus: int,
    image: str,
    out: str,
    as_json: bool,
) -> None:
    """Print what trains a recipe on many machines with Kubernetes or Slurm.

    Example: kerastune manifest quickstart --kubernetes --workers 8
    """
    from kerastune.workers import manifests

    asked = manifests.Asked(recipe, overrides, out, workers, gpus, image)
    text = {"kubernetes": manifests.kubernetes, "slurm": manifests.slurm}[system](asked)
    emit(as_json, {"system": system, "manifest": text}, lambda: put(text.rstrip("\n")))
