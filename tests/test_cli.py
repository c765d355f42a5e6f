"""The command line: help, exit codes, one JSON document on stdout, and nothing on the terminal that is not ours."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import kerastune.__main__
from kerastune import recipe
from kerastune.cli import cli
from kerastune.cli.progress import Terminal
from kerastune.cli.terminal import folded, wrapped
from kerastune.recipe import target

HEAVY = {"tensorflow", "keras", "keras_hub", "jax", "torch"}
CHEAP = [
    "recipes list",
    "recipes show quickstart",
    "recipes schema",
    "assets list",
    "targets list",
    "targets show linux",
    "cache ls",
]


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what the user types."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder, with no asset fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERASTUNE_DEBUG", raising=False)


def invoke(*arguments: str) -> Result:
    """Runs a command; an exception that is not the user's mistake fails the test."""
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python process, as a user would."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


# --- help --------------------------------------------------------------------------------------------------


def test_the_commands_are_these() -> None:
    groups = "recipes list, recipes show, recipes copy, recipes schema, assets list, assets fetch, targets list"
    groups += ", cache ls, cache clear"
    jobs = "targets show, validate, run, train, resume, lr-find, curve, evaluate, predict, export, verify"
    jobs += ", search, index, serve, benchmark, report, doctor, manifest, runs list, runs compare, runs remove"
    assert set(COMMANDS) == set(f"{groups}, {jobs}".split(", "))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_takes_json(name: str) -> None:
    result = invoke(*name.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: kerastune {name}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_one_the_command_takes(name: str) -> None:
    example = re.search(r"Example: kerastune (.*)", COMMANDS[name].help or "")
    assert example
    arguments = shlex.split(example[1].partition(" > ")[0].removeprefix(name))
    COMMANDS[name].make_context(name, arguments)  # a usage error would be raised here


def test_the_help_names_every_exit_code() -> None:
    text = " ".join(invoke("--help").stdout.split())
    assert "0 done, 1 a mistake you can fix, 2 usage, 3 verification failed, 4 a converter" in text


def test_the_version_is_the_packages() -> None:
    from kerastune import __version__

    assert __version__ in invoke("--version").stdout


@pytest.mark.parametrize("command", ["--help", "run --help", *(c for c in CHEAP if c != "targets show linux")])
def test_what_trains_nothing_imports_no_tensorflow(command: str) -> None:
    code = (
        "import sys; from kerastune.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
        f"sys.exit(', '.join({HEAVY} & set(sys.modules)) or 0)"
    )
    done = process("-c", code, *command.split())
    assert done.returncode == 0, done.stderr


# --- stdout and stderr -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", CHEAP)
def test_json_is_exactly_one_document_on_stdout(command: str) -> None:
    result = invoke(*command.split(), "--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout), list | dict)


@pytest.mark.parametrize("command", [c for c in CHEAP if c != "recipes schema"])
def test_the_result_is_on_stdout_and_the_next_step_on_stderr(command: str) -> None:
    result = invoke(*command.split())
    assert result.stdout.strip()
    assert "Next:" not in result.stdout
    first, *others = result.stderr.removeprefix("\n").splitlines()
    assert first.startswith("Next") and all(line.startswith("  or") for line in others)
    for line in (first, *others):
        assert re.sub(r"^.*?: kerastune ([\w-]+( (list|show|copy|schema|fetch|ls|clear))?).*$", r"\1", line) in COMMANDS


def test_the_lists_hold_what_there_is() -> None:
    assert [row["name"] for row in json.loads(invoke("recipes", "list", "--json").stdout)] == recipe.shipped()
    assert [row["name"] for row in json.loads(invoke("targets", "list", "--json").stdout)] == list(target.names())
    assets = json.loads(invoke("assets", "list", "--json").stdout)
    assert {"efficientnet-lite0-imagenet", "fashion-mnist"} <= {row["name"] for row in assets}
    assert all(row["path"] is None and row["licence"] for row in assets)


def test_show_prints_the_recipe_as_it_is_and_json_as_it_is_resolved() -> None:
    assert invoke("recipes", "show", "quickstart").stdout == recipe.find("quickstart")[1]
    resolved = json.loads(invoke("recipes", "show", "quickstart", "--json").stdout)
    assert resolved == recipe.read("quickstart").model_dump(mode="json")


def test_the_schema_is_a_json_document_with_and_without_json() -> None:
    assert json.loads(invoke("recipes", "schema").stdout) == recipe.json_schema()
    assert invoke("recipes", "schema", "--json").stdout == invoke("recipes", "schema").stdout


# --- copying a recipe --------------------------------------------------------------------------------------


def test_copy_makes_a_file_that_is_the_recipe(tmp_path: Path) -> None:
    assert invoke("recipes", "copy", "quickstart", "mine.toml").stdout == "mine.toml\n"
    assert (tmp_path / "mine.toml").read_text("utf-8") == recipe.find("quickstart")[1]
    assert json.loads(invoke("recipes", "copy", "quickstart", "--json").stdout) == {"path": "quickstart.toml"}
    (tmp_path / "folder").mkdir()
    assert invoke("recipes", "copy", "quickstart", "folder").stdout == "folder/quickstart.toml\n"
    assert recipe.read("mine.toml").phases == recipe.read("quickstart").phases


def test_the_next_step_can_be_pasted_into_a_shell() -> None:
    step = invoke("recipes", "copy", "quickstart", "it's mine.toml").stderr.rpartition(" is edited: ")[2]
    assert shlex.split(step) == ["kerastune", "validate", "it's mine.toml"]


def test_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("precious")
    result = invoke("recipes", "copy", "quickstart", "mine.toml")
    assert result.exit_code == 1
    assert "mine.toml already exists" in result.stderr
    assert (tmp_path / "mine.toml").read_text() == "precious"


def test_copy_to_where_nothing_can_be_written_says_why() -> None:
    result = invoke("recipes", "copy", "quickstart", "nowhere/mine.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nowhere/mine.toml cannot be written: No such file or directory" in result.stderr


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("validate quikstart", "did you mean 'quickstart'?"),
        ("recipes show quikstart", "did you mean 'quickstart'?"),
        ("run mine.toml", "There is no file"),
        ("train quickstart -s train.batchsize=1", "train.batchsize: unknown key (did you mean 'batch_size'?)"),
        ("run quickstart -s seed", "'seed' is not KEY=VALUE"),
        ("validate quickstart", "efficientnet-lite0-imagenet"),  # which is not fetched
        ("assets fetch fashion-mnst", "Did you mean 'fashion-mnist'?"),
        ("targets show linx", "There is no target 'linx'"),
        ("evaluate nowhere", "nowhere is not a folder"),
        ("report nowhere", "nowhere is not a folder"),
        ("export nowhere --target linux", "nowhere is not a folder"),
        ("verify nowhere", "nowhere is not a folder"),
        ("verify .", "has no manifest.json, so it is not an artifact"),
        ("evaluate .", "has no run.json, so it is no run"),
        ("predict . photo.jpg", "is neither a run nor an artifact"),
    ],
)
def test_a_mistake_that_can_be_fixed_is_exit_code_1_with_a_message_and_a_hint(command: str, message: str) -> None:
    result = invoke(*command.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert "\n\nhint: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["export nowhere --target linx", "targets show linx"])
def test_an_unknown_target_is_answered_with_what_is_near(command: str, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "run.json").write_text("{}")
    result = invoke(*command.split())
    assert result.exit_code == 1
    assert "linux" in result.stderr


@pytest.mark.parametrize("command", ["export first --target iphone", "targets show ios", "validate mine.toml"])
def test_an_unknown_target_is_answered_with_what_each_target_is_for(command: str, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "run.json").write_text("{}")
    text = recipe.find("photos")[1]
    (tmp_path / "mine.toml").write_text(text.replace('target = "linux"', 'target = "iphone"'))
    result = invoke(*command.split())
    assert result.exit_code == 1
    assert re.search(r"^  android +Android and iOS:", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("named", "path", "message"),
    [("photos", "nowhere", "There is no folder {here}/nowhere"), ("questions", "a.csv", "there is no column 'text'")],
)
def test_wrong_data_are_refused_before_tensorflow_is_imported(
    tmp_path: Path, named: str, path: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text("frase;label\na;b\n")
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "config.json").write_text('{"registered_name": "a"}')
    (tmp_path / "preset" / "model.weights.h5").write_text("")
    code = "import sys; from kerastune.cli import cli; cli(standalone_mode=False); print('tensorflow' in sys.modules)"
    wanted = ["validate", named, "-s", "preset=preset", "-s", f"data.path={path}"]
    done = subprocess.run([sys.executable, "-c", code, *wanted], capture_output=True, text=True)
    assert message.format(here=tmp_path) in done.stderr
    assert done.stdout.strip() != "True"


@pytest.mark.parametrize(
    "command",
    [
        "export run",
        "export run --format onxx",
        "export run --target linux --quantize int3",
        "export run --target linux --max-accuracy-drop 2",
        "predict run",
        "run",
        "run quickstart --like runs/first",
        "train --like runs/first -s seed=1",
        "predict run photo.jpg --top 0",
        "validate",
        "assets fetch",
        "recipes nonsense",
        "nonsense",
        "--nonsense",
    ],
)
def test_wrong_usage_is_exit_code_2(command: str) -> None:
    result = invoke(*command.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "Usage: " in result.stderr


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("there", "there already exists"),
        ("file/run", "cannot be made: {here}/file is not a folder"),
        ("n" * 250, "cannot be made: a name in it has more than 220 bytes"),
        (f"{'n' * 250}/run", "cannot be made: a name in it has more than 220 bytes"),
        ("/".join(["n" * 200] * 20), "cannot be made: its path has more than 3000 bytes"),
        ("/proc/self/run", "cannot be made: nothing can be written into /proc/self"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before_tensorflow_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("kerastune.assets.resolve_preset", lambda preset: preset)
    monkeypatch.setitem(sys.modules, "kerastune.training.train", None)
    result = invoke("run", "quickstart", "-o", out)
    assert result.exit_code == 1
    assert message.format(here=tmp_path) in result.stderr


def test_a_training_that_has_not_ended_is_answered_with_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "first.partial").mkdir()
    for command in ("report first", "export first --target linux", "predict first photo.jpg", "evaluate first"):
        result = invoke(*command.split())
        assert result.exit_code == 1
        assert f"what is done is in {tmp_path}/first.partial" in result.stderr
        assert f"hint: kerastune resume {tmp_path}/first" in result.stderr


def test_the_folder_of_a_training_that_has_not_ended_is_known_by_its_own_name_too(tmp_path: Path) -> None:
    (tmp_path / "my run.partial").mkdir()
    result = invoke("predict", "my run.partial", "photo.jpg")
    assert f"hint: kerastune resume '{tmp_path}/my run' goes on with it" in result.stderr


def test_export_says_that_it_wants_a_target_or_a_format() -> None:
    assert "Give --target NAME or --format FORMAT." in invoke("export", "run").stderr


# --- other people's names ----------------------------------------------------------------------------------

ESCAPES = ["\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x9b31m", "\r", "\u202e", "\udcff"]


@pytest.mark.parametrize("escape", ESCAPES, ids=ascii)
def test_control_characters_in_names_never_reach_the_terminal(escape: str) -> None:
    for command in (["report", f"a{escape}b"], ["recipes", "copy", "quickstart", f"a{escape}b.toml"]):
        result = invoke(*command)
        text = result.stdout + result.stderr
        assert escape.encode("unicode_escape").decode() in text
        assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("escape", [e for e in ESCAPES if e != "\x7f"], ids=ascii)  # which terminals ignore
def test_control_characters_in_names_are_escaped_in_json_too_and_read_back(escape: str) -> None:
    result = invoke("recipes", "copy", "quickstart", f"a{escape}b.toml", "--json")
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert json.loads(result.stdout) == {"path": f"a{escape}b.toml"}


def test_a_recipe_with_control_characters_is_shown_without_them(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("# \x1b[2Jgone\n")
    assert invoke("recipes", "show", "mine.toml").stdout == "# \\x1b[2Jgone\n"


def test_a_terminal_that_knows_few_characters_is_no_bug() -> None:
    done = process("-m", "kerastune", "assets", "list", PYTHONIOENCODING="ascii")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


# --- narrow terminals --------------------------------------------------------------------------------------


def test_a_table_fits_a_narrow_terminal_and_loses_nothing() -> None:
    rows = [["linux", "1.5", "servers, desktops and a Raspberry Pi"], ["a-very-long-name-in-one-word", "12", "-"]]
    lines = folded(["target", "size MB", "where"], rows, width=40)
    assert max(map(len, lines)) <= 40
    words = " ".join(lines).split()
    assert {"linux", "1.5", "servers,", "Raspberry", "12"} <= set(words)


def test_a_table_breaks_no_word_where_all_fit() -> None:
    rows = [["efficientnet-lite0-imagenet", "preset", "its own terms: use, do not redistribute", "yes"]]
    lines = folded(["asset", "kind", "licence", "here"], rows, width=60)
    assert max(map(len, lines)) <= 60
    assert set(" ".join(rows[0]).split()) <= set(" ".join(lines).split())


def test_a_long_line_breaks_between_words_and_a_command_does_not() -> None:
    line = "  the validation loss of epoch 3 is nan, and /a/very/long/path/that/is/one/word too"
    assert wrapped(line, 40) == [
        "  the validation loss of epoch 3 is nan,",
        "  and /a/very/long/path/that/is/one/word",
        "  too",
    ]
    line = "hint: kerastune predict runs/a 'my photos/a b.jpg', or open runs/a/report.html in a browser"
    assert wrapped(line, 40) == [
        "hint:",
        "kerastune predict runs/a 'my photos/a b.jpg',",
        "or open runs/a/report.html in a browser",
    ]
    many = "kerastune run mine.toml -s data.path=a.csv -s 'data.delimiter=\";\"' -s phases.0.epochs=2"
    assert wrapped(f"Next: {many}", 40) == ["Next:", many]
    steps = "kerastune lr-find mine.toml --phase 1 --steps 80"
    assert wrapped(f"Next: {steps} for a smoother curve", 40) == ["Next:", steps, "for a smoother curve"]
    piped = """echo '{"instances": ["a text"]}' | curl -d @- http://127.0.0.1:8501/v1/models/a:predict"""
    assert wrapped(f"Next: {piped}", 40) == ["Next:", piped]
    assert wrapped("hint: kerastune recipes schema prints every key", 30)[1] == "prints every key"
    assert wrapped("  name     what it is for here", 24) == ["  name     what it is", "           for here"]


def test_a_bar_names_the_epoch_on_a_narrow_terminal() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    terminal = Terminal(console)
    terminal.advance("phase 2/2 (top:3), epoch 1/2", 3, 7, "loss 0.4321  accuracy 0.8752  119 examples/s")
    console.print(terminal.bar.get_renderable())
    shown = console.file.getvalue()
    assert re.match(r"phase 2/2 \(top:3\), epoch 1/2 .* 3/7 .* loss 0.4321  acc", shown)
    assert max(map(len, shown.splitlines())) <= 77  # ^C is echoed behind it


def test_a_bar_keeps_its_figures_on_a_narrow_terminal_and_goes_when_its_stage_is_done() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    terminal = Terminal(console)
    terminal.advance("phase 2/2 (all), epoch 1/2", 1234, 10000, "loss 0.4321  accuracy 0.8752  1,234 examples/s")
    console.print(terminal.bar.get_renderable())
    assert "1234/10000" in console.file.getvalue()
    assert "--:--" in console.file.getvalue()
    terminal.advance("phase 2/2 (all), epoch 1/2", 10000, 10000)
    assert not terminal.bar.tasks
    terminal.advance("reading", 5, 0)  # how many there are is not known
    assert [task.total for task in terminal.bar.tasks] == [None]


def test_a_stage_that_nobody_knows_the_end_of_shows_a_spinner_and_the_time_and_goes_when_it_is_done() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    terminal = Terminal(console)
    with pytest.raises(KeyError), terminal.working("converting linux"):
        console.print(terminal.bar.get_renderable())
        raise KeyError
    assert re.search(r"converting linux +\S +0:00:00", console.file.getvalue())
    assert not terminal.bar.tasks


# --- noise and bugs ----------------------------------------------------------------------------------------


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """A recipe on two labels whose pictures are none."""
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.jpg").write_bytes(b"no picture")
    text = recipe.find("quickstart")[1].partition("[data]")[0].replace("efficientnet-lite0-imagenet", "some_preset")
    path = tmp_path / "pets.toml"
    path.write_text(f'{text}\n[data]\nsource = "folder"\npath = "pets"\n[[phases]]\nunfreeze = "head"\n')
    return path


def test_tensorflows_noise_does_not_reach_the_terminal_unless_asked_for(unreadable: Path) -> None:
    command = ["-m", "kerastune", "validate", str(unreadable)]
    quiet = process(*command, TF_CPP_MIN_LOG_LEVEL="0")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert quiet.stderr.startswith("Error: ")
    assert "1.jpg" in quiet.stderr
    assert not re.search("cuda|absl|oneDNN", quiet.stderr, re.IGNORECASE)
    loud = process(*command, TF_CPP_MIN_LOG_LEVEL="0", KERASTUNE_DEBUG="1")
    assert loud.stderr.endswith(quiet.stderr)
    assert len(loud.stderr) > len(quiet.stderr)


BUGGY = """
import ctypes, os, sys, warnings
from kerastune.cli import cli, main

@cli.command()
def noisy():
    os.write(2, b"from C++\\n")
    warnings.warn("from a library")
    print("ours", file=sys.stderr)

@cli.command()
def buggy():
    os.write(2, b"from C++\\n")
    print({}["no such key"])

@cli.command()
def crashing():
    ctypes.string_at(0)

main()
"""


def test_noise_is_hidden_and_our_own_words_are_not() -> None:
    assert process("-c", BUGGY, "noisy").stderr == "ours\n"
    loud = process("-c", BUGGY, "noisy", KERASTUNE_DEBUG="1").stderr
    assert all(words in loud for words in ("from C++", "from a library", "ours"))


def test_a_bug_keeps_its_traceback() -> None:
    done = process("-c", BUGGY, "buggy")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "KeyError: 'no such key'" in done.stderr


def test_a_crash_says_where() -> None:
    done = process("-c", BUGGY, "crashing")
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
    assert "in crashing" in done.stderr


# --- kept features -----------------------------------------------------------------------------------------


def test_kept_features_are_listed_and_deleted_by_key() -> None:
    from kerastune.training.prefix import cache

    for key in ("a" * 64, "b" * 64):
        cache.compute(
            lambda x: (x,), [(np.zeros((3, 5), np.float32), range(3))], 3, [cache.Spec((5,), "float32")], key, "birds"
        )
    assert {row["of"] for row in json.loads(invoke("cache", "ls", "--json").stdout)} == {"birds"}
    assert json.loads(invoke("cache", "clear", "aaaa", "--json").stdout) == {"bytes": 60}
    assert [row["key"] for row in json.loads(invoke("cache", "ls", "--json").stdout)] == ["b" * 64]
    refused = invoke("cache", "clear", "cccc")
    assert refused.exit_code == 1
    assert "No features are kept under the key 'cccc'" in refused.stderr
    assert "0.0 MB deleted" in invoke("cache", "clear").stdout
    assert "The cache is empty" in invoke("cache", "ls").stdout


class Interrupted:
    """A module during whose import Ctrl-C is pressed."""

    def __getattr__(self, name: str) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_before_all_is_imported_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kerastune.cli", Interrupted())
    with pytest.raises(SystemExit) as ended:
        kerastune.__main__.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "Interrupted.\n")
