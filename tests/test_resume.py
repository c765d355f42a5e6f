"""A training that was killed goes on to the same bits, wherever it was; and what cannot be gone on with is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import assert_same_bits
from processes import python

from kerastune import environment, fine_tune, resume, run, unfinished
from kerastune.errors import ConverterError, KerastuneError
from kerastune.progress import Progress
from kerastune.records import to_json
from kerastune.training.loop import Training

HEAD = {"unfreeze": "head", "epochs": 2, "learning_rate": 1e-2}
GRADUAL = {"unfreeze": "gradual", "epochs": 3, "learning_rate": 1e-3, "ema": 0.9, "layer_decay": 0.5}
LORA = {"unfreeze": "all", "epochs": 2, "lora": {"rank": 2, "targets": ["query", "value"]}}
STEPS = {"batch_size": 8, "checkpoint_every": "3 steps", "xla": False}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature cache that nothing else has filled."""
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path_factory.mktemp("home")))


def killed(recipe: Path, out: Path, when: str = "never") -> int:
    """Trains in a process of its own, which dies in a stage; its exit status."""
    code, said = python(Path(__file__).with_name("killed.py"), recipe, out, when)
    assert code in (0, -9), said
    return code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Any) -> tuple[Path, Path]:
    """A recipe file, and its run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    wanted = recipe("vit", phases=[HEAD, GRADUAL, LORA], train={**STEPS, "cache": "memory"})
    (folder / "my.toml").write_text(wanted.to_toml())
    killed(folder / "my.toml", folder / "run")
    return folder / "my.toml", folder / "run"


@pytest.mark.parametrize("stage", ["phase 1/3 (head), frozen", "phase 2/3 (gradual), frozen", "scoring test"])
def test_a_run_that_is_killed_where_no_step_runs_goes_on_to_the_same_bits(
    whole: tuple[Path, Path], tmp_path: Path, stage: str
) -> None:
    recipe_file, reference = whole
    assert killed(recipe_file, tmp_path / "run", stage) == -9
    assert killed(recipe_file, tmp_path / "run") == 0
    assert_same_bits(tmp_path / "run", reference)


class Killed(BaseException):
    """Ends a training as a kill does: it writes nothing more."""


def test_a_phase_that_begins_after_a_kill_averages_from_the_weights_of_the_phase_before(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, save, is_killed = list[Any](), Training.save, True

    def saved(self: Training) -> None:
        save(self)
        if is_killed and self.at.phase == 2:
            raise Killed
        if (self.at.phase, self.at.epoch, self.at.step) == (2, 1, 0) and self.at.stage:
            began.append(self._arrays())

    monkeypatch.setattr(Training, "save", saved)
    wanted = recipe("resnet", phases=[HEAD, {**HEAD, "ema": 0.9}], train={**STEPS, "cache": "off"})
    with pytest.raises(Killed):
        fine_tune(wanted, tmp_path / "killed")
    is_killed = False
    resume(tmp_path / "killed")
    fine_tune(wanted, tmp_path / "whole")
    one, other = began
    assert [name for name in other if not np.array_equal(one[name], other[name])] == []


class Interrupts(Progress):
    """Ctrl-C in a phase and step; `after` is what the user did before that."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step = stage, step

    def advance(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage.startswith(self.stage) and done >= self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(recipe: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of its own that Ctrl-C ended in the second epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    data = {"source": "folder", "path": str(shutil.copytree(pictures, folder.with_name("pictures")))}
    phases = [{"unfreeze": "head", "epochs": 3, "learning_rate": 1e-2}]
    wanted = recipe("resnet", data=data, phases=phases, train={**STEPS, "cache": "off"})
    fine_tune(wanted, folder, progress=Interrupts("phase 1/1 (head), epoch 2", 3))
    return folder


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "run")


def test_ctrl_c_writes_a_run_with_the_best_weights_that_can_be_gone_on_with(
    interrupted: Path, recipe: Any, tmp_path: Path
) -> None:
    assert run.load(interrupted).record.status == "interrupted"
    folder = copied(interrupted, tmp_path)
    made = resume(folder)
    assert made.record.status == "complete"
    assert made.record.resumed[0].epoch == 2
    whole = fine_tune(made.recipe, tmp_path / "whole")
    assert_same_bits(folder, whole.folder)


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ("batch_size = 8", "batch_size = 16", r"recipe\.train\.batch_size: 8 then, 16 now"),
        ("epochs = 3", "epochs = 4", r"recipe\.phases\.0\.epochs: 3 then, 4 now"),
    ],
)
def test_a_changed_recipe_is_refused_with_what_differs(
    interrupted: Path, tmp_path: Path, then: str, now: str, message: str
) -> None:
    folder = copied(interrupted, tmp_path)
    (folder / "recipe.toml").write_text((folder / "recipe.toml").read_text().replace(then, now))
    with pytest.raises(KerastuneError, match=message):
        resume(folder)


