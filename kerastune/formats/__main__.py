"""The child process of a conversion: `python -m kerastune.formats FORMAT WORK PATH SIGNATURE QUANTIZE`."""

import sys
from pathlib import Path

from kerastune.formats import FORMATS

name, work, path, signature, quantize = sys.argv[1:]
FORMATS[name].write(Path(work), Path(path), signature, quantize)
