"""Folders, CSV files and TFDS data sets become the same kind of splits; the rest is refused with reasons."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerastune.data import Splits, load
from kerastune.errors import DataError
from kerastune.recipe.sources import CsvData, FolderData, TfdsData


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """40 cats and 40 dogs."""
    for seed in range(80):
        put(tmp_path / "pets" / ("cat", "dog")[seed % 2] / f"{seed}.png", picture(seed))
    return tmp_path / "pets"


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """10 cats and 10 dogs in each of train, validation and test."""
    for seed in range(60):
        split, label = ("train", "validation", "test")[seed % 3], ("cat", "dog")[seed // 3 % 2]
        put(tmp_path / "declared" / split / label / f"{seed}.png", picture(seed))
    return tmp_path / "declared"


def folder(path: Path, **settings: object) -> Splits:
    return load(FolderData.model_validate({"source": "folder", "path": str(path), **settings}))


def table(path: Path, text: str | bytes, **settings: object) -> Splits:
    put(path, text if isinstance(text, bytes) else text.encode())
    return load(CsvData.model_validate({"source": "csv", "path": str(path), **settings}))


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.hint or "cannot be read" in caught.value.message
    return str(caught.value)


def ids(splits: Splits) -> dict[str, str]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {id: name for name, part in parts.items() for id in part.ids}


# --- what comes out ----------------------------------------------------------------------------------------


def test_a_folder_gives_labels_pixels_and_digests(pets: Path) -> None:
    splits = folder(pets)
    assert splits.labels == ("cat", "dog")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 80
    assert splits.train.example(0).shape == (8, 8, 3)
    data = (pets / splits.train.ids[0]).read_bytes()
    assert splits.train.read(0) == data
    assert splits.train.digests[0] == hashlib.sha256(data).hexdigest()
    assert [splits.labels[n] for n in splits.test.labels] == [id.split("/")[0] for id in splits.test.ids]
    assert splits.notes == () and splits.skipped == ()


def test_splits_and_fingerprint_do_not_depend_on_names_or_place(pets: Path, tmp_path: Path) -> None:
    one = folder(pets)
    for n, path in enumerate(sorted(pets.glob("*/*"), reverse=True)):
        put(tmp_path / "copy" / path.parent.name / "deep" / f"{n}.png", path.read_bytes())
    two = folder(tmp_path / "copy")
    assert one.fingerprint == two.fingerprint
    assert set(one.test.digests) == set(two.test.digests)


def test_another_label_or_split_is_another_fingerprint(pets: Path) -> None:
    before = folder(pets).fingerprint
    assert folder(pets, test_fraction=0.3).fingerprint != before
    (pets / "cat").rename(pets / "kitten")
    assert folder(pets).fingerprint != before


def test_adding_a_file_moves_no_other(pets: Path) -> None:
    before = ids(folder(pets))
    put(pets / "cat" / "new.png", picture(1000))
    after = ids(folder(pets))
    assert after.pop("cat/new.png")
    assert after == before


def test_progress_reaches_the_end(pets: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    load(FolderData(source="folder", path=str(pets)), lambda *call: calls.append(call))
    assert calls[-1] == ("checking images", 80, 80)


def test_reading_data_needs_no_tensorflow() -> None:
    code = "import sys, kerastune.data; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# --- folders -----------------------------------------------------------------------------------------------


def test_declared_splits_are_kept(declared: Path) -> None:
    splits = folder(declared)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [20, 20, 20]
    assert all(id.startswith(name) for id, name in ids(splits).items())


def test_a_missing_split_comes_from_train_alone(declared: Path, tmp_path: Path) -> None:
    (declared / "validation").rename(tmp_path / "elsewhere")
    splits = folder(declared, validation_fraction=0.4)
    assert len(splits.test) == 20 and len(splits.train) + len(splits.validation) == 20
    assert all(id.startswith("train/") for id in splits.validation.ids)


def test_copies_never_straddle_splits(declared: Path) -> None:
    put(declared / "train/cat/copy.png", (declared / "test/cat/2.png").read_bytes())
    put(declared / "validation/cat/copy.png", (declared / "test/cat/2.png").read_bytes())
    splits = folder(declared)
    assert not {"train/cat/copy.png", "validation/cat/copy.png"} & set(ids(splits))
    assert splits.notes == (
        "1 image left out of train: exact copies of test images",
        "1 image left out of validation: exact copies of test images",
    )


def test_copies_land_together_where_we_split(pets: Path) -> None:
    for path in list(pets.glob("*/*")):
        put(path.with_name("copy of " + path.name), path.read_bytes())
    splits = folder(pets)
    found = ids(splits)
    assert all(found[id] == found[id.replace("/", "/copy of ")] for id in found if "copy" not in id)
    assert "80 exact copies of another image in the same split" in splits.notes


def test_all_problems_are_listed_at_once_and_skip_bad_records_them(pets: Path) -> None:
    put(pets / "cat/empty.png", b"")
    put(pets / "cat/page.jpg", b"<html>")
    put(pets / "dog/half.png", picture(1)[:100])
    text = refused(lambda: folder(pets))
    assert text.startswith(f"3 problems in the folder {pets}:")
    assert "cat/empty.png: is empty (0 bytes)" in text and "dog/half.png: is truncated" in text
    splits = folder(pets, skip_bad=True)
    assert [entry["id"] for entry in splits.skipped] == ["cat/empty.png", "cat/page.jpg", "dog/half.png"]
    assert splits.skipped[1]["problem"] == "is not an image (starts with b'<html>')"
    assert len(ids(splits)) == 80


def test_only_the_first_fifty_problems_are_listed(pets: Path) -> None:
    for n in range(53):
        put(pets / "cat" / f"bad{n:02}.png", b"")
    text = refused(lambda: folder(pets))
    assert "bad49.png" in text and "bad50.png" not in text and "and 3 more" in text


def test_one_label_only_is_refused_even_with_skip_bad(tmp_path: Path) -> None:
    for seed in range(5):
        put(tmp_path / "x/cat" / f"{seed}.png", picture(seed))
    assert "Only one label" in refused(lambda: folder(tmp_path / "x", skip_bad=True))


def test_a_label_with_one_image_is_refused_or_left_out(pets: Path) -> None:
    put(pets / "emu/1.png", picture(500))
    assert "label 'emu': has only one usable image (emu/1.png)" in refused(lambda: folder(pets))
    splits = folder(pets, skip_bad=True)
    assert splits.labels == ("cat", "dog") and splits.skipped[0]["id"] == "label 'emu'"


def test_the_same_image_under_two_labels_is_refused_or_left_out(pets: Path) -> None:
    put(pets / "dog/0.png", picture(0))
    text = refused(lambda: folder(pets))
    assert "dog/0.png: is the same image as cat/0.png: one image, 2 labels" in text
    assert not {"cat/0.png", "dog/0.png"} & set(ids(folder(pets, skip_bad=True)))


def test_a_label_without_training_images_is_refused(declared: Path) -> None:
    for seed in (500, 501):
        put(declared / "test/emu" / f"{seed}.png", picture(seed))
    assert "label 'emu': has no training image; in test: 2 images" in refused(lambda: folder(declared))


def test_a_split_too_small_to_measure_is_refused(pets: Path) -> None:
    assert "raise data.test_fraction = 0.001" in refused(lambda: folder(pets, test_fraction=0.001))


def test_a_fraction_of_zero_needs_a_declared_split(pets: Path, declared: Path) -> None:
    assert "Set data.test_fraction" in refused(lambda: folder(pets, test_fraction=0.0))
    assert "Set data.validation_fraction" in refused(lambda: folder(pets, validation_fraction=0.0))
    assert len(folder(declared, test_fraction=0.0, validation_fraction=0.0).test) == 20


def test_clutter_is_ignored_and_other_files_are_counted(pets: Path) -> None:
    for name in (".DS_Store", "cat/.hidden.png", "cat/Thumbs.db", "__MACOSX/cat/a.png"):
        put(pets / name, b"x")
    for name in ("cat/a.xcf", "cat/b.xcf", "dog/notes.txt"):
        put(pets / name, b"x")
    foreign, clutter = folder(pets).notes
    assert foreign.startswith("3 files left out") and "2 .xcf, 1 .txt" in foreign
    assert clutter.startswith("4 hidden or system files and folders left out: .DS_Store, __MACOSX, cat/.hidden.png")


def test_photos_in_formats_that_are_not_read_are_listed_and_not_lost(pets: Path) -> None:
    put(pets / "cat/a.heic", b"x")
    assert "cat/a.heic: is in the format HEIC; convert it to jpg or png" in refused(lambda: folder(pets))


def test_what_was_read_specially_is_counted(pets: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (9, 9, 9, 9)).save(buffer, "PNG")
    put(pets / "cat/see through.PNG", buffer.getvalue())
    assert folder(pets).notes == ("1 image: transparency shown on white (cat/see through.PNG)",)


def test_links_that_lead_outside_are_problems(pets: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.png", picture(900))
    (pets / "cat/link.png").symlink_to(secret)
    (pets / "cat/inner.png").symlink_to(pets / "cat/0.png")
    text = refused(lambda: folder(pets))
    assert "cat/link.png: is a link to" in text and "stay inside" in text and "inner" not in text


def test_links_to_folders_do_not_go_round_in_circles(pets: Path) -> None:
    (pets / "cat/again").symlink_to(pets)
    assert "cat/again: is a link to a folder" in refused(lambda: folder(pets))


def test_a_pipe_named_like_an_image_is_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "cat/pipe.png")
    assert "cat/pipe.png: is not a file that can be read" in refused(lambda: folder(pets))


def test_unprintable_names_cannot_break_messages(pets: Path) -> None:
    put(pets / "cat/a\n\x1b[31m.png", b"")
    text = refused(lambda: folder(pets))
    assert "cat/a\\n\\x1b[31m.png: is empty" in text and "\x1b" not in text


@pytest.mark.parametrize("wrong", ["val", "valid", "Validation"])
def test_a_misnamed_split_says_what_to_rename(declared: Path, wrong: str) -> None:
    (declared / "validation").rename(declared / wrong)
    assert f"Rename {wrong} to validation" in refused(lambda: folder(declared))


def test_wrong_layouts_show_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    loose = put(tmp_path / "loose/1.png", picture(1))
    for path, what in (
        (tmp_path / "nowhere", "There is no folder"),
        (loose, "is a file, not a folder"),
        (tmp_path / "empty", "holds no image"),
        (loose.parent, "holds 1 image but no label folder"),
    ):
        text = refused(lambda path=path: folder(path))  # type: ignore[misc]
        assert what in text and "path/<label>/photo.jpg" in text


def test_an_image_beside_the_label_folders_is_a_problem(pets: Path) -> None:
    put(pets / "loose.png", picture(700))
    assert "loose.png: is in no label folder" in refused(lambda: folder(pets))


# --- CSV ---------------------------------------------------------------------------------------------------


def rows(pets: Path) -> list[str]:
    return [f"{path.relative_to(pets)},{path.parent.name}" for path in sorted(pets.glob("*/*"))]


def test_a_csv_gives_the_same_splits_as_its_folder(pets: Path) -> None:
    splits = table(pets / "all.csv", "\ufeffimage,label\r\n" + "\r\n".join(rows(pets)))
    assert splits.fingerprint == folder(pets).fingerprint
    assert ids(splits) == ids(folder(pets))


def test_csv_labels_stay_texts(pets: Path) -> None:
    text = "\n".join(rows(pets)).replace(",cat", ",001").replace(",dog", ",1")
    assert table(pets / "all.csv", "image,label\n" + text).labels == ("001", "1")


def test_csv_paths_may_be_relative_to_another_folder(pets: Path, tmp_path: Path) -> None:
    text = "label,file\n" + "\n".join(",".join(reversed(row.split(","))) for row in rows(pets))
    splits = table(tmp_path / "elsewhere/all.csv", text, images=str(pets), image_column="file")
    assert len(ids(splits)) == 80


def test_a_csv_split_column_is_obeyed(pets: Path) -> None:
    names = ("train", "validation", "test")
    text = "\n".join(f"{row},{names[n % 3]}" for n, row in enumerate(rows(pets)))
    splits = table(pets / "all.csv", "image,label,part\n" + text, split_column="part")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [27, 27, 26]


def test_csv_problems_come_with_line_numbers(pets: Path, tmp_path: Path) -> None:
    put(tmp_path / "outside.png", picture(1))
    bad = ["cat/7.jpg,cat", "cat/0.png,", ",cat", "../outside.png,cat", "cat/0.png", "cat/0.png,dog"]
    text = "image,label\n" + "\n".join([*rows(pets), *bad])
    message = refused(lambda: table(pets / "all.csv", text))
    assert message.startswith("6 problems in")
    assert "line 82: cat/7.jpg is not there" in message
    assert "line 83: has no label" in message and "line 84: has no image path" in message
    assert "line 85: ../outside.png leads outside" in message
    assert "line 86: has 1 cell where the header has 2" in message
    assert "line 87: cat/0.png is 'dog' here and 'cat' on line 2" in message
    splits = table(pets / "all.csv", text, skip_bad=True)
    assert len(splits.skipped) == 6 and len(ids(splits)) == 79


def test_csv_line_numbers_count_the_lines_of_quoted_cells(pets: Path) -> None:
    text = "image,label,remark\n" + "\n".join(f'{row},"two\nlines"' for row in rows(pets)) + "\nno.png,cat,x"
    assert "line 162: no.png is not there" in refused(lambda: table(pets / "all.csv", text))


def test_a_repeated_csv_row_counts_once(pets: Path) -> None:
    splits = table(pets / "all.csv", "image,label\n" + "\n".join([*rows(pets), rows(pets)[0]]))
    assert splits.notes == ("1 row: the same image and label as an earlier row, counted once",)


def test_an_unknown_csv_split_is_a_problem(pets: Path) -> None:
    text = "image,label,split\n" + "\n".join(row + ",train" for row in rows(pets)) + "\ncat/0.png,cat,val"
    message = refused(lambda: table(pets / "all.csv", text, split_column="split"))
    assert "line 82: the split is 'val', not one of train, validation, test" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("image,label\n", "no row"),
        ("image,labels\na,b\n", "no column 'label' (did you mean 'labels'?)"),
        ("image;label\na;b\n", 'data.delimiter = ";" separates them'),
        ("image,label,label\n", "there are 2 columns 'label'"),
        (b"image,label\na.png,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ('image,label\n"a"b,c\n', "line 2: not valid CSV"),
    ],
)
def test_a_csv_that_cannot_be_read_says_why(tmp_path: Path, text: str | bytes, what: str) -> None:
    assert what in refused(lambda: table(tmp_path / "all.csv", text))


def test_a_missing_csv_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(lambda: load(CsvData(source="csv", path=str(tmp_path / "nowhere.csv"))))


# --- TFDS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TFDS data set "tiny": 60 examples in train, 20 in test, labels b and a, and a number `size`."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder = str(tmp_path_factory.mktemp("tfds"))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), np.uint8)
    numbers = np.arange(80, dtype=np.int64)
    values = {"image": pixels, "label": numbers % 2, "size": numbers % 3 + 8}
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(names=["b", "a"]),
        "size": tfds.features.Scalar(np.int64),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=folder,
        split_datasets={
            name: tf.data.Dataset.from_tensor_slices({key: value[part] for key, value in values.items()})
            for name, part in {"train": slice(60), "test": slice(60, 80)}.items()
        },
        features=tfds.features.FeaturesDict(features),
    )
    return folder


def tiny(data_dir: str, **settings: object) -> Splits:
    values = {"source": "tfds", "name": "tiny", "data_dir": data_dir, "validation_fraction": 0.3}
    return load(TfdsData.model_validate(values | settings))


def test_a_tfds_data_set_keeps_its_order_of_labels(tfds_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    splits = tiny(tfds_dir)
    assert splits.labels == ("b", "a")
    assert len(splits.test) == 20 and len(splits.train) + len(splits.validation) == 60
    assert splits.test.ids[3] == "test[3]" and splits.test.example(3).shape == (8, 8, 3)
    assert hashlib.sha256(splits.train.read(7)).hexdigest() == splits.train.digests[7]
    assert tiny(tfds_dir).fingerprint == splits.fingerprint
    assert capsys.readouterr().out == ""


def test_tfds_slices_and_overlaps_do_not_leak(tfds_dir: str) -> None:
    splits = tiny(tfds_dir, train="train[:40]", validation="train[50%:]")
    assert len(splits.train) == 30 and len(splits.validation) == 30
    assert "10 images left out of train: exact copies of validation images" in splits.notes
    assert not set(splits.train.digests) & set(splits.validation.digests)


def without_test(tfds_dir: str, tmp_path: Path) -> str:
    copy = shutil.copytree(tfds_dir, tmp_path / "copy")
    info = json.loads((copy / "tiny/1.0.0/dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    (copy / "tiny/1.0.0/dataset_info.json").write_text(json.dumps(info))
    return str(copy)


def test_tfds_without_a_test_split_takes_it_from_train(tfds_dir: str, tmp_path: Path) -> None:
    splits = tiny(without_test(tfds_dir, tmp_path), test_fraction=0.3)
    assert len(splits.test) > 0
    assert all(id.startswith("train[") for id in splits.test.ids)
    assert splits.notes == ("tiny has no test split, so test_fraction of train is held out",)


def test_an_asset_that_is_not_fetched_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERASTUNE_HOME", str(tmp_path))
    text = refused(lambda: tiny("fashion-mnist", name="fashion_mnist"))
    assert text.endswith("hint: kerastune assets fetch fashion-mnist")


def test_a_tfds_label_without_names_is_its_number(tfds_dir: str) -> None:
    assert tiny(tfds_dir, label_key="size").labels == ("8", "9", "10")


def test_tfds_groups_stay_in_one_split(tfds_dir: str, tmp_path: Path) -> None:
    torn = refused(lambda: tiny(tfds_dir, group_key="size"))
    assert "group '8': is torn by the declared splits: 20 in train and 7 in test" in torn
    splits = tiny(without_test(tfds_dir, tmp_path), group_key="size")
    assert "3 groups kept together: 1 in train, 1 in validation, 1 in test" in splits.notes
    assert len(splits.train) == len(splits.validation) == len(splits.test) == 20


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": "tinny"}, "TFDS knows no data set 'tinny'"),
        ({"name": "Tiny!"}, "TFDS cannot open 'Tiny!'"),
        ({"name": "mnist"}, "mnist is not prepared in data_dir"),
        ({"train": "trian"}, "data.train = 'trian': Unknown split 'trian'"),
        ({"train": "train[:5000]"}, "data.train = 'train[:5000]': Requested slice"),
        ({"train": "train[5:5]"}, "selects no example"),
        ({"image_key": "photo"}, "Features: image (Image), label (ClassLabel), size"),
        ({"group_key": "speaker"}, "has no feature called 'speaker' with one value per image"),
        ({"label_key": "image"}, "has no label called 'image'"),
        ({"data_dir": "no_such_asset"}, "neither a folder nor a packaged asset"),
    ],
)
def test_wrong_tfds_settings_say_what_there_is(tfds_dir: str, settings: dict[str, str], what: str) -> None:
    assert what in refused(lambda: tiny(**({"data_dir": tfds_dir} | settings)))


def test_damaged_tfds_files_are_refused(tfds_dir: str, tmp_path: Path) -> None:
    copy = shutil.copytree(tfds_dir, tmp_path / "copy")
    for file in copy.glob("tiny/1.0.0/*train*tfrecord*"):
        file.write_bytes(file.read_bytes()[:2000])
    assert "cannot be read" in refused(lambda: tiny(str(copy)))
