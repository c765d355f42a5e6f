"""Refuses regular expressions that backtrack without end, before they are searched for in a model's names."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from kerastune import keras_private
from kerastune.errors import RecipeError, quoted
from kerastune.forkserver import tied
from kerastune.recipe import Phase
from kerastune.training.units import units

_SECONDS = 2  # of a processor, for all expressions and names together; they take milliseconds
_SEARCHES = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
expressions, names = json.load(sys.stdin)
for number, expression in enumerate(expressions):
    print(number, flush=True)
    for name in names:
        re.search(expression, name)
print("done")
"""


def refuse_endless(phases: Sequence[Phase], task: Any) -> None:
    """Searches for the expressions of all phases in a process that is ended when it takes too long.

    Raises:
        RecipeError: an expression takes too long on this model's names.
    """
    found = [(key, expression) for i, phase in enumerate(phases) for key, expression in _of(f"phases.{i}", phase)]
    if not found:
        return
    names = {name for layer in keras_private.layers(task) for name in (layer.name, layer.path) if name}
    names |= {unit.name for unit in units(task.backbone)}
    asked = json.dumps([[expression for _, expression in found], sorted(names)])
    command = tied([sys.executable, "-I", "-S", "-c", _SEARCHES])
    said = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    last = said.stdout.split()[-1:]
    if last and last != ["done"]:
        key, expression = found[int(last[0])]
        raise RecipeError(
            f"{key}: {quoted(expression)} takes more than {_SECONDS} s to be searched for in the names of the layers.",
            "A repetition inside a repetition, such as (a+)+, tries countless ways to match; write it with one.",
        )


def _of(key: str, phase: Phase) -> list[tuple[str, str]]:
    """Returns a phase's expressions, each with its key in the recipe."""
    kind, _, argument = phase.unfreeze.partition(":")
    unfrozen = [(f"{key}.unfreeze", argument)] if kind == "match" else []
    rates = [(f"{key}.learning_rates", expression) for expression in phase.learning_rates]
    targets = [(f"{key}.lora.targets", target) for target in phase.lora.targets] if phase.lora else []
    return [*unfrozen, *rates, *targets]
