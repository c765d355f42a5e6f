"""The recipe: what the user asked for. Finds, reads, overrides and validates it; knows no TensorFlow.

A recipe is one TOML file. Nothing in it is ever executed. Every key is declared, unknown keys are errors with a
suggestion, and all problems are reported in one message. The keys that every recipe has are declared in settings.py,
exports.py and sources.py here; a task's own are with the task, in kerastune/tasks/TASK/settings.py.
"""

from kerastune.recipe.exports import Export, export_name
from kerastune.recipe.reading import find, json_schema, parse, parse_export, read, recipes, shipped
from kerastune.recipe.settings import Lora, Phase, Recipe, Train
from kerastune.recipe.sources import Data

__all__ = [
    "Data",
    "Export",
    "Lora",
    "Phase",
    "Recipe",
    "Train",
    "export_name",
    "find",
    "json_schema",
    "parse",
    "parse_export",
    "read",
    "recipes",
    "shipped",
]
