"""Command line: parse, one call, print. The only room that prints or exits.

Each group of commands is one module. show.py turns results into text, and terminal.py prints it. Commands import what
they need inside their functions, so that `kerastune --help` is fast.
"""

import faulthandler
import os
import sys
import warnings
from typing import Any

import click

from kerastune.cli import artifacts, asking, curve, doctor, recipes, runs, scaling, stock, training
from kerastune.cli.terminal import say
from kerastune.errors import INTERRUPTED, KerastuneError


class _Group(click.Group):
    """Shows a user's mistakes as a message and a hint. Bugs keep their traceback."""

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
    kerastune recipes list              see what you can train
    kerastune run quickstart            train, export, verify, report
    kerastune predict RUN photo.jpg     use the model

    Exit codes: 0 done, 1 a mistake you can fix, 2 usage, 3 verification failed, 4 a converter or the machine failed.
    """


for _command in (
    *(recipes.recipes, stock.assets, stock.targets, stock.cache, doctor.doctor),
    *(training.validate, training.run, training.train, training.resume, training.lr_find, curve.curve),
    *(training.evaluate, training.report, runs.runs, scaling.manifest),
    *(artifacts.export, artifacts.verify, artifacts.benchmark, artifacts.serve),
    *(asking.predict, asking.search, asking.index),
):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line. Hides TensorFlow's start-up noise, which C++ writes directly to descriptor 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "KERASTUNE_DEBUG" not in os.environ:
        warnings.simplefilter("ignore")  # libraries warn their developers; our own are errors or in the report
        terminal = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        sys.stderr = terminal
        faulthandler.enable(terminal)
    cli()
