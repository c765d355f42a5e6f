"""What is shipped: the wheel works on its own, and the documents say what the program does."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh virtual environment with the wheel in it; third-party packages are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("kerastune-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bin = folder / "venv" / "bin"
    subprocess.run([bin / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return bin


def test_an_installed_wheel_lists_its_recipes_and_targets(installed, tmp_path):
    for group, expected in (("recipes", "quickstart"), ("targets", "onnxruntime")):
        done = subprocess.run([installed / "kerastune", group, "list"], cwd=tmp_path, capture_output=True, text=True)
        assert expected in done.stdout, done.stderr
    where = "import kerastune; print(kerastune.__file__)"
    done = subprocess.run([installed / "python", "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert str(installed.parent) in done.stdout


def test_an_installed_wheel_verifies_an_artifact(installed, exported, tmp_path):
    command = [installed / "kerastune", "verify", exported("resnet")["tflite"].folder]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "litert" in done.stdout


# --- the documents -----------------------------------------------------------------------------------------


def commands(document: str, section: str = "") -> list[str]:
    """The lines that a reader would type, in one section or in all."""
    text = (ROOT / document).read_text("utf-8")
    text = text.partition(f"## {section}\n")[2].partition("\n## ")[0] if section else text
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


DOCUMENTS = [
    "README.md",
    "recipes/README.md",
    "export/README.md",
    *(f"export/{p.parent.name}/README.md" for p in ROOT.glob("export/*/target.toml")),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_documented_command_is_one(document):
    from kerastune.cli import cli

    for line in commands(document):
        words = shlex.split(line)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        if words[0] == "kerastune":
            command = cli
            for i, word in enumerate(words[1:], start=1):
                command = command.get_command(None, word)
                assert command is not None, line
                if not hasattr(command, "commands"):
                    command.make_context(word, words[i + 1 :])
                    break


def test_every_command_is_in_the_readme():
    from kerastune.cli import cli

    readme = (ROOT / "README.md").read_text("utf-8")
    for name, command in cli.commands.items():
        assert f"kerastune {name}" in readme
        for sub in getattr(command, "commands", {}):
            assert re.search(rf"kerastune {name}.*\b{sub}\b", readme), f"{name} {sub}"


def test_every_recipe_and_target_is_in_its_table():
    for folder, pattern in (("recipes", "*.toml"), ("export", "*/target.toml")):
        table = (ROOT / folder / "README.md").read_text("utf-8")
        for path in (ROOT / folder).glob(pattern):
            assert str(path.relative_to(ROOT / folder)).replace("/target.toml", "/README.md") in table


def test_the_readme_walks_a_user_from_a_folder_of_photos_to_a_label(assets_home, pictures, tmp_path):
    """The section "Your own photos", line by line, on real weights; made small by editing my.toml as a user would."""
    (tmp_path / "photos").symlink_to(pictures)
    Image.open(pictures / "red" / "07.png").convert("RGB").save(tmp_path / "photo.jpg")
    environment = {**os.environ, "KERASTUNE_HOME": str(assets_home)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for line in commands("README.md", "Your own photos"):
        done = subprocess.run(shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if "recipes copy" in line:
            text = (tmp_path / "my.toml").read_text()
            small = re.sub(r"epochs = \d+", "epochs = 1", text).replace("image_size = 224", "image_size = 64")
            (tmp_path / "my.toml").write_text(small)
    assert "red" in done.stdout.splitlines()[1]
