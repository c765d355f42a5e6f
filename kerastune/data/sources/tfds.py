"""Reads a TensorFlow Datasets data set. Only this module imports tensorflow_datasets, and only when needed.

Encoded images, sounds and texts go straight from TFDS's files to an unlinked temporary file and are read from there by
offset, so memory stays flat, and every example can be read by its number.
"""

import contextlib
import difflib
import io
import json
import os
import socket
import tempfile
import urllib.request
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kerastune.data import cells
from kerastune.data.source import Example, Label, Problem, Progress, Source, asset_folder, counted, named, some
from kerastune.data.sources.table import in_column
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError, printable
from kerastune.recipe.sources import TfdsImages, TfdsSounds, TfdsTextData

Settings = TfdsImages | TfdsSounds | TfdsTextData

_OFFLINE = (
    "Without internet, set data.data_dir to a TFDS folder prepared elsewhere, or to a packaged asset "
    "(`kerastune assets list` shows them)."
)

_BATCH = 256  # one record at a time costs several times as much


class Spool:
    """Bytes on disk that no other process sees, and that disappear with the last reader."""

    def __init__(self) -> None:
        self._fd, path = tempfile.mkstemp(prefix="kerastune-")
        os.unlink(path)
        weakref.finalize(self, os.close, self._fd)
        self._ends = array("q", [0])

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[bytes], None]]:
        with open(self._fd, "wb", buffering=1 << 20, closefd=False) as file:

            def append(data: bytes) -> None:
                file.write(data)
                self._ends.append(self._ends[-1] + len(data))

            yield append

    def read(self, i: int) -> bytes:
        start, end = self._ends[i], self._ends[i + 1]
        return os.pread(self._fd, end - start, start)  # no seek: any number of threads may read


def examples(settings: Settings, progress: Progress) -> Source:
    """Reads the wanted splits of a TFDS data set.

    Raises:
        DataError: the data set, a split or a feature does not exist, or it cannot be downloaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported
    import tensorflow_datasets as tfds

    builder = prepared(tfds, settings, progress)
    names, rate = _names(tfds, builder, settings), _rate(builder, settings)
    found, problems, spool = [], [], Spool()
    splits, notes = wanted_splits(builder, settings)
    with reading(builder, settings), spool.writing() as append:
        for split, spec in splits.items():
            for id, values in _records(tfds, builder, settings, spec, progress):
                label, data, group = _read(values, names, rate, settings)
                bad = next((one for one in (data, label, group) if isinstance(one, Problem)), None)
                if bad or isinstance(label, Problem) or isinstance(data, Problem) or isinstance(group, Problem):
                    problems.append(Problem(id, bad.text if bad else ""))
                    continue
                append(data)
                found.append(Example(id, label, split, group))
    return Source(
        where=f"the TFDS data set {settings.name}",
        examples=found,
        read=spool.read,
        labels=_order(settings, names, found),
        mendable=False,
        problems=tuple(problems),
        notes=notes,
    )


@contextlib.contextmanager
def reading(builder: Any, settings: Settings) -> Iterator[None]:
    """Says in words that a data set is damaged, or cannot be copied."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise DataError(
            f"{settings.name} in {builder.data_path} cannot be read: {_one_line(error)}.",
            "Its files are damaged or incomplete; prepare or fetch the data set again.",
        ) from error
    except OSError as error:
        raise DataError(
            f"{settings.name} cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}.",
            "Set TMPDIR=/another/folder for temporary files.",
        ) from error


