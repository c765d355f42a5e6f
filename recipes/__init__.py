"""One docstring line, so that setuptools can map this folder into the wheel as kerastune.recipes."""
