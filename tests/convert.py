"""Conversions, each with what went wrong beside it: python convert.py WORK FORMAT/QUANTIZE/SIGNATURE…"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # kerastune's children start with -P

from measure import path_of, why_not

from kerastune.formats import FORMATS
from kerastune.formats.conversion import Conversion


def main(work, *jobs):
    for job in jobs:
        format, quantize, signature = key = tuple(job.split("/"))
        path = path_of(Path(work), key)
        path.parent.mkdir(parents=True)
        conversion = Conversion("serving" if format == "saved_model" else signature, quantize)
        said = ""
        try:
            FORMATS[format].converter.write(Path(work), path, conversion)
        except Exception as error:  # converters raise whatever they like
            said = f"{type(error).__name__}: {error}"
        why_not(Path(work), key).write_text(said, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
