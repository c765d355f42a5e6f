"""Resolves the file that a recipe's [[exports]] requests, and why a task cannot make it."""

from collections.abc import Sequence
from dataclasses import replace

from kerastune import tasks
from kerastune.formats import FORMATS, support
from kerastune.recipe import Export, Recipe, target
from kerastune.recipe.target import Target
from kerastune.tasks.contract import Wanted


def resolved(export: Export, backbone: str) -> tuple[Target, Wanted]:
    """Returns an export's target with the requested format, and the requested file.

    Args:
        backbone: the class of the model's backbone.
    """
    format, quantize = export.resolved
    where = replace(target.load(export.target or FORMATS[format].target), format=format)
    return where, Wanted(FORMATS[format].style, quantize, where.images, where.io, backbone)


def refusals(recipe: Recipe, exports: Sequence[Export], backbone: str) -> list[str]:
    """Returns why exports cannot be made, as sentences without a full stop."""
    device, found = tasks.device(recipe.task), list[str | None]()
    for export in exports:
        where, wanted = resolved(export, backbone)
        found.append(target.refusal(where.name, device.modality.name))
        found.append(support.refusal(backbone, where.format, wanted.quantize))
        found.append(support.missing(wanted.quantize))
        found.append(device.refusal(recipe, wanted))
    return [why for why in found if why]
