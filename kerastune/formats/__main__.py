"""The child process of a conversion: `python -m kerastune.formats FORMAT WORK PATH CONVERSION [layer-errors]`."""

import json
import sys
from pathlib import Path

from kerastune.formats import FORMATS
from kerastune.formats.conversion import Conversion

name, work, path, asked, *wanted = sys.argv[1:]
values = json.loads(asked)
conversion = Conversion(**{**values, "keep_float": tuple(values["keep_float"])})
converter = FORMATS[name].converter
if wanted == ["layer-errors"]:
    assert converter.layer_errors
    Path(path).write_text(json.dumps(converter.layer_errors(Path(work), conversion)), "utf-8")
else:
    converter.write(Path(work), Path(path), conversion)
