"""Sources of boxes: what is read, what is refused, and what is mended and said."""

import json

import drawing
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from kerastune import data
from kerastune.data.truths import TRUTHS
from kerastune.errors import DataError
from kerastune.recipe.box_sources import BoxData


def read(**settings):
    return data.load(TypeAdapter(BoxData).validate_python(settings))


def boxes_by_name(splits):
    """The rows of each picture's truth, by the name of its file."""
    found = {}
    for split in (splits.train, splits.validation, splits.test):
        for id, rows in zip(split.ids, split.labels, strict=True):
            found[id.rpartition("/")[2]] = {(splits.labels[r["label"]], *map(float, r["corners"])) for r in rows[1:]}
    return found


def drawn(count):
    return {
        f"{n}.png": {(a, *map(float, b)) for a, *b in boxes} for n, (_, boxes) in enumerate(drawing.scenes(count), 1)
    }


@pytest.fixture
def coco(tmp_path):
    """Rewrites a COCO file after a change to its document."""
    document = drawing.coco(tmp_path / "coco", 24)

    def changed(change):
        change(document)
        (tmp_path / "coco" / "annotations.json").write_text(json.dumps(document))
        return {"source": "coco", "path": str(tmp_path / "coco")}

    return changed


def test_three_kinds_of_file_give_the_same_boxes(tmp_path):
    drawing.coco(tmp_path / "coco", 24)
    sources = (
        {"source": "coco", "path": str(tmp_path / "coco" / "annotations.json")},
        {"source": "yolo", "path": str(drawing.yolo(tmp_path / "yolo"))},
        {"source": "csv", "path": str(drawing.rows(tmp_path / "rows"))},
    )
    expected = drawn(24)
    for source in sources:
        found = boxes_by_name(read(**source, validation_fraction=0.2, test_fraction=0.2))
        assert {name.lstrip("0"): len(of) for name, of in found.items()} == {n: len(of) for n, of in expected.items()}
        for name, of in found.items():
            for ours, theirs in zip(sorted(of), sorted(expected[name.lstrip("0")]), strict=True):
                assert ours[0] == theirs[0]
                np.testing.assert_allclose(ours[1:], theirs[1:], atol=1e-3)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data set "shapes" of 24 pictures, 64 pixels high and, with a plain part at the right, 96 wide."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    names = ["square", "disc"]

    def records():
        for picture, boxes in drawing.scenes(24):
            wide = np.pad(np.asarray(picture), ((0, 0), (0, 32), (0, 0)), constant_values=99)
            corners = [[y1 / 64, x1 / 96, y2 / 64, x2 / 96] for _, x1, y1, x2, y2 in boxes]
            labels = [names.index(label) for label, *_ in boxes]
            yield {"image": wide, "objects": {"bbox": np.reshape(corners, (-1, 4)), "label": labels}}

    objects = {"bbox": tf.TensorSpec([None, 4], tf.float32), "label": tf.TensorSpec([None], tf.int64)}
    specs = {"image": tf.TensorSpec([64, 96, 3], tf.uint8), "objects": objects}
    features = {
        "image": tfds.features.Image(shape=(64, 96, 3), encoding_format="png"),
        "objects": tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=names)}
        ),
    }
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="shapes",
        version="1.0.0",
        data_dir=folder,
        split_datasets={"train": tf.data.Dataset.from_generator(records, output_signature=specs)},
        features=tfds.features.FeaturesDict(features),
    )
    return folder


def test_a_tfds_data_set_has_boxes_in_shares_of_its_pictures(tfds_dir):
    splits = read(source="tfds", name="shapes", data_dir=tfds_dir)
    assert splits.labels == ("square", "disc") and sum(map(len, splits.parts.values())) == 24
    known = {picture.tobytes(): boxes for picture, boxes in drawing.scenes(24)}
    for split in splits.parts.values():
        for i, rows in enumerate(split.labels):
            pixels = split.example(i)
            expected = known[Image.fromarray(pixels[:, :64]).tobytes()]
            assert pixels.shape == (64, 96, 3) and rows["corners"][0].tolist() == [0, 0, 96, 64]
            assert [splits.labels[n] for n in rows["label"][1:]] == [label for label, *_ in expected]
            np.testing.assert_allclose(
                rows["corners"][1:], np.reshape([box[1:] for box in expected], (-1, 4)), atol=1e-3
            )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"objects_key": "things"}, "has no boxes called 'things' / 'bbox'"),
        ({"box_key": "box"}, "has no boxes called 'objects' / 'box'"),
        ({"label_key": "bbox"}, "has no label called 'objects' / 'bbox'"),
        ({"image_key": "picture"}, "has no image called 'picture'"),
        ({"group_key": "photo"}, "has no feature called 'photo'"),
    ],
)
def test_features_that_a_tfds_data_set_lacks_are_named(tfds_dir, more, words):
    with pytest.raises(DataError, match=words) as error:
        read(source="tfds", name="shapes", data_dir=tfds_dir, **more)
    assert "Features: image (Image), objects (Sequence)." in str(error.value.hint)


def test_a_picture_is_the_first_row_of_its_truth(tmp_path):
    drawing.coco(tmp_path / "coco", 24)
    train = read(source="coco", path=str(tmp_path / "coco")).train
    assert all(rows["label"][0] == -1 and rows["corners"][0].tolist() == [0, 0, 64, 64] for rows in train.labels)
    assert min(map(len, train.labels)) == 1  # a picture that shows nothing


