"""What a recipe of points may ask for."""

from typing import Literal

from kerastune.recipe.settings import Recipe
from kerastune.recipe.sources import CsvData
from kerastune.tasks.image_classification.settings import Augment


class PointData(CsvData):
    """A CSV file with a column of image paths and a column of points."""

    @property
    def target(self):
        return "point"


class ImagePoint(Recipe):
    """A point in an image."""

    task: Literal["image_point"]
    data: PointData
    augment: Augment = Augment()

    @property
    def augments(self):
        return self.augment.any


RECIPE = ImagePoint
