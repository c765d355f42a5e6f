"""Images in folders and named by CSV files: their pixels are compared, and what cannot be read must be listed."""

import csv
import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attack.campaign import Trial
from attack.expected import SPLIT_NAMES, loaded, settings
from kerastune.errors import KerastuneError

Random = np.random.Generator
Pixels = npt.NDArray[np.uint8]


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    picture.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


# --- files whose pixels are known --------------------------------------------------------------------------


def _rgb(random: Random) -> tuple[bytes, Pixels]:
    pixels = random.integers(0, 256, (*random.integers(1, 40, 2), 3), np.uint8)
    kind = str(random.choice(["PNG", "BMP", "WEBP"]))
    return encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})), pixels


def _grey(random: Random) -> tuple[bytes, Pixels]:
    grey = random.integers(0, 256, random.integers(1, 40, 2), np.uint8)
    return encoded(Image.fromarray(grey)), np.stack([grey] * 3, -1)


def _bits(random: Random) -> tuple[bytes, Pixels]:
    bits = random.integers(0, 2, random.integers(1, 40, 2), np.uint8) * 255
    return encoded(Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)), np.stack([bits] * 3, -1)


def _palette(random: Random) -> tuple[bytes, Pixels]:
    colours = random.integers(0, 256, (16, 3), np.uint8)
    index = random.integers(0, 16, random.integers(1, 40, 2), np.uint8)
    picture = Image.frombytes("P", index.shape[::-1], index.tobytes())
    picture.putpalette(colours.tobytes())
    return encoded(picture, str(random.choice(["PNG", "GIF", "BMP"]))), colours[index]


def _transparent(random: Random) -> tuple[bytes, Pixels]:
    pixels = random.integers(0, 256, (*random.integers(1, 40, 2), 4), np.uint8)
    alpha = pixels[..., 3:].astype(float) / 255
    on_white = pixels[..., :3] * alpha + 255 * (1 - alpha)
    return encoded(Image.fromarray(pixels)), on_white.round().astype(np.uint8)


def _grey16(random: Random) -> tuple[bytes, Pixels]:
    values = random.integers(0, 2**16, random.integers(1, 40, 2), np.uint16)
    return png(values[..., None], 0), np.stack([values >> 8] * 3, -1).astype(np.uint8)


def _rgb16(random: Random) -> tuple[bytes, Pixels]:
    values = random.integers(0, 2**16, (*random.integers(1, 40, 2), 3), np.uint16)
    return png(values, 2), (values >> 8).astype(np.uint8)


