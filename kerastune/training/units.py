"""Units of a backbone, from the stem to the top: which ones a phase trains, from which epoch, and at which rate."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras

from kerastune import keras_private
from kerastune.errors import RecipeError
from kerastune.recipe import Phase

BLOCK = re.compile(
    r"""block_\d+_\d+                                   # MobileNet: block_3_1
      | stack_?\d+_block_?\d+                           # ResNet: stack2_block0
      | (stack|block|stage|hierarchical_encoder
         |transformer(_encoder|_decoder)?(_layer|_block)?|(encoder|decoder)_(block|layer))_?\d+[a-z]?(_\d+)?""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Unit:
    """The smallest part of a model that is frozen or unfrozen as a whole: the stem, a block, the top, the head.

    Attributes:
        loose: weights that no layer of the unit holds, such as a model's own.
    """

    name: str
    layers: tuple[keras.layers.Layer, ...]
    is_block: bool = False
    loose: tuple[keras.Variable, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names for `match:` expressions: the unit's name, and its layers' names and paths."""
        return (self.name, *(name for layer in self.layers for name in (layer.name, layer.path)))

    @property
    def weights(self) -> list[keras.Variable]:
        return [*(weight for layer in self.layers for weight in layer.weights), *self.loose]

    @property
    def trainable_parameters(self) -> int:
        return count([weight for weight in self.weights if weight.trainable])

    def matches(self, expression: str) -> bool:
        return any(re.search(expression, name) for name in self.names)

    def train(self, flag: bool) -> None:
        """Freezes or unfreezes the unit's weights."""
        for layer in self.layers:
            layer.trainable = flag
        for weight in self.loose:
            weight.trainable = flag


def count(weights: Sequence[keras.Variable]) -> int:
    """Returns the number of parameters in weights."""
    return sum(math.prod(weight.shape) for weight in weights)


def units(backbone: keras.Model) -> list[Unit]:
    """Returns the backbone's units from input to output, an encoder's before its decoder's.

    KerasHub families nest differently (a flat list of layers, composite blocks, one encoder layer with all blocks, a
    backbone inside a backbone), but their block names follow a few patterns. A model whose names follow none of them is
    one unit, the stem.
    """
    grouped: dict[str, list[keras.layers.Layer]] = {}
    blocks: set[str] = set()
    for layer in _members(backbone):
        if not layer.weights:
            continue
        if match := BLOCK.search(layer.name):
            name = match.group()
            blocks.add(name)
        else:
            name = layer.name if blocks else "stem"
        grouped.setdefault(name, []).append(layer)
    held = {id(weight) for layers in grouped.values() for layer in layers for weight in layer.weights}
    loose = {"stem": tuple(weight for weight in backbone.weights if id(weight) not in held)}
    if loose["stem"] and "stem" not in grouped:
        grouped = {"stem": [], **grouped}
    found = [Unit(name, tuple(layers), name in blocks, loose.get(name, ())) for name, layers in grouped.items()]
    if any("encoder" in unit.name for unit in found):
        found.sort(key=lambda unit: "decoder" in unit.name)  # Keras interleaves the two; stable within each
    return found


def _members(container: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields layers in order, and descends into layers that only contain blocks."""
    for layer in keras_private.children(container):
        inner = keras_private.layers(layer, include_self=False, recursive=False)
        holds_blocks = any(BLOCK.search(each.name) for each in inner)
        is_box = holds_blocks and not keras_private.own_weights(layer) and not BLOCK.search(layer.name)
        if isinstance(layer, keras.Model) or is_box:
            yield from _members(layer)
        else:
            yield layer


def head(model: keras.Model) -> Unit:
    """Returns everything outside a model's backbone: heads, and weights of layers around the backbone."""
    # A language model calls its backbone's token embedding again, in reverse; that is not a head.
    inside = {id(layer) for layer in keras_private.layers(model.backbone)}
    layers = tuple(_beside(model, inside))
    held = {id(weight) for layer in (model.backbone, *layers) for weight in layer.weights}
    return Unit("head", layers, loose=tuple(weight for weight in model.weights if id(weight) not in held))


def _beside(container: keras.layers.Layer, inside: set[int]) -> Iterator[keras.layers.Layer]:
    """Yields the outermost layers that contain nothing of the backbone."""
    for layer in keras_private.children(container):
        if id(layer) in inside:
            continue
        if any(id(each) in inside for each in keras_private.layers(layer)):
            yield from _beside(layer, inside)
        else:
            yield layer


def levels(found: list[Unit]) -> list[list[Unit]]:
    """Groups units by depth, from the top: the last block and everything after it, each lower block, the stem."""
    starts = sorted({0, *(i for i, unit in enumerate(found) if unit.is_block)})
    return [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)][::-1]


def _top(found: list[Unit], depth: int) -> list[Unit]:
    return [unit for level in reversed(levels(found)[:depth]) for unit in level]


def select(phase: Phase, found: list[Unit]) -> list[Unit]:
    """Returns the backbone units that a phase trains; for a gradual phase, in its last epoch.

    Raises:
        RecipeError: the spec matches no unit, or more blocks than there are.
    """
    kind, _, argument = phase.unfreeze.partition(":")
    if kind in ("head", "none"):
        return []
    if kind == "all":
        return found
    if kind == "gradual":
        return _top(found, phase.epochs - 1)
    if kind == "top":
        blocks = [unit for unit in found if unit.is_block]
        if int(argument) > len(blocks):
            raise RecipeError(
                f"unfreeze = {phase.unfreeze!r}: the backbone has {len(blocks)} blocks: {_names(blocks)}.",
                'Use a smaller number, or unfreeze = "all".',
            )
        return _top(found, int(argument))  # includes everything after the last block
    chosen = [unit for unit in found if unit.matches(argument)]
    if not chosen:
        raise RecipeError(f"unfreeze = {phase.unfreeze!r} matches no unit. The units are: {_names(found)}.")
    return chosen


def _names(found: list[Unit]) -> str:
    return ", ".join(unit.name for unit in found)


@dataclass(frozen=True)
class Stage:
    """The backbone units that train from an epoch on, counted from 1."""

    epoch: int
    units: list[Unit]


def stages(phase: Phase, task: keras.Model) -> list[Stage]:
    """Returns when each unit starts to train: at once, or in a gradual phase one level per epoch, after the head.

    Gradual unfreezing follows Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146).
    """
    found = units(task.backbone)
    if phase.unfreeze != "gradual":
        return [Stage(1, select(phase, found))]
    return [Stage(depth + 1, _top(found, depth)) for depth in range(min(phase.epochs, len(levels(found)) + 1))]


def rates(phase: Phase, found: list[Unit]) -> dict[str, float]:
    """Returns the peak learning rate of each backbone unit. The head has the phase's rate.

    `layer_decay` follows Howard & Ruder 2018 (arXiv:1801.06146): each level's rate is that fraction of the one above.

    Raises:
        RecipeError: an expression of `learning_rates` changes no unit's rate.
    """
    chosen = select(phase, found)
    own: dict[str, float] = {}
    for expression, rate in phase.learning_rates.items():
        matches = [unit for unit in found if unit.matches(expression)]
        trained = [unit for unit in matches if unit in chosen]
        if all(unit.name in own for unit in trained):
            why = "only units of an earlier expression" if trained else f"only frozen units: {_names(matches)}"
            raise RecipeError(
                f"learning_rates: {expression!r} matches {why if matches else 'no unit'}. "
                f"The phase trains: {_names(chosen) or 'no unit of the backbone'}.",
                "The head has the phase's learning_rate.",
            )
        own |= {unit.name: rate for unit in trained if unit.name not in own}
    return {
        unit.name: own.get(unit.name, phase.learning_rate * phase.layer_decay**depth)
        for depth, level in enumerate(levels(found), start=1)
        for unit in level
    }