def test_one_class_is_enough(coco):
    def only_squares(document):
        document["annotations"] = [one for one in document["annotations"] if one["category_id"] == 1]

    splits = read(**coco(only_squares))
    assert splits.labels == ("square",)
    assert "1 label without an image left out" in splits.notes


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([30, 10, -8, 5], "is reversed: x 30 to 22"),
        ([30, 10, 0, 5], "has no area: x 30 to 30"),
        ([64, 10, 8, 5], "lies outside its picture of 64 x 64 pixels"),
        ([float("nan"), 10, 8, 5], "has a corner that is no finite number"),
    ],
)
def test_a_box_that_cannot_be_right_is_a_problem_with_its_annotation(coco, box, words):
    with pytest.raises(DataError, match=rf"annotations.json, annotation 1: {words}"):
        read(**coco(lambda document: document["annotations"][0].update(bbox=box)))


def test_all_problems_are_told_at_once(coco):
    def several(document):
        document["annotations"][0]["bbox"] = [5, 5, 0, 0]
        document["annotations"][1]["category_id"] = 0
        del document["annotations"][2]["bbox"]
        document["images"][5]["file_name"] = "images/none.png"
        document["images"][6]["width"] = 640

    with pytest.raises(DataError) as error:
        read(**coco(several))
    for words in (
        "annotation 1: has no area",
        "annotation 2: has the category_id 0, but the categories are 1, 2",
        "annotation 3: has no bbox",
        "none.png is not there",
        "was annotated at 640 x 64 pixels, but has 64 x 64",
    ):
        assert words in str(error.value)


def test_what_was_mended_is_counted(coco):
    def odd(document):
        first = document["annotations"][0]
        first.update(id=0, bbox=[-3, 10, 20, 20])
        document["annotations"].append({**first, "id": 999})

    notes = read(**coco(odd)).notes
    assert any(note.startswith("2 boxes cut at the border of the picture") for note in notes)
    assert any(note.startswith("1 box left out: the same box and label twice") for note in notes)
    assert any("annotation id 0" in note for note in notes)


def test_boxes_too_small_for_the_model_are_counted(coco):
    source = coco(lambda document: document["annotations"][0].update(bbox=[5, 5, 3, 20]))
    assert not any("finest cell" in note for note in read(**source, image_size=640).notes)
    assert any("1 of " in note and "finest cell" in note for note in read(**source, image_size=64).notes)


def test_shares_where_pixels_are_meant_are_refused(coco):
    def shares(document):
        for one in document["annotations"]:
            one["bbox"] = [0.1, 0.1, 0.3, 0.3]

    with pytest.raises(DataError, match="like shares of the picture"):
        read(**coco(shares))


def test_a_turned_photo_must_be_annotated_as_it_is_seen(coco, tmp_path):
    picture = Image.new("RGB", (64, 48), (90, 90, 90))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "coco" / "images" / "turned.jpg", exif=exif)
    image = {"id": 99, "file_name": "images/turned.jpg", "width": 64, "height": 48}
    with pytest.raises(DataError, match="annotated at 64 x 48 pixels, but has 48 x 64; its EXIF orientation turns it"):
        read(**coco(lambda document: document["images"].append(image)))


def test_tiles_of_a_photo_stay_in_one_split(tmp_path):
    document = drawing.coco(tmp_path / "coco", 40)
    for one in document["images"]:
        one["photo"] = one["id"] % 10
    (tmp_path / "coco" / "annotations.json").write_text(json.dumps(document))
    splits = read(source="coco", path=str(tmp_path / "coco"), group_key="photo", validation_fraction=0.2)
    held = [{int(id[-7:-4]) % 10 for id in split.ids} for split in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*held)) == sum(map(len, held))


def test_a_class_that_yolo_names_do_not_have_is_a_problem(tmp_path):
    path = drawing.yolo(tmp_path / "yolo")
    labels = tmp_path / "yolo" / "labels" / "train" / "1.txt"
    labels.write_text("2 0.5 0.5 0.2 0.2\n1 0.5 0.5\n0 50 50 20 20\n")
    with pytest.raises(DataError) as error:
        read(source="yolo", path=str(path))
    for words in ("1.txt, line 1: has the class 2, but names has 2, counted from 0", "line 2: has 3 numbers", "line 3"):
        assert words in str(error.value)


def test_polygons_of_yolo_give_their_boxes(tmp_path):
    path = drawing.yolo(tmp_path / "yolo")
    (tmp_path / "yolo" / "labels" / "train" / "1.txt").write_text("1 0.25 0.25 0.75 0.25 0.5 0.75\n")
    assert boxes_by_name(read(source="yolo", path=str(path)))["1.png"] == {("disc", 16, 16, 48, 48)}


def test_a_csv_row_that_contradicts_another_is_a_problem(tmp_path):
    path = drawing.rows(tmp_path / "rows")
    path.write_text(path.read_text() + "1.png,,,,,\n8.png,disc,1,1,x,9\n")
    with pytest.raises(DataError) as error:
        read(source="csv", path=str(path))
    assert "says that the picture has no box, but another line has one" in str(error.value)
    assert "has a box, but another line says that the picture has none" in str(error.value)


def test_data_without_any_box_are_refused(coco):
    with pytest.raises(DataError, match="holds no box"):
        read(**coco(lambda document: document.update(annotations=[])))


def test_pictures_are_counted_by_what_they_show(tmp_path):
    drawing.coco(tmp_path / "coco", 24)
    splits = read(source="coco", path=str(tmp_path / "coco"))
    counts = TRUTHS["boxes"].counts(splits.labels, splits.train.labels)
    assert set(counts) == {"square", "disc"} and 0 < counts["disc"] < len(splits.train)