def _turned(random: Random) -> tuple[bytes, Pixels]:
    pixels = random.integers(0, 256, (*random.integers(1, 40, 2), 3), np.uint8)
    orientation = int(random.integers(1, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x[::-1].swapaxes(0, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: x[:, ::-1].swapaxes(0, 1),
    }
    return encoded(Image.fromarray(pixels), exif=exif), upright[orientation](pixels)


def _animated(random: Random) -> tuple[bytes, Pixels]:
    colours = [tuple(map(int, random.integers(0, 256, 3))) for _ in range(3)]
    frames = [Image.new("RGB", (9, 7), colour) for colour in colours]
    kind = str(random.choice(["PNG", "WEBP"]))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    return data, np.full((7, 9, 3), colours[0], np.uint8)


def _cmyk(random: Random) -> tuple[bytes, Pixels]:
    pixels = np.full((16, 16, 4), random.integers(0, 256, 4), np.uint8)
    data = encoded(Image.frombytes("CMYK", (16, 16), pixels.tobytes()), "JPEG", quality=100, subsampling=0)
    c, m, y, k = (pixels[..., i].astype(float) for i in range(4))
    return data, np.stack([(255 - ink) * (255 - k) / 255 for ink in (c, m, y)], -1).round().astype(np.uint8)


KNOWN = (_rgb, _grey, _bits, _palette, _transparent, _grey16, _rgb16, _turned, _animated, _cmyk)
_LOSSY = {_cmyk: 6, _transparent: 2}  # how far a pixel may be away


def png(values: npt.NDArray[np.uint16], colour: int) -> bytes:
    """A PNG of 16 bits, uint16 [H, W, C], which Pillow does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


# --- files that cannot be read -----------------------------------------------------------------------------


def _broken(random: Random) -> bytes:
    pixels = random.integers(0, 256, (30, 30, 3), np.uint8)
    kind = str(random.choice(["PNG", "JPEG", "WEBP", "BMP", "GIF"]))
    good = encoded(Image.fromarray(pixels), kind)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    huge = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    choices: list[bytes] = [
        good[: len(good) // 2],
        good[: int(random.integers(1, 20))],
        b"",
        bytes(500),
        b"<html>not found</html>",
        encoded(Image.fromarray(pixels), "TIFF"),
        b"\0\0\0\x18ftypheic" + bytes(100),
        b"%PDF-1.7" + bytes(100),
        b'<?xml version="1.0"?><svg width="1" height="1"></svg>',
        header + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge)) + bytes(50),
        encoded(Image.new("1", (20_000, 8_000))),
        random.bytes(300),
        b"\xff\xd8\xff" + random.bytes(300),
        b"\x1b[31m\n" * 20,
    ]
    return choices[random.integers(len(choices))]


NAMES = [
    "a b",
    "ä",
    "e\u0301",
    "\u202e",
    "x\x1b[31m",
    "line\nbreak",
    "'quote\"",
    "%s{}",
    "日本",
    "n" * 200,
    "-rf",
    "a;b,c|d",
    "\udcff",
]


def folders(random: Random, folder: Path, n: int) -> Trial:
    """A folder, or a CSV, of images: every image has its pixels and label, or is listed; the rest is noted."""
    root = folder / f"pictures{n}"
    split = bool(random.random() < 0.3)
    labels = [NAMES[i] for i in random.permutation(len(NAMES))[:2]]
    as_csv = bool(random.random() < 0.4)
    root.mkdir()
    known: dict[str, tuple[Pixels, str, int]] = {}
    bad: set[str] = set()
    seen: set[bytes] = set()
    rows: list[tuple[str, str]] = []
    for i in range(24):
        label = labels[i % 2]
        part = SPLIT_NAMES[(i // 2) % 3] if split and not as_csv else ""
        made = KNOWN[random.integers(len(KNOWN))]
        broken = i > 12 and random.random() < 0.4
        data, pixels = (_broken(random), np.zeros(0, np.uint8)) if broken else made(random)
        if data in seen:
            continue
        seen.add(data)
        name = f"{i}{NAMES[random.integers(len(NAMES))]}"[:200] if random.random() < 0.3 else f"{i}"
        extension = str(random.choice(["png", "jpg", "JPEG", "gif", "webp", "bmp"]))
        path = root / part / label / f"{name}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        id = _printed(str(path.relative_to(root)))
        rows.append((str(path.relative_to(root)), label))
        if broken:
            bad.add(id)
        else:
            known[id] = (pixels, _printed(label) if not as_csv else label, _LOSSY.get(made, 0))

    def run() -> None:
        data: dict[str, Any] = {"source": "folder", "path": str(root), "skip_bad": True}
        if as_csv:
            data |= {"source": "csv", "path": str(root / "list.csv")}
            with (root / "list.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([("image", "label"), *rows])
        splits = loaded(settings("image_classification", data))
        skipped = {one["id"]: one["problem"] for one in splits.skipped}
        found: dict[str, Any] = {}
        for name in SPLIT_NAMES:
            part = getattr(splits, name)
            for i, id in enumerate(part.ids):
                assert id not in found, f"{id} is there twice"
                found[id] = (part.example(i), splits.labels[int(part.labels[i])])
        if as_csv and any("\udcff" in f"{path}{label}" for path, label in rows):
            assert len(found) + len(skipped) == len(rows), "lost or added images"  # by their lines
        else:
            assert set(found) | set(skipped) == set(known) | bad, f"{(set(found) | set(skipped)) ^ (set(known) | bad)}"
            assert set(skipped) == bad, f"skipped {dict(list(skipped.items())[:3])}, not {bad}"
        for id, (pixels, label) in found.items():
            expected, given, far = known[id]
            assert label.strip() == _nfc(given), f"{id} is {label!r}, not {given!r}"
            assert pixels.shape == expected.shape, f"{id} has {pixels.shape}, not {expected.shape}"
            away = int(np.abs(pixels.astype(int) - expected).max())
            assert away <= far, f"{id}: a pixel is {away} away"

    return Trial(f"pictures {n}: {'csv' if as_csv else 'folder'}, splits {split}, labels {labels!a:.60}", run)


def _printed(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _nfc(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", text).strip()


def flipped(random: Random, folder: Path, n: int) -> Trial:
    """An image with bits flipped or bytes cut, which is read or refused, by training and by `predict` alike."""
    made = KNOWN[random.integers(len(KNOWN))]
    data = bytearray(made(random)[0])
    for at in random.integers(0, len(data), random.integers(1, 8)):
        data[at] ^= 1 << int(random.integers(8))
    if random.random() < 0.3:
        del data[int(random.integers(len(data))) :]

    def run() -> None:
        from kerastune.modalities.image import IMAGE, check

        path = folder / "flipped.png"
        path.write_bytes(data)
        problem = check(bytes(data), "flipped.png").problem
        try:
            asked = IMAGE.ask([path], 1)
        except KerastuneError as error:
            assert problem, f"refused only when asked: {error}"
            raise
        assert problem is None, f"refused only in training: {problem}"
        pixels = asked.examples[0]
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3

    return Trial(f"an image {n} ({made.__name__}) with bits flipped", run)


# --- written by hand ---------------------------------------------------------------------------------------


def by_hand(folder: Path) -> Iterator[Trial]:
    """Things in a folder of images that are none; each must be a problem with its name, and stop nothing else."""

    def pipe(path: Path) -> None:
        os.mkfifo(path)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            file.truncate(2**34)

    def deep(path: Path) -> None:
        where = path.with_suffix("")
        home = os.getcwd()
        try:
            where.mkdir()
            os.chdir(where)
            for _ in range(1000):
                os.mkdir("d")
                os.chdir("d")
            Path("x.png").write_bytes(b"")
        finally:
            os.chdir(home)

    things: list[tuple[str, Callable[[Path], object], bool]] = [
        ("a pipe", pipe, True),
        ("a link to itself", lambda path: path.symlink_to(path), True),
        ("a link to nothing", lambda path: path.symlink_to("nothing"), True),
        ("a link to a device", lambda path: path.symlink_to("/dev/zero"), True),
        ("a link to a file elsewhere", lambda path: path.symlink_to("/etc/hostname"), True),
        ("a link to its parent", lambda path: path.with_suffix("").symlink_to(".."), True),
        ("a link to /", lambda path: path.with_suffix("").symlink_to("/"), True),
        ("a sparse file of 17 GB", sparse, True),
        ("a folder like an image", lambda path: path.mkdir(), False),
        ("1,000 folders inside each other", deep, True),
        ("a HEIC photo", lambda path: path.with_suffix(".heic").write_bytes(b"x"), True),
        ("a text file", lambda path: path.with_suffix(".txt").write_text("x"), False),
        ("a hidden file", lambda path: path.with_name(".hidden.png").write_text("x"), False),
        ("a system file", lambda path: path.with_name("Thumbs.db").write_text("x"), False),
    ]
    for n, (what, make, is_problem) in enumerate(things):

        def run(n: int = n, make: Callable[[Path], object] = make, is_problem: bool = is_problem) -> None:
            root = folder / f"things{n}"
            _tree(root)
            make(root / "b" / "odd.png")
            data = {"source": "folder", "path": str(root)}
            try:
                loaded(settings("image_classification", data))
                assert not is_problem, "it is not listed"
            except KerastuneError as error:
                assert is_problem, str(error)
                assert "1 problem" in str(error), str(error)[:300]
            splits = loaded(settings("image_classification", data | {"skip_bad": True}))
            subprocess.run(["rm", "-rf", root / "b" / "odd"], check=True)  # too deep for Python
            assert sum(len(getattr(splits, name)) for name in SPLIT_NAMES) == 24
            assert len(splits.skipped) == is_problem
            assert is_problem or what_is_empty(root) or splits.notes, "left out without a note"

        yield Trial(f"beside the images: {what}", run, "work")
    yield from odd_folders(folder)
    yield from odd_csvs(folder)


def what_is_empty(root: Path) -> bool:
    return any(path.is_dir() and not any(path.iterdir()) for path in root.rglob("*"))


def _tree(root: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(12):
            (root / label / f"{i}.png").write_bytes(
                encoded(Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)))
            )


def odd_folders(folder: Path) -> Iterator[Trial]:
    """What can stand in place of the data's folder."""
    where = folder / "roots"
    where.mkdir()
    os.mkfifo(where / "pipe")
    (where / "file").write_text("x")
    (where / "empty").mkdir()
    (where / "loop").symlink_to(where / "loop")
    (where / "nowhere").symlink_to("nothing")
    (where / "one" / "a").mkdir(parents=True)
    (where / "one" / "a" / "1.png").write_bytes(encoded(Image.new("RGB", (8, 8))))
    (where / "flat").mkdir()
    (where / "flat" / "1.png").write_bytes(encoded(Image.new("RGB", (8, 8))))
    (where / "many").mkdir()
    for i in range(300):
        (where / "many" / f"{i}\x1b[31m").mkdir()
    words = ["/dev/null", "/dev/zero", "x\x1b[31m", "d/" * 2000, "n" * 300, "\udcff", "/proc/self/fd"]
    for path in (*sorted(map(str, where.iterdir())), *words):

        def run(path: str = path) -> None:
            loaded(settings("image_classification", {"source": "folder", "path": path}))

        yield Trial(f"a folder at {path!r:.80}", run, "refuse")


def odd_csvs(folder: Path) -> Iterator[Trial]:
    """Paths in a CSV that lead nowhere or out: each is a problem of its line."""
    root = folder / "csvs"
    _tree(root)
    os.mkfifo(root / "pipe.png")
    (root / "out.png").symlink_to("/etc/hostname")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "in.png").symlink_to(root / "a" / "0.png")
    good = [(f"{label}/{i}.png", label) for label in "ab" for i in range(12)]
    odd = ["", " ", "../csvs/a/1.png/../../../x.png", "/etc/passwd", "a\\1.png", "a", ".", "nothing.png", "x" * 5000]
    odd += [
        "pipe.png",
        "out.png",
        "loop.png",
        "http://example.org/a.png",
        "\x1b[31m.png",
        "a/1.png\n",
        "~/x.png",
        "a//",
        "\udcff.png",
    ]
    for path in odd:

        def run(path: str = path) -> None:
            with (root / "list.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("image", "label"), *good, (path, "a")])
            data = {"source": "csv", "path": str(root / "list.csv")}
            if path.strip() == "a/1.png":  # the same file again
                splits = loaded(settings("image_classification", data))
                assert any("counted once" in note for note in splits.notes), splits.notes
                return
            splits = loaded(settings("image_classification", data | {"skip_bad": True}))
            assert sum(len(getattr(splits, name)) for name in SPLIT_NAMES) == 24
            assert len(splits.skipped) == 1, splits.skipped
            loaded(settings("image_classification", data))

        yield Trial(f"a CSV that names {path!r:.60}", run, "work" if path.strip() == "a/1.png" else "refuse")
