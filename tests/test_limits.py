"""docs/limits.md says of every limit what the code says."""

import pkgutil
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+) \| ([\d,]+)\b.* \| `([\w.]+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("what", "figure", "name"), ROWS, ids=[name for *_, name in ROWS])
def test_a_limit_is_the_one_in_the_code(what: str, figure: str, name: str) -> None:
    assert pkgutil.resolve_name(name) == int(figure.replace(",", "")), what


def test_every_row_is_checked() -> None:
    assert len(ROWS) == PAGE.count("\n| ") - PAGE.count("| what |") > 25
