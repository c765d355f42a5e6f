"""Runs the campaigns, or those that are named, and prints a table of what came of them.

PYTHONPATH=tests python -m attack [NAME …] > docs/attack.md
"""

import sys
import tempfile
import time
from pathlib import Path

from attack import CAMPAIGNS
from attack.campaign import attack
from kerastune import child

HEAD = """# What was tried against kerastune

`make attack` writes this page. Its inputs are drawn with a fixed seed. Each must work, with the right values, or be
refused in words with the right exit code; a traceback, a wrong value, a hang or a damaged file is wrong.

| campaign | what is tried | tried | worked | refused in words | wrong | seconds |
|---|---|---|---|---|---|---|"""


def main(names: list[str]) -> int:
    wrong = 0
    print(HEAD)
    for name in names or CAMPAIGNS:
        campaign, started = CAMPAIGNS[name], time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            of = attack(campaign, campaign.count, Path(folder), told=lambda said: print(said, file=sys.stderr))
        seconds = time.monotonic() - started
        row = (name, campaign.about, of.tried, of.worked, of.refused, len(of.wrong), f"{seconds:.0f}")
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        wrong += len(of.wrong)
    return wrong > 0


if __name__ == "__main__":
    with child.forking():
        sys.exit(main(sys.argv[1:]))
