"""The browser target: the page runs in a real Chromium, says what Keras said, and asks nobody else.

make verify-browser      installs Chromium and the runtimes, and runs this; else what needs them is skipped
"""

import json
import queue
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest

from kerastune import verify
from kerastune.errors import KerastuneError, VerificationError
from kerastune.recipe import parse_export
from kerastune.targets import answers
from kerastune.targets import images as shared
from kerastune.targets.browser import reader
from kerastune.tasks.learnt.contract import ROUNDING
from kerastune.verifying import artifact, runtimes
from kerastune.verifying.manifest import Decision

FOLDER = Path(__file__).parents[1] / "export" / "browser"
SOURCES = sorted([*FOLDER.glob("*.js"), *FOLDER.glob("*.html")])
FORMATS = ["browser", "browser-onnx"]

needs_chromium = pytest.mark.skipif(
    not reader.installed(), reason=f"no Chromium, or no runtimes in $KERASTUNE_BROWSER: {reader.INSTALL}"
)

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node: apt-get install nodejs")


@pytest.fixture(scope="module")
def made(trained, export_once):
    """A tiny ResNet for the page, as TFLite and as ONNX, whole and in int8: name -> artifact."""
    wanted = [{"target": "browser"}, {"target": "browser", "format": "onnx"}, {"target": "browser", "quantize": "int8"}]
    return export_once(trained("resnet"), [parse_export({**one, "max_accuracy_drop": 0.1}) for one in wanted])


