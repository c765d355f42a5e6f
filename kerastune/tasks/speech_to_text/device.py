"""Sounds in, transcripts out, without TensorFlow."""

import json
from pathlib import Path
from typing import Any

from kerastune.data import Splits, spread
from kerastune.modalities import Example
from kerastune.modalities.audio import AUDIO, beginning
from kerastune.tasks import sound_device
from kerastune.tasks.contract import Device, Form, Record, Wanted
from kerastune.tasks.learnt import Learnt
from kerastune.tasks.learnt.transcripts import TRANSCRIPT, with_terms
from kerastune.tasks.speech_to_text.settings import SpeechToText

GOLDEN = 20
SERVING = ("serving_default", "serve_bytes")
_TWO = "encode+decode"
_CUT = "cut at pauses, with an overlap of a third or more, into windows of"


def learnt(recipe: SpeechToText) -> Learnt:
    """Returns the row for transcripts, which counts the recipe's terms."""
    return with_terms(recipe.terms) if recipe.terms else TRANSCRIPT


def samples(recipe: SpeechToText) -> int:
    """Returns the length of the window in samples."""
    return sound_device.whole_frames(recipe.data.window)


def form(recipe: SpeechToText, wanted: Wanted) -> Form:
    """Returns a form with the loop inside for servers, and with the cache outside for all others."""
    # A near tie may end in another token, so predictions of the whole split are judged by their words.
    return Form({"serving": "serving", "folder": "folder"}.get(wanted.style, _TWO), exact=False)


def refusal(recipe: SpeechToText, wanted: Wanted) -> str | None:
    """Returns why speech cannot be written down in integers, or where one call must give the answer, or None."""
    if wanted.images == "fixed":
        return (
            "speech_to_text asks a file once for each token, and the target's page or MediaPipe asks once in all: use "
            "linux on a phone's own code, or onnxruntime"
        )
    if recipe.beams > 1 and wanted.style in ("serving", "folder"):
        return (
            f"beams = {recipe.beams}, but the file itself chooses its tokens, the likeliest each time: use a target "
            "with TFLite or ONNX files, or beams = 1"
        )
    return sound_device.refusal(wanted, ("int8", "int16x8", "int4"), "speech")


def golden(recipe: SpeechToText, splits: Splits) -> list[Example]:
    """Returns validation sounds, filled up with training ones."""
    chosen = [(splits.validation, i) for i in spread(splits.validation, GOLDEN)]
    chosen += [(splits.train, i) for i in spread(splits.train, GOLDEN - len(chosen))]
    return [beginning(split.read(i), samples(recipe)) for split, i in chosen]


def manifest(recipe: SpeechToText, wanted: Wanted, form: Form, work: Path) -> Record:
    """Describes samples in and text out."""
    settings = json.loads((work / "speech.json").read_text("utf-8"))
    if form.signature == "folder":
        return _of_folder(settings)
    is_whole = form.signature == "serving"
    batch = None if is_whole else 1
    arrays = {"dtype": "float32", "range": None}
    decoder = [
        {"name": "tokens", "shape": [1, 1], "dtype": "int32", "range": None, "meaning": "the last token"},
        {"name": "position", "shape": [1], "dtype": "int32", "range": None, "meaning": "its position, from 0"},
        {"name": "self_kv", "shape": settings["cache"], **arrays, "meaning": "the cache; zeros at the beginning"},
        {"name": "cross_kv", "shape": settings["cross"], **arrays, "meaning": "what encode gave for the sound"},
    ]
    return {
        "signatures": list(SERVING) if is_whole else form.signature.split("+"),
        "reading": settings,
        "inputs": [sound_device.sounds(settings, batch), *([] if is_whole else decoder)],
        "outputs": _written(batch),
        "preprocessing": {
            "inside": [
                sound_device.SPECTRUM,
                *(["choose each next token, join their texts"] if is_whole else []),
            ],
            "outside": [
                *sound_device.outside(settings, _CUT),
                *([] if is_whole else ["choose each next token (speech.py), join their texts (vocabulary.json)"]),
            ],
        },
    }


def _of_folder(settings: Record) -> Record:
    """Returns the entries for a Whisper that transformers runs with its own front end and cache."""
    frames = {"dtype": "float32", "range": None, "meaning": "log-mel spectrum, by WhisperFeatureExtractor"}
    return {
        "signatures": ["generate"],
        "reading": {name: value for name, value in settings.items() if name not in ("cache", "cross")},
        "inputs": [{"name": "input_features", "shape": [1, settings["mels"], settings["frames"]], **frames}],
        "outputs": _written(1),
        "preprocessing": {
            "inside": ["generate: choose each next token"],
            "outside": [*sound_device.outside(settings, _CUT), "WhisperFeatureExtractor", "WhisperTokenizer.decode"],
        },
    }


def _written(batch: int | None) -> list[Record]:
    rows: dict[str, Any] = {"shape": [batch, None], "range": None}
    return [
        {"name": "margins", **rows, "dtype": "float32", "meaning": "lead in nats of each token over the second"},
        {"name": "text", **rows, "dtype": "uint8", "meaning": "the transcript in UTF-8, by the reader"},
        {"name": "tokens", **rows, "dtype": "int32", "meaning": "tokens of the transcript, by the reader"},
    ]


DEVICE: Device[SpeechToText] = Device(
    modality=AUDIO,
    learnt=learnt,
    form=form,
    refusal=refusal,
    candidates=sound_device.candidates,
    golden=golden,
    calibration=sound_device.calibration(samples),
    audited=lambda recipe, splits: [],
    manifest=manifest,
    questions=sound_device.questions(samples),
    sides=lambda recipe: 1,
    serving=SERVING,
    pipeline_tag="automatic-speech-recognition",
    unit="a sound",
    options={"timestamps": False, "beams": None},
    readers=("speech.py", "recordings.py"),
)
