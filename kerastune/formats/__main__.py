"""The child process of a conversion: `python -m kerastune.formats FORMAT|layer-errors WORK PATH CONVERSION`."""

import json
import sys
from pathlib import Path

from kerastune.formats import FORMATS, Conversion, tflite

name, work, path, asked = sys.argv[1:]
values = json.loads(asked)
conversion = Conversion(**{**values, "keep_float": tuple(values["keep_float"])})
if name == "layer-errors":
    Path(path).write_text(json.dumps(tflite.layer_errors(Path(work), conversion)), "utf-8")
else:
    FORMATS[name].write(Path(work), Path(path), conversion)
