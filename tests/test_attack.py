"""A short draw of each campaign of `make attack`, and proof that a campaign sees what is wrong."""

from pathlib import Path

import pytest
from attack import CAMPAIGNS
from attack.campaign import Campaign, Trial, attack

from kerastune.errors import DataError


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_short_draw_of_each_campaign_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    campaign = CAMPAIGNS[name]
    outcome = attack(campaign, max(2, campaign.count // 50), tmp_path, seed=1)
    assert outcome.wrong == [] and outcome.tried


def refuse(said: str) -> None:
    raise DataError(said)


def test_a_traceback_an_empty_or_endless_refusal_and_a_wrong_outcome_count_as_wrong(tmp_path: Path) -> None:
    trials = [
        Trial("works", lambda: None),
        Trial("refused", lambda: refuse("no")),
        Trial("bug", lambda: 1 / 0),
        Trial("empty", lambda: refuse(" ")),
        Trial("endless", lambda: refuse("x" * 5000)),
        Trial("taken", lambda: None, must="refuse"),
        Trial("not taken", lambda: refuse("no"), must="work"),
    ]
    outcome = attack(Campaign("all", "", 7, lambda random, folder: iter(trials)), 7, tmp_path)
    assert (outcome.tried, outcome.worked, outcome.refused) == (7, 1, 1)
    assert [wrong.split(":")[0] for wrong in outcome.wrong] == ["bug", "empty", "endless", "taken", "not taken"]
