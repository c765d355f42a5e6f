"""Hugging Face folders, in and out: transformers says of a tuned language model what Keras says, and the other way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerastune import artifact, export, fine_tune, inference, runtimes, verify
from kerastune.errors import KerastuneError, RecipeError, VerificationError
from kerastune.recipe import Export, parse

INSTALL = runtimes.RUNTIMES["transformers"].install
needs_transformers = pytest.mark.skipif(not runtimes.RUNTIMES["transformers"].version, reason=INSTALL)

LONG = [{"unfreeze": "all", "epochs": 6, "learning_rate": 1e-2, "lora": False}]


@pytest.fixture(scope="module")
def made(chat_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A Qwen's run, and its artifact."""
    run = fine_tune(chat_recipe("Qwen", phases=LONG), tmp_path_factory.mktemp("runs") / "run")
    (folder,) = export(run, Export(target="transformers"))
    return {"run": run, "folder": folder}


@needs_transformers
def test_a_folder_answers_in_transformers_as_in_keras(made: dict[str, Any]) -> None:
    """Twenty prompts by transformers' own chat template, tokenizer and `generate`; within 1e-4 nats a token."""
    (report,) = made["folder"].report["runtimes"].values()
    assert report["passed"], report
    assert report["generation"]["equal"] == report["generation"]["prompts"] == 20
    assert report["golden"]["max_error"] <= 1e-4 and report["validation"]["max_error"] <= 1e-4
