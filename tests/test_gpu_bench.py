"""bench/gpu.py in its form for a CPU: what it would print on a GPU is printed, with figures of little work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def printed(home, *words):
    command = [sys.executable, str(ROOT / "bench/gpu.py"), "--small", *words]
    environment = {**os.environ, "KERASTUNE_HOME": str(home), "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_images_are_timed_beside_the_same_step_on_the_device(assets_home):
    ours, alone, ratio, *_, start, precision = printed(assets_home, "--only", "images")["images"]
    assert ours.endswith("/s") and alone.endswith("/s") and float(ratio) > 0
    assert start.endswith(" s") and precision == "float32"


@pytest.mark.slow
def test_one_training_is_run_twice_and_its_bits_are_compared_and_a_recipe_goes_to_verified_exports(assets_home):
    rows = printed(assets_home, "--only", "twice", "quickstart")
    assert rows["twice"][0].endswith(" s") and rows["twice"][-1].startswith("same bits of ")
    assert rows["quickstart"][-1].endswith("1 verified")


def test_what_fails_is_said_in_its_row_and_the_next_is_tried(tmp_path):
    (tmp_path / "assets").mkdir()  # nothing was fetched
    rows = printed(tmp_path, "--only", "images", "texts-xla")
    assert set(rows) == {"images", "texts-xla"} and all("failed: " in row[-1] for row in rows.values())
