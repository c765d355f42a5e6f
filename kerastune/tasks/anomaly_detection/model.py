"""The model: a frozen backbone, three scores of a picture, their calibration and the threshold, in one Keras model."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from keras import ops

from kerastune.tasks.anomaly_detection.settings import SCORES

Tensor = Any
TILE = 2048
"""Side of the largest square that the backbone sees at once; of larger pictures it sees parts, one after another."""

_HALO = 64  # pixels that parts see of their neighbours: at least what a feature of 4 or 8 pixels a cell depends on
_LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32) / 255  # float16 holds its squares


class Whitening(keras.layers.Layer):  # type: ignore[misc]
    """A shift and a matrix: float32 [..., D] -> [..., D]."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = self.add_weight(name="mean", shape=(width,), initializer="zeros")
        self.matrix = self.add_weight(name="matrix", shape=(width, width), initializer="zeros")
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        flat = ops.reshape(x - self.mean, (-1, self.mean.shape[0]))
        return ops.matmul(flat, self.matrix)  # [n, D], n the product of the axes in front


class MemoryBank(keras.layers.Layer):  # type: ignore[misc]
    """Distances to the nearest of M points: float32 [n, D] -> [n]."""

    def __init__(self, points: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points = self.add_weight(name="points", shape=(points, width), initializer="zeros")
        self.built = True

    @property
    def is_used(self) -> bool:
        """Returns whether it holds anything: the weights alone say which distance counts."""
        with tf.init_scope():  # also while a graph is traced
            return bool(np.any(self.points.numpy()))

    def call(self, x: Tensor) -> Tensor:
        squares = ops.sum(ops.square(self.points), axis=-1)  # [M]
        nearest = ops.min(squares - 2 * ops.matmul(x, ops.transpose(self.points)), axis=-1)
        return ops.sqrt(ops.relu(ops.sum(ops.square(x), axis=-1) + nearest))


class Evening(keras.layers.Layer):  # type: ignore[misc]
    """Makes cells near the border score as those inside do: float32 [B, h, w] -> [B, h, w].

    There a convolution sees padding, and a photo's last blocks are cut, so that without it most of the largest scores
    of good pictures lie at the border and hide what is inside.
    """

    def __init__(self, rows: int, columns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = self.add_weight(name="gain", shape=(rows, columns), initializer="ones")
        self.shift = self.add_weight(name="shift", shape=(rows, columns), initializer="zeros")
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        return x * self.gain + self.shift


class Calibration(keras.layers.Layer):  # type: ignore[misc]
    """The scale of each score, from held-out good pictures, and the threshold of the largest."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.median = self.add_weight(name="median", shape=(len(SCORES),), initializer="zeros")
        self.scale = self.add_weight(name="scale", shape=(len(SCORES),), initializer="ones")
        self.threshold = self.add_weight(name="threshold", shape=(), initializer="ones")
        self.built = True

    def call(self, raw: Tensor, score: int) -> Tensor:
        """Returns raw values of one score in shares of the threshold; above it, 1 + ln of the share.

        So a gross defect does not score thousands, of which a runtime's rounding is more than a good picture's score.
        """
        share = (raw - self.median[score]) / (self.scale[score] * self.threshold)
        return ops.minimum(share, 1) + ops.log(ops.maximum(share, 1))


@keras.saving.register_keras_serializable("kerastune")
class AnomalyDetector(keras.Model):  # type: ignore[misc]
    """Pixels, float32 0..255 [B, H, W, 3] -> {"score", "defective", "heat_map", "parts"}.

    - score: float32 [B, 1], the largest of parts; above 1 is defective.
    - defective: float32 [B, 1], 1 or 0: no runtime lacks this type.
    - heat_map: float32 [B, h, w], 0 or more, for every cell of `cell` pixels; above 1 is defective.
    - parts: float32 [B, 3], the scores of `SCORES`; 0 where one is not asked for.

    Args:
        backbone: a KerasHub backbone with `pyramid_outputs`, for pictures of the padded size.
        image_size: height and width of its pictures.
        scale, offset: turn pixels into the backbone's inputs, as KerasHub's image converters do.
        scores: names of the scores that count.
        bank_size: places in the memory bank.
        tile: side of the largest square that the backbone sees at once, with `backbone` of that `seen_size`.

    Raises:
        ValueError: the backbone has no feature maps of 4 to 16 pixels a cell.
    """

    def __init__(
        self,
        backbone: Any,
        image_size: tuple[int, int],
        scale: Any,
        offset: Any,
        scores: tuple[str, ...] = SCORES,
        bank_size: int = 600,
        tile: int = TILE,
    ) -> None:
        super().__init__(name="anomaly_detector", dtype="float32")
        self.backbone = backbone
        height, width = image_size
        self.image_size, self.used, self.bank_size = (height, width), tuple(scores), bank_size
        self.scale, self.offset, self.tile = scale, offset, tile
        self.image_converter = keras_hub.layers.ImageConverter(
            image_size=self.image_size, crop_to_aspect_ratio=False, antialias=False, dtype="float32"
        )
        chosen = levels(backbone)
        outputs = [backbone.pyramid_outputs[f"P{level}"] for level in chosen]
        extractor = keras.Model(backbone.input, outputs)
        self._extract: Callable[[Tensor], list[Tensor]] = lambda x: extractor(
            x, training=False
        )  # a function, so that Keras does not store it again
        self._local, self._whole = chosen[:2], chosen[-2:]
        self._levels = chosen
        self.cell = 2 ** chosen[0]
        widths = {level: output.shape[-1] for level, output in zip(chosen, outputs, strict=True)}
        local, whole = sum(widths[level] for level in self._local), 2 * sum(widths[level] for level in self._whole)
        self.local = Whitening(local, name="local")
        self.bank = MemoryBank(bank_size, local, name="bank")
        self.whole = Whitening(whole, name="whole")
        rows, columns = (-(-side // self.cell) for side in self.image_size)
        self.evened = {name: Evening(rows, columns, name=f"even_{name}") for name in ("patches", "residuals")}
        self.calibration = Calibration(name="calibration")
        self(np.zeros((1, *self.image_size, 3), np.float32))

    @property
    def preprocessor(self) -> SimpleNamespace:
        """Returns what holds the image converter, as a KerasHub task's preprocessor does."""
        return SimpleNamespace(image_converter=self.image_converter)

    @property
    def takes(self) -> tf.TensorSpec:
        """Returns the specification of a batch of any size."""
        return tf.TensorSpec([None, *self.image_size, 3], tf.float32)

    # --- what is measured ------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features of cells [B, h, w, D], energies of cells [B, h, w], and statistics of pictures [B, S]."""
        energies = self._energies(x)
        x = _padded(x, 2 ** self._levels[-1])
        given = x * np.asarray(self.scale, np.float32) + np.asarray(
            0 if self.offset is None else self.offset, np.float32
        )
        found = dict(zip(self._levels, self._seen(given), strict=True))
        maps = [found[self._local[0]]]
        for level in self._local[1:]:
            factor = 2 ** (level - self._local[0])
            maps.append(ops.repeat(ops.repeat(found[level], factor, axis=1), factor, axis=2))
        statistics = [part for level in self._whole for part in _moments(found[level])]
        return (
            self._cropped(ops.concatenate(maps, -1)),
            energies,
            ops.concatenate(statistics, -1),
        )

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns uncalibrated scores: of patches [B, h, w], of residuals [B, h, w], and of pictures [B]."""
        patches, residuals, image = self.uneven(x)
        return self.evened["patches"](patches), self.evened["residuals"](residuals), image

    def uneven(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns uncalibrated scores as `raw`, before cells at the border are evened."""
        cells, energies, statistics = self.features(x)
        rows, columns = cells.shape[1:3]
        step = max(self.tile**2 // (columns * self.cell**2), 1)  # rows of a part's cells
        bands = [self._distances(cells[:, first : first + step]) for first in range(0, rows, step)]
        distances = ops.concatenate(bands, axis=1) if len(bands) > 1 else bands[0]
        return distances, energies, _length(self.whole(statistics))

    def call(self, x: Tensor, training: bool = False) -> dict[str, Tensor]:
        patches, residuals, image = self.raw(x)
        maps = [self.calibration(raw, score=i) for i, raw in enumerate((patches, residuals)) if SCORES[i] in self.used]
        zero = ops.zeros_like(image)
        parts = [
            ops.max(self.calibration(patches, score=0), axis=(1, 2)) if "patches" in self.used else zero,
            ops.max(self.calibration(residuals, score=1), axis=(1, 2)) if "residuals" in self.used else zero,
            self.calibration(image, score=2) if "image" in self.used else zero,
        ]
        counted = ops.stack([part for name, part in zip(SCORES, parts, strict=True) if name in self.used], axis=-1)
        score = ops.max(counted, axis=-1, keepdims=True)
        heat = maps[0] if len(maps) == 1 else ops.maximum(*maps) if maps else ops.zeros_like(patches)
        return {
            "score": score,
            "defective": ops.cast(score > 1, "float32"),
            "heat_map": ops.relu(heat),
            "parts": ops.stack(parts, axis=-1),
        }

    def _seen(self, x: Tensor) -> list[Tensor]:
        """Returns the feature maps of pictures, float32 [B, h, w, C] each, put together from parts of large ones."""
        tops, lefts = _parts(self.image_size, 2 ** self._levels[-1], self.tile)
        bands = [[self._extract(x[:, a.seen, b.seen]) for b in lefts] for a in tops]
        if len(tops) * len(lefts) == 1:
            return bands[0][0]
        found = []
        for n, level in enumerate(self._levels):
            kept = [
                [maps[n][:, a.kept(level), b.kept(level)] for b, maps in zip(lefts, band, strict=True)]
                for a, band in zip(tops, bands, strict=True)
            ]
            found.append(ops.concatenate([ops.concatenate(band, axis=2) for band in kept], axis=1))
        return found

    def _distances(self, cells: Tensor) -> Tensor:
        """Returns how far cells are from good ones: [B, h, w, D] -> [B, h, w]."""
        inner = self.local(cells)  # [B * h * w, D]
        distances = self.bank(inner) if self.bank.is_used else _length(inner)
        return ops.reshape(distances, (-1, *cells.shape[1:3]))

    def _energies(self, x: Tensor) -> Tensor:
        """Returns the root mean square of a Laplacian around every cell, in windows of two cells: [B, h, w].

        No pixel is made up: beside a mirrored border a Laplacian is larger than inside, and hides what is there.
        """
        kernel = np.repeat(_LAPLACIAN[:, :, None, None], 3, axis=2)  # [3, 3, 3, 1], a channel at a time
        detail = ops.depthwise_conv(x, kernel, padding="valid")
        squares = _padded(ops.mean(ops.square(detail), axis=-1, keepdims=True), self.cell)  # by at most a cell
        energies = ops.sqrt(ops.average_pool(squares, 2 * self.cell, self.cell, padding="valid")[..., 0])
        for axis, side in ((1, self.image_size[0]), (2, self.image_size[1])):  # cells at the border: the next window's
            first, last = ops.take(energies, [0], axis), ops.take(energies, [-1], axis)
            missing = -(-side // self.cell) - energies.shape[axis] - 1
            energies = ops.concatenate([first, energies, *([last] * missing)], axis)
        return energies

    def _cropped(self, cells: Tensor) -> Tensor:
        """Returns the cells that lie on the picture."""
        rows, columns = (-(-side // self.cell) for side in self.image_size)
        return cells[:, :rows, :columns]

    # --- as Keras stores it ----------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "image_size": list(self.image_size),
            "scale": _listed(self.scale),
            "offset": _listed(self.offset),
            "scores": list(self.used),
            "bank_size": self.bank_size,
            "tile": self.tile,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "AnomalyDetector":
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})


def levels(backbone: Any) -> list[int]:
    """Returns the feature maps that are used, by the power of 2 of their stride, from the finest.

    Raises:
        ValueError: there are none.
    """
    there = sorted(int(name[1:]) for name in getattr(backbone, "pyramid_outputs", {}))
    fitting = [level for level in there if 2 <= level <= 4] or [level for level in there if level < 2]
    if not fitting:
        raise ValueError("it has no feature maps of 4 to 16 pixels a cell (pyramid_outputs)")
    return fitting


def seen_size(size: tuple[int, int], backbone: Any, tile: int) -> tuple[int, int]:
    """Returns the height and width that a backbone sees at once: those of a padded picture, or of each of its parts."""
    tops, lefts = _parts(size, 2 ** levels(backbone)[-1], tile)
    return tops[0].seen.stop, lefts[0].seen.stop


@dataclass(frozen=True)
class _Part:
    """A part of a side of a picture.

    Attributes:
        seen: its pixels.
        first, last: the pixels of the picture of which its features count.
    """

    seen: slice
    first: int
    last: int

    def kept(self, level: int) -> slice:
        """Returns the features that count, of 2 ** level pixels each."""
        return slice(*((pixel - self.seen.start) // 2**level for pixel in (self.first, self.last)))


def _parts(size: tuple[int, int], multiple: int, tile: int) -> tuple[list[_Part], list[_Part]]:
    """Returns parts of the height and of the width, all of one size, with borders at multiples of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in size)
    most = tile if size[0] * size[1] > tile**2 else max(height, width)
    return _cut(height, multiple, most), _cut(width, multiple, most)


def _cut(side: int, multiple: int, most: int) -> list[_Part]:
    if side <= most:
        return [_Part(slice(0, side), 0, side)]
    count = -(-(side - 2 * _HALO) // (most - 2 * _HALO))
    inner = -(-(side - 2 * _HALO) // (count * multiple)) * multiple
    starts = [min(n * inner, side - inner - 2 * _HALO) for n in range(count)]
    borders = [0, *(start + _HALO for start in starts[1:]), side]
    return [
        _Part(slice(start, start + inner + 2 * _HALO), first, last)
        for start, (first, last) in zip(starts, pairwise(borders), strict=True)
    ]


def _padded(x: Tensor, multiple: int) -> Tensor:
    below, right = (-side % multiple for side in x.shape[1:3])
    return ops.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect") if below or right else x


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of each channel over a picture, each [B, C]."""
    mean = ops.mean(x, axis=(1, 2), keepdims=True)
    return mean[:, 0, 0], ops.sqrt(ops.mean(ops.square(x - mean), axis=(1, 2)) + 1e-6)


def _length(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(x), axis=-1))


def _listed(values: Any) -> Any:
    return np.asarray(values, np.float64).tolist() if values is not None else None
