"""Exports as a task sees them: which file a recipe's [[exports]] asks for, and why a task has no such file."""

from collections.abc import Sequence
from dataclasses import replace

from kerastune import tasks
from kerastune.formats import FORMATS, support
from kerastune.recipe import Export, Recipe, target
from kerastune.recipe.target import Target
from kerastune.tasks.contract import Wanted


def resolved(export: Export, backbone: str) -> tuple[Target, Wanted]:
    """The place an export is for, with the format that is wanted of it; and the file that is asked for.

    Args:
        backbone: the class of the model's backbone.
    """
    format, quantize = export.resolved
    where = replace(target.load(export.target or FORMATS[format].target), format=format)
    return where, Wanted(FORMATS[format].style, quantize, where.images, where.io, backbone)


def refusals(recipe: Recipe, exports: Sequence[Export], backbone: str) -> list[str]:
    """Why exports cannot be made, each in a sentence without its full stop."""
    device, found = tasks.device(recipe.task), list[str | None]()
    for export in exports:
        where, wanted = resolved(export, backbone)
        found.append(target.refusal(where.name, device.modality.name))
        found.append(support.refusal(backbone, where.format, wanted.quantize))
        found.append(device.refusal(recipe, wanted))
    return [why for why in found if why]
