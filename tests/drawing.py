"""Pictures of squares and discs with exact boxes, for tests of object detection."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"square": (220, 60, 40), "disc": (50, 90, 220)}


def scenes(count, side=64, seed=0):
    """Yields a picture and its boxes, (label, x1, y1, x2, y2) each; every eighth one shows nothing."""
    random = np.random.default_rng(seed)
    for i in range(count):
        picture = Image.fromarray((110 + random.normal(0, 12, (side, side, 3))).clip(0, 255).astype(np.uint8))
        boxes, draw = [], ImageDraw.Draw(picture)
        for _ in range(0 if i % 8 == 7 else int(random.integers(1, 3))):
            size = int(random.integers(side // 5, side // 2))
            x, y = (int(v) for v in random.integers(0, side - size, 2))
            if any(x < r and l < x + size and y < b and t < y + size for _, l, t, r, b in boxes):  # noqa: E741
                continue
            label = ("square", "disc")[int(random.integers(2))]
            shape = draw.rectangle if label == "square" else draw.ellipse
            shape((x, y, x + size - 1, y + size - 1), fill=SHAPES[label])
            boxes.append((label, x, y, x + size, y + size))
        yield picture, boxes


def coco(folder: Path, count=64, side=64, seed=0, **more):
    """Writes pictures and annotations.json. Returns the document."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    names = list(SHAPES)
    for number, (picture, boxes) in enumerate(scenes(count, side, seed), 1):
        picture.save(folder / "images" / f"{number:03}.png")
        images.append({"id": number, "file_name": f"images/{number:03}.png", "width": side, "height": side, **more})
        for label, x1, y1, x2, y2 in boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            number_of = len(annotations) + 1
            annotations.append(
                {"id": number_of, "image_id": number, "category_id": 1 + names.index(label), "bbox": box, "iscrowd": 0}
            )
    categories = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
    return document


def yolo(folder: Path, count=24, side=64):
    """Writes data.yaml with train and val, images and labels; a picture that shows nothing has no label file."""
    names = list(SHAPES)
    for number, (picture, boxes) in enumerate(scenes(count, side), 1):
        split = "val" if number % 4 == 0 else "train"
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        picture.save(folder / "images" / split / f"{number}.png")
        rows = [
            (names.index(label), (x1 + x2) / 2 / side, (y1 + y2) / 2 / side, (x2 - x1) / side, (y2 - y1) / side)
            for label, x1, y1, x2, y2 in boxes
        ]
        if rows:
            text = "".join(f"{n} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for n, x, y, w, h in rows)
            (folder / "labels" / split / f"{number}.txt").write_text(text)
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")
    return folder / "data.yaml"


def rows(folder: Path, count=24, side=64):
    """Writes a CSV with a row for each box, and an empty one for a picture that shows nothing."""
    folder.mkdir(exist_ok=True)
    with (folder / "boxes.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["image", "label", "xmin", "ymin", "xmax", "ymax"])
        for number, (picture, boxes) in enumerate(scenes(count, side), 1):
            picture.save(folder / f"{number}.png")
            out.writerows([[f"{number}.png", *box] for box in boxes] or [[f"{number}.png", "", "", "", "", ""]])
    return folder / "boxes.csv"
