"""What a converter is asked for; it travels to the converter's process as JSON."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conversion:
    """How one signature of a traced model becomes a file.

    Attributes:
        signature: the signature it is made from; a SavedModel is made from "serving".
        quantize: one of `kerastune.recipe.QUANTIZATIONS` of the format.
        io: dtype of the inputs and outputs of an "int8" TFLite file.
        calibration: WORK/<calibration>.npz holds the inputs that int8 ranges are measured on.
        keep_float: names of the layers (`tflite.layer_errors`) that "int8" leaves in float32.
    """

    signature: str
    quantize: str = "none"
    io: str = "float32"
    calibration: str = "calibration"
    keep_float: tuple[str, ...] = ()
