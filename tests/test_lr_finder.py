"""The range test climbs from a rate that does nothing to one that diverges, and suggests one between them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import files
from kerastune.errors import RecipeError
from kerastune.training import lr_finder


@pytest.fixture(scope="module")
def found(recipe: Any) -> lr_finder.Found:
    phases = [{"unfreeze": "head", "epochs": 1}, {"unfreeze": "all", "epochs": 1}]
    return lr_finder.find(recipe("resnet", phases=phases), phase=2, steps=60)


def test_the_rates_climb_evenly_on_a_logarithmic_scale(found: lr_finder.Found) -> None:
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e7) / 59, rtol=1e-6)
    assert found.rates[0] == pytest.approx(1e-7)


def test_the_suggestion_lies_where_the_loss_falls(found: lr_finder.Found) -> None:
    assert found.suggestion is not None
    i = int(np.flatnonzero(found.rates == found.suggestion)[0])
    assert found.losses[i + 1] < found.losses[i - 1]
    assert found.rates[0] < found.suggestion < found.rates[-1]


def test_losses_that_never_fall_suggest_nothing() -> None:
    rates = np.geomspace(1e-7, 1, 50)
    assert lr_finder._steepest(rates, np.linspace(1, 2, 50)) == (None, "the loss does not fall at any rate")
    suggested, why = lr_finder._steepest(rates, np.where(rates < 1e-3, 1.0, 1.0 - 100 * rates))
    assert suggested is not None and suggested > 0.1 and why is None


def curve(noise: float, seed: int, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Rates, and losses that fall by 1 around a rate of 1e-3, with noise."""
    rates = np.geomspace(1e-7, 1, steps)
    falling = 2 - 1 / (1 + (1e-3 / rates) ** 2)
    return rates, falling + np.random.default_rng(seed).normal(0, noise, steps)


def test_noise_alone_suggests_nothing_and_says_so() -> None:
    rates, _ = curve(0, 0)
    found = [lr_finder._steepest(rates, np.random.default_rng(seed).normal(2, 0.5, 100)) for seed in range(50)]
    silent = [why for suggestion, why in found if suggestion is None]
    assert len(silent) >= 48
    assert all("too noisy" in str(why) or "does not fall" in str(why) for why in silent)


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_that_stands_out_of_the_noise_is_found_where_it_is(seed: int) -> None:
    suggested, _ = lr_finder._steepest(*curve(0.2, seed))
    assert suggested is not None and 3e-4 < suggested < 3e-2  # a running mean lags behind


def test_the_plot_is_a_picture(found: lr_finder.Found, tmp_path: Path) -> None:
    lr_finder.plot(found, tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("phases", "phase", "problem"),
    [
        ([{"unfreeze": "head"}], 2, "There is no phase 2: the recipe has 1"),
        ([{"unfreeze": "none", "epochs": 0}], 1, r"Phase 1 \(unfreeze = 'none'\) trains nothing"),
    ],
)
def test_a_phase_that_cannot_climb_is_refused(recipe: Any, phases: Any, phase: int, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        lr_finder.find(recipe("resnet", phases=phases), phase)


def test_a_plot_that_could_not_be_written_is_refused_before_the_climb(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no picture file"):
        files.refuse_plot(tmp_path / "rates.txt")
    with pytest.raises(RecipeError, match="its folder is not there"):
        files.refuse_plot(tmp_path / "nowhere" / "rates.png")
