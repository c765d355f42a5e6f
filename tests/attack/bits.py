"""One bit flipped, or one byte cut or added, in each file of artifacts of every format in turn."""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from attack import made
from attack.campaign import Campaign, Trial
from kerastune import verify
from kerastune.errors import VerificationError
from kerastune.verifying import artifact
from kerastune.verifying.artifact import Artifact

HOW = ("flipped", "cut", "added")


def broken(content: bytes, how: str, random: np.random.Generator) -> bytes:
    """Returns the content with one bit or one byte changed; a byte can be added anywhere."""
    if how == "added" or not content:
        place = int(random.integers(len(content) + 1))
        return content[:place] + bytes([random.integers(256)]) + content[place:]
    place = int(random.integers(len(content)))
    if how == "cut":
        return content[:place] + content[place + 1 :]
    bit = 1 << int(random.integers(8))
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def noticed(of: Artifact, name: str, content: bytes) -> None:
    """Verifies an artifact one of whose files is replaced, and puts it back."""
    path = of.folder / name
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        if name == artifact.REPORT:  # no hash covers it; it is read or refused
            _ = Artifact(of.folder).report
        elif name == artifact.MANIFEST and means_the_same(content, whole):
            Artifact(of.folder).check_files()
        else:
            refused(of.folder, name)
    finally:
        path.write_bytes(whole)


def means_the_same(content: bytes, whole: bytes) -> bool:
    """Returns whether two JSON files have the same content, as when white space was added."""
    try:
        return bool(json.loads(content) == json.loads(whole))
    except ValueError:
        return False


def refused(folder: Path, name: str) -> None:
    try:
        verify(folder)
    except VerificationError as error:
        assert error.exit_code == 3
        assert f"{name} has changed" in error.message or f"{name} is damaged" in error.message, error.message
        raise
    raise AssertionError("not noticed")


def trials(random: np.random.Generator, folder: Path) -> Iterator[Trial]:
    artifacts = list[Artifact]()
    for n, format in enumerate(cycle(made.FORMATS)):
        if n < len(made.FORMATS):
            artifacts.append(of := made.make(format, folder / format))
            (of.folder / artifact.REPORT).write_text(json.dumps(REPORT))
            yield Trial(f"{format}, whole", lambda of=of: (of.check_files(), of.golden, of.report), must="work")
        of = artifacts[n % len(made.FORMATS)]
        names = [*of.manifest.files, artifact.MANIFEST, artifact.REPORT]
        for name in names if n < len(made.FORMATS) else random.permutation(names)[:3]:
            how = HOW[int(random.integers(3))]
            content = broken((of.folder / name).read_bytes(), how, random)
            yield Trial(f"{format}, {name}, a byte {how}", lambda of=of, n=name, c=content: noticed(of, str(n), c))


REPORT = {
    "schema": 1,
    "passed": True,
    "problems": [],
    "warnings": [],
    "size_bytes": 100,
    "runtime": "litert",
    "runtimes": {
        "litert": {"passed": True, "problems": [], "golden": {"examples": 2, "max_error": 1e-6, "agreement": 1}}
    },
    "machine": {"cpu": "any"},
}

CAMPAIGN = Campaign("bits", "one bit flipped, one byte cut or added in every file of an artifact", 500, trials)
