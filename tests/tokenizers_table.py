"""Whether devices cut texts into the tokens that KerasHub's graph does: make tokenizers writes docs/tokenizers.md.

Every text of the fetched corpora, and the strings on which tokenizers are known to part ways.
"""

import csv
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras_hub

from kerastune import assets
from kerastune.tasks import tokenizer

PRESETS = {
    "all-minilm-l6-v2-en": keras_hub.models.TextClassifierPreprocessor,
    "smollm2-135m-instruct": keras_hub.models.CausalLMPreprocessor,
}
CORPORA = ("trec-questions", "sms-spam", "vader-movie-reviews", "chatterbot-qa")
LENGTH, BLOCK = 128, 2048


def texts(corpus: str) -> list[str]:
    """The distinct texts of all splits."""
    found: dict[str, None] = {}
    for name in ("train", "validation", "test"):
        with (assets.fetch(corpus) / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found |= {row[column]: None for column in ("text", "prompt", "response") if row.get(column)}
    return list(found)


def differing(preprocessor: Any, some: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        packing = tokenizer.write(preprocessor, Path(folder))
        blocks = [[[text] for text in some[at : at + BLOCK]] for at in range(0, len(some), BLOCK)]
        return sum(len(tokenizer.differences(preprocessor, Path(folder), packing, block)) for block in blocks)


def main() -> int:
    columns = {**{corpus: texts(corpus) for corpus in CORPORA}, "nasty strings": list(tokenizer.NASTY)}
    print(f"""# Tokens on devices and in KerasHub

Written by `make tokenizers` on {date.today()}, with keras-hub {version("keras-hub")}, tensorflow-text \
{version("tensorflow-text")} and tokenizers {version("tokenizers")}.

The number of texts that the `tokenizers` package, with the `tokenizer.json` that kerastune writes, packs into rows of
{LENGTH} ids that differ from those of KerasHub's preprocessor in a graph. The nasty strings
(`kerastune.tasks.tokenizer.NASTY`) have repeated spaces, emoji, combining marks, right-to-left marks, control
characters, special tokens and 10,000 characters. An artifact's manifest has the same count for its own data
(`text.checked`).

| preset | {" | ".join(f"{name} ({len(some):,})" for name, some in columns.items())} |
|---|{"---|" * len(columns)}""")
    wrong = 0
    for preset, kind in PRESETS.items():
        preprocessor = kind.from_preset(assets.resolve_preset(preset), sequence_length=LENGTH)
        counts = [differing(preprocessor, some) for some in columns.values()]
        wrong += sum(counts)
        print(f"| {preset} | {' | '.join(map(str, counts))} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
