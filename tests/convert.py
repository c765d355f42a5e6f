"""Conversions, each with what went wrong beside it: python convert.py WORK FORMAT/QUANTIZE/SIGNATURE…"""

import sys
from pathlib import Path

from kerastune.formats import FORMATS
from kerastune.formats.conversion import Conversion


def main(work, *jobs):
    for job in jobs:
        format, quantize, signature = job.split("/")
        path = Path(work, f"{format}-{quantize}-{signature}.model")
        conversion = Conversion("serving" if format == "saved_model" else signature, quantize)
        said = ""
        try:
            FORMATS[format].converter.write(Path(work), path, conversion)
        except Exception as error:  # converters raise whatever they like
            said = f"{type(error).__name__}: {error}"
        path.with_suffix(".why").write_text(said, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
