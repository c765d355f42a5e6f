"""Data sets of every source and kind: what was written is there with its exact values, or is listed and counted."""

from collections.abc import Iterator
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np

from attack import photos, splitting, table_files, tables, talks
from attack.campaign import Campaign, Trial

_DRAWN = (
    tables.written_csv,
    tables.written_jsonl,
    tables.damaged_jsonl,
    tables.written_parquet,
    tables.flipped,
    splitting.split_rows,
    splitting.embedded,
    tables.written_parquet,
    talks.conversations,
    photos.folders,
    photos.flipped,
)


def trials(random: np.random.Generator, folder: Path) -> Iterator[Trial]:
    written = [*table_files.by_hand(folder), *photos.by_hand(folder)]
    by_hand = iter([written[i] for i in random.permutation(len(written))])
    drawn = (make(random, folder, n) for n, make in enumerate(cycle(_DRAWN)))
    templates = chain(islice(drawn, 0), talks.templates(folder), talks.texts_of_settings(folder))
    early = chain.from_iterable((*islice(by_hand, 1), *islice(drawn, 2)) for _ in range(20))
    late = chain.from_iterable(
        (*islice(by_hand, 1), *islice(templates, 1), *islice(drawn, 2)) for _ in range(1_000_000)
    )
    return chain(early, late)  # the templates need TensorFlow, which a short draw does not load


CAMPAIGN = Campaign("data", "data sets of every source and kind, and chat templates", 500, trials)