def test_changed_data_are_refused(interrupted: Path, tmp_path: Path) -> None:
    picture = interrupted.with_name("pictures") / "red" / "00.png"
    kept = picture.read_bytes()
    try:
        picture.unlink()
        with pytest.raises(KerastuneError, match=r"data.fingerprint: '\w+' then, '\w+' now"):
            resume(copied(interrupted, tmp_path))
    finally:
        picture.write_bytes(kept)


def test_another_version_is_refused(interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {**environment.versions(), "keras": "4.0.0"}
    monkeypatch.setattr(environment, "versions", lambda: now)
    with pytest.raises(KerastuneError, match=r"versions\.keras: '.*' then, '4.0.0' now"):
        resume(copied(interrupted, tmp_path))


def test_there_must_be_something_to_resume(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(KerastuneError, match=r"There is nothing to resume: .* is complete"):
        resume(trained("resnet").folder)
    with pytest.raises(KerastuneError, match=r"There is nothing to resume: .* is not there"):
        resume(tmp_path / "nowhere")


def test_an_unfinished_training_is_not_overwritten_unless_forced(recipe: Any, tmp_path: Path) -> None:
    wanted = recipe("resnet", phases=[HEAD])
    work = tmp_path / "run.partial"
    (work / "checkpoints").mkdir(parents=True)
    (work / "recipe.toml").write_text(wanted.to_toml())
    (work / "checkpoints" / "000001.npz").write_bytes(b"")
    with pytest.raises(KerastuneError, match="that has not ended") as caught:
        fine_tune(wanted, tmp_path / "run")
    assert f"kerastune resume {tmp_path / 'run'}" in (caught.value.hint or "")
    fine_tune(wanted, tmp_path / "run", force=True)
    assert not work.exists()


def test_a_training_that_runs_is_not_joined_by_another_process(recipe: Any, tmp_path: Path) -> None:
    wanted = recipe("resnet", phases=[HEAD])
    with unfinished.work_folder(tmp_path / "run", wanted):
        for start in (lambda: fine_tune(wanted, tmp_path / "run", force=True), lambda: resume(tmp_path / "run")):
            with pytest.raises(KerastuneError, match=r"Process \d+ is training in"):
                start()


def test_a_disk_that_is_full_ends_the_run_and_keeps_the_last_checkpoint(recipe: Any, tmp_path: Path) -> None:
    phases = [{"unfreeze": "head", "epochs": 2}, {"unfreeze": "all", "epochs": 2}]
    wanted = recipe("resnet", phases=phases, train={**STEPS, "cache": "off"})
    (tmp_path / "my.toml").write_text(wanted.to_toml())
    code = (
        "import resource, sys; from kerastune import fine_tune, read_recipe\n"
        "from kerastune.training import checkpoint; write = checkpoint.write_arrays\n"
        "def later(path, arrays):\n"
        "    if path.name == '000006.npz': resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    write(path, arrays)\n"
        "checkpoint.write_arrays = later\n"
        "try: fine_tune(read_recipe('my.toml'), 'run')\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    _, said = python("-c", code, folder=tmp_path)
    assert "ConverterError" in said, said
    assert "000006.npz cannot be written: File too large" in said
    assert "kerastune resume" in said
    assert ConverterError.exit_code == 4
    held = sorted(path.name for path in (tmp_path / "run.partial" / "checkpoints").glob("0*"))
    assert held == ["000004.npz", "000005.npz"]
    made = resume(tmp_path / "run")
    assert_same_bits(made.folder, fine_tune(wanted, tmp_path / "whole").folder)


def test_tensorboard_logs_are_written_when_asked_for(recipe: Any, tmp_path: Path) -> None:
    from tensorflow.python.summary.summary_iterator import summary_iterator

    made = fine_tune(recipe("resnet", phases=[HEAD], train={"batch_size": 8, "tensorboard": True}), tmp_path / "run")
    files = sorted((made.folder / "tensorboard").iterdir())
    tags = {value.tag for file in files for event in summary_iterator(str(file)) for value in event.summary.value}
    assert {"loss", "val_accuracy", "learning_rate"} <= tags


def test_no_record_holds_a_token(interrupted: Path) -> None:
    assert "token" not in json.dumps(to_json(run.load(interrupted).record)).lower()
