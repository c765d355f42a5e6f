"""Pictures with masks: what is read, what is refused, and how masks are kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as pycocotools
import pytest
from PIL import Image

from kerastune.data import load, masks
from kerastune.data.sources import coco_masks
from kerastune.errors import DataError
from kerastune.recipe.mask_sources import CocoMasks, MaskFolders, TfdsMasks
from tests import drawn


def settings(folder: Path, **more) -> MaskFolders:
    return MaskFolders.model_validate({"source": "masks", "path": str(folder), "classes": list(drawn.CLASSES), **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawn.write(tmp_path / "shapes", 24)


def paint(folder: Path, name: str, change) -> None:
    path = folder / "masks" / name
    Image.fromarray(change(np.asarray(Image.open(path)).copy())).save(path)


def refused(folder: Path, **more) -> str:
    with pytest.raises(DataError) as caught:
        load(settings(folder, **more))
    return caught.value.message


def test_a_mask_is_kept_byte_for_byte_and_says_what_is_on_it() -> None:
    mask = np.random.default_rng(0).choice([0, 3, 255], (31, 17)).astype(np.uint8)
    (row,) = masks.joined([masks.packed(mask)])
    np.testing.assert_array_equal(masks.unpacked(row), mask)
    assert masks.size(row) == (31, 17)
    assert np.flatnonzero(masks.present([row])[0]).tolist() == [0, 3]


def test_masks_belong_to_their_pictures(folder: Path) -> None:
    splits = load(settings(folder))
    assert splits.labels == drawn.CLASSES
    for split in (splits.train, splits.validation, splits.test):
        for i, name in enumerate(split.ids):
            expected = np.asarray(Image.open(folder / name.replace("images", "masks")))
            np.testing.assert_array_equal(masks.unpacked(split.labels[i]), expected)


def test_declared_splits_are_kept(tmp_path: Path) -> None:
    for n, split in enumerate(("train", "validation", "test")):
        drawn.write(tmp_path / split, 4, seed=n)
    splits = load(settings(tmp_path))
    assert [len(one) for one in (splits.train, splits.validation, splits.test)] == [4, 4, 4]


def test_numbers_of_a_palette_are_the_classes_whatever_its_colours(folder: Path) -> None:
    mask = Image.open(folder / "masks" / "000.png").convert("L")
    palette = Image.fromarray(np.asarray(mask), "P")
    palette.putpalette([9, 9, 9, 0, 0, 255, 255, 0, 0])
    before = load(settings(folder)).fingerprint
    palette.save(folder / "masks" / "000.png")
    assert load(settings(folder)).fingerprint == before


def test_colours_of_the_classes_are_those_of_palettes_that_all_masks_share_and_that_can_be_told_apart(tmp_path) -> None:
    def colors(name: str, palette: tuple[str, ...] = ()) -> tuple[str, ...]:
        return load(settings(drawn.write(tmp_path / name, 24, palette=palette))).colors

    assert colors("grey") == colors("ramp", ("#000000", "#010101", "#020202")) == colors("short", ("#000000",)) == ()
    assert colors("painted", drawn.COLOURS) == drawn.COLOURS
    drawn.write(tmp_path / "other", 1, palette=("#000000", "#ffffff", "#ff0000"))
    shutil.copy(tmp_path / "other" / "masks" / "000.png", tmp_path / "painted" / "masks")
    assert load(settings(tmp_path / "painted")).colors == ()


def test_painted_masks_are_read_by_their_colours(folder: Path) -> None:
    before = load(settings(folder)).fingerprint
    colours = np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in drawn.COLOURS], np.uint8)
    for path in (folder / "masks").iterdir():
        paint(folder, path.name, lambda mask: colours[mask])
    assert "data.colors says which class" in refused(folder)
    splits = load(settings(folder, colors=list(drawn.COLOURS)))
    assert (splits.fingerprint, splits.colors) == (before, drawn.COLOURS)


def test_ignored_pixels_are_no_class(folder: Path) -> None:
    def without_corner(mask: np.ndarray) -> np.ndarray:
        mask[:5, :5] = 200
        return mask

    for path in (folder / "masks").iterdir():
        paint(folder, path.name, without_corner)
    splits = load(settings(folder, ignore=200))
    assert (masks.unpacked(splits.train.labels[0])[:5, :5] == masks.IGNORED).all()
    assert "has pixels of the value 200: classes are 0 to 2, and data.ignore = 255" in refused(folder)


def test_everything_wrong_is_listed_at_once(folder: Path) -> None:
    (folder / "masks" / "000.png").unlink()
    paint(folder, "001.png", lambda mask: mask[:, :40])
    paint(folder, "002.png", lambda mask: mask + 7)
    (folder / "masks" / "003.png").write_bytes((folder / "masks" / "003.png").read_bytes()[:60])
    Image.open(folder / "images" / "004.png").save(folder / "masks" / "004.jpg")
    (folder / "masks" / "004.png").unlink()
    told = refused(folder)
    assert "5 problems" in told
    assert "images/000.png: has no mask in masks/" in told
    assert "masks/001.png: has 40 x 64 pixels, but its picture images/001.png has 64 x 64" in told
    assert "masks/002.png: has pixels of the values 7, 8, 9" in told
    assert "masks/003.png: is damaged" in told
    assert "masks/004.jpg: is a JPEG image, whose pixels are not exact" in told


def test_a_mask_without_a_picture_is_counted(folder: Path) -> None:
    shutil.copy(folder / "masks" / "000.png", folder / "masks" / "none.png")
    assert "1 mask without a picture left out: masks/none.png" in load(settings(folder)).notes


def test_one_picture_with_two_masks_is_a_problem(folder: Path) -> None:
    shutil.copy(folder / "images" / "000.png", folder / "images" / "001.png")
    assert "is the same image as" in refused(folder)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"classes": ["one", "one"]}, "names a class twice"),
        ({"colors": ["#000000"]}, "1 colours for 3 classes"),
        ({"ignore": 1}, "also the value of the class 'square'"),
        ({"image_size": 100}, "multiple of 32"),
        ({"colors": ["red", "#000000", "#ffffff"]}, "is no colour such as"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(folder: Path, more, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings(folder, **more)


def test_a_folder_without_the_layout_is_explained(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "holds neither images/ nor train/images/" in refused(tmp_path)


def test_a_tfds_data_set_has_masks_too(tmp_path: Path) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    scenes = list(drawn.scenes(12))
    pictures, maps = (np.stack(several) for several in zip(*scenes, strict=True))
    features = {
        "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
        "segmentation_mask": tfds.features.Image(shape=(64, 64, 1), encoding_format="png"),
    }
    records = {"image": pictures, "segmentation_mask": maps[..., None]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="shapes",
        version="1.0.0",
        data_dir=str(tmp_path),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(records)},
        features=tfds.features.FeaturesDict(features),
    )
    values = {"source": "tfds", "name": "shapes", "data_dir": str(tmp_path), "classes": list(drawn.CLASSES)}
    splits = load(TfdsMasks.model_validate(values))
    pixels, mask = splits.train.example(0), masks.unpacked(splits.train.labels[0])
    (expected,) = (other for one, other in scenes if np.array_equal(one, pixels))
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(DataError, match="has no mask called 'label'"):
        load(TfdsMasks.model_validate(values | {"mask_key": "label"}))


# --- COCO ----------------------------------------------------------------------------------------------------


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@pytest.fixture
def coco(tmp_path: Path):
    """Writes 24 pictures of 8 x 6 pixels with these annotations of each; returns their settings."""

    def write(segmentations, **more) -> CocoMasks:
        (tmp_path / "images").mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for n in range(1, 25):
            pixels = np.random.default_rng(n).integers(0, 255, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
            images.append({"id": n, "file_name": f"images/{n}.png"})
            annotations += [
                {"id": len(annotations) + k, "image_id": n, "category_id": category, "segmentation": one}
                for k, (category, one) in enumerate(segmentations, 1)
            ]
        categories = [{"id": 7, "name": "plate"}, {"id": 3, "name": "food"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations.json").write_text(json.dumps(document))
        given = {"source": "coco", "path": str(tmp_path), "classes": ["table", "food", "plate"], **more}
        return CocoMasks.model_validate(given)

    return write


def test_polygons_hold_the_pixels_whose_centres_they_hold_and_small_things_lie_on_large_ones(coco) -> None:
    splits = load(coco([(3, [square(3, 2, 1), square(4.6, 2, 1)]), (7, [square(1, 1, 4.4)])]))
    assert splits.labels == ("table", "food", "plate")
    expected = np.zeros((6, 8), np.uint8)
    expected[1:5, 1:5] = 2
    expected[2, [3, 5]] = 1  # the second square holds the centre at 5.5, but not that at 4.5
    np.testing.assert_array_equal(masks.unpacked(splits.train.labels[0]), expected)


def test_a_polygon_is_pycocotools_s_but_for_its_border() -> None:
    points = np.random.default_rng(0).uniform(-20, 120, (7, 2))
    theirs = pycocotools.decode(pycocotools.merge(pycocotools.frPyObjects([points.ravel().tolist()], 90, 100)))
    ours = coco_masks.filled(points, 90, 100)
    assert (ours != theirs).mean() < 0.02
    assert 0.1 < ours.mean() < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_pycocotools_s(seed: int) -> None:
    region = np.random.default_rng(seed).random((31, 47)) < 0.02 * 10**seed
    text = pycocotools.encode(np.asfortranarray(region.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(coco_masks.run_lengths({"size": [31, 47], "counts": text}, 31, 47), region)


def test_plain_run_lengths_go_down_the_columns(coco) -> None:
    splits = load(coco([(7, [square(0, 0, 3)]), (3, {"size": [6, 8], "counts": [7, 2, 39]})]))
    assert np.argwhere(masks.unpacked(splits.train.labels[0]) == 1).tolist() == [[1, 1], [2, 1]]


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ([], "has no segmentation"),
        ([[1, 2, 3, 4]], "has a segmentation that is no list of polygons"),
        ({"size": [8, 6], "counts": [48]}, r"has run lengths for .* \[8, 6\], but its picture has \[6, 8\]"),
        ({"size": [6, 8], "counts": [40]}, "has run lengths that are not 48 pixels"),
        ({"size": [6, 8], "counts": "00é"}, "has run lengths that are not 48 pixels"),
    ],
)
def test_an_annotation_that_cannot_be_drawn_is_a_problem(coco, shape, why: str) -> None:
    with pytest.raises(DataError, match=f"annotation 2: {why}"):
        load(coco([(7, [square(0, 0, 3)]), (3, shape)]))


def test_categories_that_are_no_classes_are_named_with_the_list_to_use(coco) -> None:
    with pytest.raises(DataError, match=r"does not name food; .* has no category fork") as caught:
        load(coco([(7, [square(0, 0, 3)])], classes=["table", "plate", "fork"]))
    assert caught.value.hint is not None and "data.classes = ['table', 'plate', 'food']" in caught.value.hint
