"""Fashion-MNIST for TensorFlow Datasets: ``tfds.load("fashion_mnist", data_dir=…, download=False)``.

The data come from Debian's package if there is apt-get, and otherwise from TFDS's own address. Debian's build blanks
the time stamp and the file name in the gzip headers. With these restored, the four files are byte for byte those that
TFDS has registered, and its checksum validation, which stays on, proves it.
"""

import contextlib
import gzip
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kerastune import files
from kerastune.assets import debian
from kerastune.assets.asset import Asset, Progress, check_sha256
from kerastune.errors import AssetError

_PACKAGE = "dataset-fashion-mnist"

# The uncompressed files, and when Zalando compressed each one.
_FILES = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        1504176606,
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        1504176606,
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        1504176627,
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        1504176627,
    ),
}


def build(folder: Path, progress: Progress) -> None:
    """Fills the folder as a TFDS ``data_dir``."""
    with files.scratch() as scratch:
        if debian.is_here():
            progress(f"downloading Debian's {_PACKAGE} with apt-get ({ASSET.download_mb} MB)")
            (deb,) = debian.download([_PACKAGE], scratch / "apt")
            restore_files(deb, scratch)
        else:
            progress(f"no apt-get here: downloading with TensorFlow Datasets ({ASSET.download_mb} MB)")
            _check_that_tfds_can_download()
        progress("preparing it with TensorFlow Datasets (70,000 PNG images, about half a minute)")
        prepare(folder, scratch)


def restore_files(deb: Path, folder: Path) -> None:
    """Unpacks the package and restores TFDS's four original files in the folder.

    Only the data are pinned: apt has checked the package's signature, and Ubuntu builds its own package from the same
    source.
    """
    debian.unpack(deb, folder / "unpacked")
    for name, (sha256, packed_at) in _FILES.items():
        packed = (folder / "unpacked/usr/share/datasets/fashion-mnist" / f"{name}.gz").read_bytes()
        check_sha256(gzip.decompress(packed), sha256, f"{name} in {deb.name}")
        (folder / f"{name}.gz").write_bytes(_with_original_header(packed, name, packed_at))


def prepare(folder: Path, downloads: Path) -> None:
    """Makes TFDS's files from the four in ``downloads``, which TFDS checks against its own hashes."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    config = tfds.download.DownloadConfig(manual_dir=downloads, force_checksums_validation=True, try_download_gcs=False)
    try:
        with _quietly(tfds):
            builder = tfds.builder("fashion_mnist", data_dir=folder)
            builder.download_and_prepare(download_dir=downloads / "tfds", download_config=config)
    except (DownloadError, NonMatchingChecksumError, OSError) as error:
        raise AssetError(f"TensorFlow Datasets could not prepare Fashion-MNIST: {error}") from error
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    if sizes != {"train": 60_000, "test": 10_000}:
        raise AssetError(f"Fashion-MNIST should have 60,000 and 10,000 images, TFDS made {sizes}.")


def _with_original_header(packed: bytes, name: str, packed_at: int) -> bytes:
    header = struct.Struct("<4sIBB")  # magic, method and flags; time; extra flags; operating system
    start, *_ = header.unpack_from(packed)
    if start != b"\x1f\x8b\x08\x00":  # a header with more fields would have to be split elsewhere
        raise AssetError(f"{name}.gz has an unexpected gzip header: {packed[:10].hex()}.")
    return header.pack(b"\x1f\x8b\x08\x08", packed_at, 0, 3) + name.encode() + b"\0" + packed[header.size :]


def _check_that_tfds_can_download() -> None:
    """Makes one short request, because TFDS would retry ten times, for over three minutes."""
    from tensorflow_datasets.image_classification.mnist import FashionMNIST

    try:
        with urllib.request.urlopen(f"{FashionMNIST.URL}t10k-labels-idx1-ubyte.gz", timeout=20):
            pass
    except (urllib.error.URLError, TimeoutError) as error:
        raise AssetError(
            f"Fashion-MNIST cannot be downloaded from {FashionMNIST.URL}: {error}.",
            f"Fetch it where there is apt-get (Debian, Ubuntu: it uses the package {_PACKAGE}) or where that "
            "address is reachable, and copy the folder assets/fashion-mnist of that KERASTUNE_HOME over.",
        ) from error


@contextlib.contextmanager
def _quietly(tfds: Any) -> Any:
    """Silences TFDS: stdout belongs to the caller, and kerastune reports its own progress."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        tfds.enable_progress_bar()


ASSET = Asset(
    name="fashion-mnist",
    kind="dataset",
    summary="70,000 grey 28×28 photos of garments in 10 classes, for tfds.load('fashion_mnist')",
    licence="MIT",
    source=f"Debian {_PACKAGE} (else TensorFlow Datasets' own address)",
    download_mb=31,
    sha256={name: sha256 for name, (sha256, _) in _FILES.items()},
    build=build,
)
