"""The recipe: finds, reads, overrides and validates the user's request, without TensorFlow.

A recipe is one TOML file. Nothing in it is ever executed. Every key is declared, unknown keys are errors with a
suggestion, and one message reports all problems. settings.py, exports.py and sources.py declare the keys that every
recipe has; kerastune/tasks/TASK/settings.py declares a task's own.
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