def damage(of):
    """Flips the signs of some weights, in the middle of the file, as if it had been exported so."""
    path = of.folder / of.manifest.model
    content = bytearray(path.read_bytes())
    weights = np.frombuffer(content, np.uint8)[len(content) // 2 :][:4096]
    weights ^= 0x80
    path.write_bytes(content)
    return artifact.write(of.folder, of.manifest, of.golden)


def run_reader(folder, *options):
    return subprocess.run([sys.executable, folder / "reader.py", folder, *options], capture_output=True, text=True)


def said_by_node(code, *names):
    """What code prints that follows some of the page's modules; returned from JSON."""
    modules = "".join((FOLDER / f"{name}.js").read_text("utf-8") for name in names)
    source = re.sub("^import .*", "", modules, flags=re.MULTILINE) + code
    done = subprocess.run(["node", "--input-type=module"], input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- the proof ---------------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("name", FORMATS)
def test_the_page_says_what_keras_said(made, name, capsys):
    done = run_reader(made[name].folder, "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: 32 golden images")
    print(f"{name}: {done.stdout}", end="")


@needs_chromium
@pytest.mark.parametrize("name", [*FORMATS, "browser-int8"])
def test_an_export_is_verified_in_the_page_where_it_can_be(made, name):
    said = made[name].report.runtimes["browser"]
    assert said.passed and said.validation.outputs.examples == 20
    assert said.golden.max_error <= made[name].manifest.tolerance.golden_error
    assert 0 < said.latency_ms.median < said.load_ms
    assert said.peak_mb is None


@needs_chromium
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_weights_fail(made, copied, name):
    of = damage(copied(made[name]))
    done = run_reader(of.folder, "--check")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("FAILED: 32 golden images, largest error ")
    with pytest.raises(VerificationError, match="browser: golden images: largest error"):
        verify(of, in_runtimes=["browser"])


@needs_chromium
def test_a_page_that_cannot_load_its_model_says_why(made, copied):
    of = copied(made["browser"])
    (of.folder / "model.tflite").write_bytes(b"no model")
    done = run_reader(artifact.write(of.folder, of.manifest, of.golden).folder, "--check")
    assert done.returncode == 1
    assert "the page failed: " in done.stderr


@needs_chromium
def test_the_page_is_kerastunes_own_when_it_verifies(made, copied):
    of = copied(made["browser"])
    (of.folder / "artifact.js").write_text("throw new Error('run')")
    assert verify(artifact.write(of.folder, of.manifest, of.golden), in_runtimes=["browser"]).passed
    assert "the page failed: " in run_reader(of.folder, "--check").stderr


@needs_chromium
def test_nothing_of_the_browser_is_left_behind(made):
    folder = made["browser"].folder
    with subprocess.Popen([sys.executable, folder / "reader.py", folder, "--check"], stdout=subprocess.PIPE) as running:
        began = []
        while running.poll() is None:
            began = psutil.Process(running.pid).children(recursive=True) or began
    assert began
    _, alive = psutil.wait_procs(began, timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


# --- the page, as its users see it ---------------------------------------------------------------------------

SPY = """<iframe src="index.html?check"></iframe><script type="module">
const frame = document.querySelector("iframe");
const at = (id) => frame.contentDocument?.getElementById(id);
const until = async (done) => { while (!done()) await new Promise((wake) => setTimeout(wake, 20)); };
await until(() => /^(ok|FAILED)/.test(at("check")?.textContent) || /^FAILED/.test(at("about")?.textContent));
const picked = new frame.contentWindow.DataTransfer();
picked.items.add(new File([await (await fetch("photo.png")).blob()], "photo.png"));
at("file").files = picked.files;
at("file").dispatchEvent(new Event("change"));
await until(() => at("took").textContent);
const said = ["name", "about", "check", "labels", "took"].map((id) => [id, at(id).innerText]);
const { width, height, hidden } = at("drawing");
const pixels = hidden ? [] : [...at("drawing").getContext("2d").getImageData(0, 0, width, height).data];
said.push(["drawn", pixels.filter((value, k) => k % 4 === 3 && value).length], ["pixels", pixels.length / 4]);
await fetch("told", { method: "POST", body: JSON.stringify(Object.fromEntries(said)) });
</script>"""


class Spy(reader.Server):
    def do_GET(self):
        return self.reply(SPY.encode(), "text/html") if self.path == "/spy" else super().do_GET()


def seen(of, photo):
    """What index.html?check shows once it has checked, and a photo was chosen: element id -> text."""
    shutil.copy(photo, of.folder / "photo.png")
    told, data = queue.Queue(), ("manifest.json", "golden.npz", "catalogue.npz", of.manifest.model, "photo.png")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Spy, of.folder, data, queue.Queue(), told)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with reader.browsing(f"http://127.0.0.1:{server.server_port}/spy"):
            said = json.loads(told.get(timeout=60)[1])
        server.shutdown()
    return said


@needs_chromium
@pytest.mark.parametrize("name", FORMATS)
def test_the_page_checks_itself_and_labels_a_photo(made, copied, pictures, name):
    said = seen(copied(made[name]), pictures / "red" / "00.png")
    assert said["name"] == name
    assert said["check"].startswith("ok: 32 golden images, largest error ")
    assert said["labels"].startswith("red\n")
    assert said["took"].startswith("32 × 32 pixels, ") and not said["drawn"]


@needs_chromium
def test_the_page_shows_damage_and_writes_labels_as_text(made, copied, pictures):
    of = damage(copied(made["browser"]))
    hostile = "<img src=x onerror=alert(1)>"
    of = artifact.write(of.folder, replace(of.manifest, labels=(hostile,) * 3), of.golden)
    said = seen(of, pictures / "red" / "00.png")
    assert said["check"].startswith("FAILED: 32 golden images, largest error ")
    assert hostile in said["labels"]


@needs_chromium
def test_the_page_decides_by_the_threshold(made, copied, pictures):
    manifest = replace(made["browser"].manifest, decision=Decision(label="red", threshold=0.5))
    of = artifact.write(copied(made["browser"]).folder, manifest, made["browser"].golden)
    for color, said in (("red", "decision: red"), ("blue", "decision: not red")):
        assert said in seen(of, pictures / color / "00.png")["labels"]


# --- without a browser ---------------------------------------------------------------------------------------


def test_the_folder_holds_the_page_and_takes_one_float_image(made):
    for name in FORMATS:
        assert {path.name for path in SOURCES} <= set(made[name].manifest.files)
        assert made[name].manifest.inputs[0].dtype == "float32"
        assert made[name].manifest.inputs[0].shape == (1, 32, 32, 3)
        assert made[name].report.own.golden.max_error <= ROUNDING


def test_the_page_names_no_other_host_and_writes_no_html():
    assert len(SOURCES) >= 5
    for source in SOURCES:
        text = source.read_text("utf-8")
        assert "//" not in text.replace("// ", ""), source  # neither https://… nor //cdn…
        assert not [word for word in ("http:", "https:", "innerHTML", "document.write") if word in text], source
    assert "default-src 'self'" in (FOLDER / "index.html").read_text("utf-8")


def test_the_readme_and_the_reader_name_the_same_packages():
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert all(package in readme for package in reader.PACKAGES)


def test_a_missing_browser_is_named_with_what_installs_it(made, monkeypatch, tmp_path):
    monkeypatch.setenv("KERASTUNE_BROWSER", str(tmp_path))
    done = run_reader(made["browser"].folder, "--check")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(reader.INSTALL)
    reader.installed.cache_clear()
    with pytest.raises(KerastuneError, match="browser is not installed: apt-get install chromium && npm install"):
        verify(made["browser"], in_runtimes=["browser"])
    reader.installed.cache_clear()


def test_what_the_page_cannot_run_is_refused(made):
    manifest = made["browser"].manifest
    any_size = replace(manifest, inputs=(replace(manifest.inputs[0], shape=(1, None, None, 3)),))
    assert "it needs images of one size" in runtimes.refusal("browser", any_size)
    int8 = replace(manifest, outputs=(replace(manifest.outputs[0], dtype="int8"),))
    assert "it reads float32 outputs, but this gives int8" in runtimes.refusal("browser", int8)
    assert runtimes.refusal("browser", manifest) is None


@needs_node
@pytest.mark.parametrize("score", [0.2249, 0.225, 0.5])
def test_the_page_decides_as_the_readers_do(score):
    manifest = {"learnt": "label", "labels": ["well", "ill"], "decision": {"label": "ill", "threshold": 0.225}}
    outputs = f"{{ scores: {{ data: [{1 - score}, {score}] }} }}"
    code = f"const m = {json.dumps(manifest)}; console.log(JSON.stringify(answers(m).rows({outputs}, m, 1).at(-1)[0]));"
    found = said_by_node(code, "drawings", "answers")
    line = answers.decided({"scores": np.array([1 - score, score])}, manifest["labels"], manifest["decision"])[1]
    assert line.startswith(f"{found} (")


@needs_node
def test_the_page_enlarges_maps_and_probabilities_and_says_what_the_readers_do():
    random = np.random.default_rng(0)
    probable = random.dirichlet((1, 1, 1), (1, 8, 6)).astype(np.float32)
    outputs = {"class_map": probable.argmax(-1).astype(np.uint8), "probabilities": probable}
    reading = {"resize": "outside", "height": 8, "width": 6}
    roles = [{"name": "class_map", "role": "map"}, {"name": "probabilities", "role": "probabilities"}]
    manifest = {"learnt": "mask", "labels": ["ground", "square", "disc"], "outputs": roles, "reading": reading}
    expected = shared.restored(outputs, np.zeros((13, 17, 3), np.uint8), manifest)
    said = {name: {"shape": rows.shape[1:], "data": rows.ravel().tolist()} for name, rows in outputs.items()}
    code = (
        f"const m = {json.dumps(manifest)}, image = {{ height: 13, width: 17 }};"
        f"const found = images.restored({json.dumps(said)}, image, m);"
        "const rows = answers(m).rows(found, m, 3).map(([label, words]) => `${words}, ${label}`);"
        "console.log(JSON.stringify([rows, [...found.probabilities.data], [...found.class_map.data]]));"
    )
    rows, probabilities, classes = said_by_node(code, "images", "drawings", "answers")
    np.testing.assert_array_equal(np.array(probabilities, np.float32), expected["probabilities"].ravel())
    np.testing.assert_array_equal(classes, expected["class_map"].ravel())
    one = {name: array[0] for name, array in expected.items()}
    for ours, theirs in zip(rows, answers.shares(one, manifest["labels"], 3), strict=True):
        share, probability, label = re.fullmatch(r"([\d.]+) %, mean probability ([\d.]+), (\w+)", ours).groups()
        assert theirs == f"{share}%  {label}, with a mean probability of {probability}"


@needs_node
def test_the_page_colours_each_pixel_by_its_class_and_the_background_not():
    classes = np.random.default_rng(0).integers(0, 3, (5, 7))
    map_ = {"shape": classes.shape, "data": classes.ravel().tolist()}
    code = (
        f"const map = {json.dumps(map_)}, drawn = [], colors = ['#000000', '#ff0000', '#00ff00'];"
        "const context = { fillRect(...corners) { drawn.push([...corners, this.fillStyle]); } };"
        "tinted(context, { shape: map.shape, data: Uint8Array.from(map.data) }, { colors });"
        "console.log(JSON.stringify(drawn));"
    )
    found = np.zeros_like(classes)
    for x, y, width, height, color in said_by_node(code, "drawings"):
        found[y : y + height, x : x + width] += ["#000000", "#ff0000", "#00ff00"].index(color)
    np.testing.assert_array_equal(found, classes)


@needs_node
@pytest.mark.parametrize("shape", [(50, 36), (31, 97), (64, 64), (7, 9), (32, 24)])
def test_the_page_resizes_as_the_readers_do(shape):
    """To the bit; bicubic to a pixel value, whose weights numpy computes in float32."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    kinds = [(how, fitting) for how in ("nearest", "bilinear", "bicubic") for fitting in ("crop", "pad", "stretch")]
    settings = [
        {"resize": "outside", "height": 32, "width": 24, "interpolation": how}
        | {f"{kind}_to_aspect_ratio": kind == fitting for kind in ("crop", "pad")}
        for how, fitting in kinds
    ]
    pixels = f"{{ height: {shape[0]}, width: {shape[1]}, data: Uint8Array.from({image.ravel().tolist()}) }}"
    code = f"console.log(JSON.stringify({json.dumps(settings)}.map((one) => [...fit({pixels}, one).data])));"
    for found, one in zip(said_by_node(code, "images"), settings, strict=True):
        expected = shared.fit(image, one)
        apart = np.abs(np.array(found).reshape(32, 24, 3) - expected.astype(int)).max()
        assert apart <= (one["interpolation"] == "bicubic"), one
