"""docs/design.md is the stranger's page: what it names is there, and every room is on it."""

import pkgutil
import re
from pathlib import Path

import pytest

from kerastune.data import TRUTHS
from kerastune.formats import FORMATS
from kerastune.modalities import MODALITIES
from kerastune.tasks import TASKS
from kerastune.tasks.learnt import LEARNT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design.md").read_text("utf-8")
INVENTED = ("points.py", "image_point")  # the example of a task that is not there


def test_every_room_is_in_the_table_and_every_row_is_a_room() -> None:
    table = PAGE.partition("| room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    package = ROOT / "kerastune"
    rooms = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert named == rooms | modules


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:kerastune|tests|export|recipes)/[\w./]*)`", PAGE))))
def test_every_path_is_there(path: str) -> None:
    assert any(name in path for name in INVENTED) or (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(kerastune(?:\.\w+)+)`", PAGE))))
def test_every_dotted_name_is_there(name: str) -> None:
    pkgutil.resolve_name(name)


def test_a_row_is_known_by_its_own_name() -> None:
    for table in (TRUTHS, LEARNT, MODALITIES):
        assert all(name == row.name for name, row in table.items())
    assert set(TRUTHS) == set(LEARNT) and FORMATS and TASKS