def prepared(tfds: Any, settings: Settings, progress: Progress) -> Any:
    """Returns the prepared data set."""
    folder = _data_dir(settings)
    if settings.name.startswith("huggingface:"):
        raise DataError(f"{settings.name!r} is a Hugging Face data set, which TFDS would only forward.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder(settings.name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(tfds, settings, folder) from error
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise DataError(
            f"TFDS cannot open {settings.name!r}: {_one_line(error)}.",
            'Names look like "flowers", "flowers:1.0.0" or "my_dataset/config:1.0.0".',
        ) from error
    if builder.is_prepared():
        return builder
    if folder is not None:
        raise DataError(
            f"{settings.name} is not prepared in data_dir {named(folder)}; it holds {_content(folder)}.",
            "kerastune downloads nothing into a data_dir. Without data_dir, TFDS downloads the data set "
            f'to its own folder, or run tfds.builder("{settings.name}", data_dir=…).download_and_prepare().',
        )
    _download(tfds, builder, settings, progress)
    return builder


def _data_dir(settings: Settings) -> str | None:
    """Returns the folder of data_dir: itself, or a fetched asset."""
    from kerastune import assets

    wanted = settings.data_dir
    if wanted is None or os.path.isdir(wanted):
        return wanted
    if wanted not in assets.ASSETS:
        near = difflib.get_close_matches(wanted, assets.ASSETS, n=1, cutoff=0.5)
        guess = f" (did you mean the asset {near[0]!r}?)" if near else ""
        raise DataError(
            f"data_dir {wanted!r} is neither a folder nor a packaged asset{guess}.",
            "`kerastune assets list` shows the assets.",
        )
    return asset_folder(wanted)


def _unknown(tfds: Any, settings: Settings, folder: str | None) -> DataError:
    name = settings.name.partition(":")[0].partition("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    where = f", and {named(folder)} holds {_content(folder)}" if folder else ""
    return DataError(
        f"TFDS knows no data set {settings.name!r}{where}.",
        f"Near: {', '.join(near)}." if near else "https://www.tensorflow.org/datasets/catalog lists them.",
    )


def _content(folder: str) -> str:
    names = sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir())
    return printable(", ".join(names[:10])) + (", …" if len(names) > 10 else "") if names else "no data set"


def _download(tfds: Any, builder: Any, settings: Settings, progress: Progress) -> None:
    """Downloads the recipe's data set with TFDS, and reports it."""
    progress(f"downloading {settings.name} to {builder.data_dir}", 0, 0)
    if not urllib.request.getproxies():
        try:  # TFDS would retry for minutes
            socket.getaddrinfo("storage.googleapis.com", 443)
        except OSError as error:
            raise DataError(
                f"{settings.name} is not in {builder.data_dir}, and there is no internet to download it "
                f"({error.strerror}).",
                _OFFLINE,
            ) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except (
        OSError,  # includes the ones of requests
        ValueError,
        AssertionError,  # a data set that must be downloaded by hand
        ImportError,  # a data set that needs another package
        tfds.download.DownloadError,
    ) as error:
        raise DataError(f"TFDS cannot download {settings.name}: {_one_line(error)}.", _OFFLINE) from error


def _content_keys(settings: Settings) -> list[str]:
    if isinstance(settings, TfdsImages):
        return [settings.image_key]
    if isinstance(settings, TfdsSounds):
        return [settings.audio_key]
    return [key for key in (settings.text_key, settings.pair_key) if key]


def _names(tfds: Any, builder: Any, settings: Settings) -> tuple[str, ...] | None:
    """Returns the label names in the data set's own order; None if labels are plain numbers or texts."""
    features = dict(builder.info.features.items())
    there = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    kinds = {"image": tfds.features.Image, "sound": tfds.features.Audio, "text": tfds.features.Text}
    what, kind = settings.modality, kinds[settings.modality]
    for key in _content_keys(settings):
        if not isinstance(features.get(key), kind):
            raise DataError(f"{settings.name} has no {what} called {key!r}.", f"Features: {there}.")
    group = settings.group_key and features.get(settings.group_key)
    if settings.group_key and (not group or group.shape != () or group.np_dtype.kind not in "biufOS"):
        raise DataError(
            f"{settings.name} has no feature called {settings.group_key!r} with one value per {what}.",
            f"data.group_key names it. Features: {there}.",
        )
    label = features.get(settings.label_key)
    if isinstance(label, tfds.features.ClassLabel) and settings.target in ("label", "groups", "defects"):
        return tuple(label.int2str(i) for i in range(label.num_classes))
    if label is None or label.shape != () or label.np_dtype.kind not in "biufOS":
        raise DataError(
            f"{settings.name} has no label called {settings.label_key!r} with one class per {what}.",
            f"data.label_key names it. Features: {there}.",
        )
    return None


def _rate(builder: Any, settings: Settings) -> int:
    """Returns the samples per second of a data set of sounds; 0 for others."""
    if not isinstance(settings, TfdsSounds):
        return 0
    found = settings.sample_rate or builder.info.features[settings.audio_key].sample_rate
    if not found:
        raise DataError(
            f"{settings.name} does not say how many samples per second its {settings.audio_key!r} has.",
            "Set data.sample_rate.",
        )
    return int(found)


def _wave(values: Any, rate: int) -> bytes | Problem:
    """Returns a sound as an encoded file: as it is, or its samples, whole numbers of 16 bits or floats, as WAV."""
    import numpy as np
    import soundfile

    if isinstance(values, bytes):
        return values
    if values.dtype.kind in "iu":
        if np.abs(values).max(initial=0) > 2**15:
            return Problem("", "has samples of more than 16 bits, whose scale the data set does not say")
        values, subtype = values.astype(np.int16), "PCM_16"
    else:
        values, subtype = values.astype(np.float32), "FLOAT"
    soundfile.write(file := io.BytesIO(), values, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def _read(
    values: dict[str, Any], names: tuple[str, ...] | None, rate: int, settings: Settings
) -> tuple[Label | Problem, bytes | Problem, str | Problem | None]:
    """Returns the label, the contents and the group of a record, or what is wrong with each."""
    contents = [values[key] for key in _content_keys(settings)]
    data: bytes | Problem
    if isinstance(settings, TfdsImages):
        data = contents[0]
    else:
        data = _wave(contents[0], rate) if isinstance(settings, TfdsSounds) else _texts(settings, contents)
    label: Label | Problem = in_column(settings.label_key, _label(values[settings.label_key], names, settings))
    return label, data, group(values, settings)


def group(values: dict[str, Any], settings: Settings) -> str | Problem | None:
    """Returns the group of a record, or what is wrong with it; None if nothing names one."""
    if not settings.group_key:
        return None
    return in_column(settings.group_key, cells.text(values[settings.group_key], "group"))


def _label(value: Any, names: tuple[str, ...] | None, settings: Settings) -> Label | Problem:
    if names is not None:
        if 0 <= int(value) < len(names):
            return names[int(value)]
        return Problem("", f"has no label (its number is {value})")
    return TRUTHS[settings.target].parse(cells.plain(value), settings.separator)


def _order(settings: Settings, names: tuple[str, ...] | None, found: list[Example]) -> tuple[str, ...] | None:
    if settings.target == "number":
        return (settings.label_key,)
    return names or (_numeric_order({str(e.label) for e in found}) if settings.target == "label" else None)


def _texts(settings: Settings, contents: list[bytes]) -> bytes | Problem:
    """Returns texts as an example's bytes, or what is wrong with them."""
    texts = [
        in_column(key, cells.text(content, "text"))
        for key, content in zip(_content_keys(settings), contents, strict=True)
    ]
    problem = next((one for one in texts if isinstance(one, Problem)), None)
    return problem or json.dumps([str(text).strip() for text in texts], ensure_ascii=False).encode()


def wanted_splits(builder: Any, settings: Settings) -> tuple[dict[str | None, str], tuple[str, ...]]:
    """Returns what to read for each split, and notes."""
    has_test = "test" in builder.info.splits
    test = settings.test or ("test" if has_test else None)
    specs = {"train": settings.train, "validation": settings.validation, "test": test}
    notes = [] if test else [f"{settings.name} has no test split, so test_fraction of train is held out"]
    named = " ".join(spec for spec in specs.values() if spec)
    if others := [name for name in builder.info.splits if name not in named]:
        count = sum(builder.info.splits[name].num_examples for name in others)
        notes.append(f"{counted(count, 'example')} left out, of splits that are not used: {some(sorted(others))}")
    for key, spec in specs.items():
        if spec is not None:
            examples_in(builder, spec, key)
    return {key: spec for key, spec in specs.items() if spec is not None}, tuple(notes)


def examples_in(builder: Any, spec: str, key: str) -> int:
    there = ", ".join(f"{name} ({split.num_examples:,})" for name, split in builder.info.splits.items())
    try:
        count = int(builder.info.splits[spec].num_examples)
    except (ValueError, KeyError) as error:
        raise DataError(f"data.{key} = {spec!r}: {_one_line(error)}.", f"Splits: {there}.") from error
    if count <= 0:
        raise DataError(f"data.{key} = {spec!r} selects no examples.", f"Splits: {there}.")
    return count


def _records(
    tfds: Any, builder: Any, settings: Settings, spec: str, progress: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    total, number, is_text = examples_in(builder, spec, spec), 0, isinstance(settings, TfdsTextData)
    size = 1 if isinstance(settings, TfdsSounds) else _BATCH  # sounds have different lengths
    records = builder.as_dataset(
        split=spec,
        shuffle_files=False,
        decoders={} if is_text else dict.fromkeys(_content_keys(settings), tfds.decode.SkipDecoding()),
        read_config=tfds.ReadConfig(try_autocache=False),  # read once: nothing to keep in memory
    )
    keys = list(filter(None, [settings.label_key, settings.group_key, *_content_keys(settings)]))
    for batch in records.map(lambda record: tuple(record[key] for key in keys)).batch(size).as_numpy_iterator():
        progress(f"reading {settings.name} {spec}", number, total)
        for values in zip(*batch, strict=True):
            yield f"{spec}[{number}]", dict(zip(keys, values, strict=True))
            number += 1


def pictures(
    tfds: Any, builder: Any, settings: TfdsImages, spec: str, truth: str, progress: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the id of each record of a split, and its picture, still encoded, its group and the feature `truth`."""
    total = examples_in(builder, spec, spec)
    records = builder.as_dataset(
        split=spec,
        shuffle_files=False,
        decoders={settings.image_key: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    keys = [settings.image_key, truth, *([settings.group_key] if settings.group_key else [])]
    for n, record in enumerate(records.map(lambda record: {key: record[key] for key in keys}).as_numpy_iterator()):
        progress(f"reading {settings.name} {spec}", n, total)
        yield f"{spec}[{n}]", record


def _numeric_order(labels: set[str]) -> tuple[str, ...]:
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=int) if numbers else sorted(labels))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text[:300] + " …" if len(text) > 300 else text).rstrip(".")
