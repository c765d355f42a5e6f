"""Extras for microcontrollers: the model as a C array, and the memory it needs."""

import re

from kerastune.errors import ConverterError
from kerastune.verifying import runtimes
from kerastune.verifying.artifact import Artifact

_STEP = 1024  # bytes
_LARGEST = 64 * 2**20  # bytes; more than any microcontroller has

_HEADER = """\
#ifndef {guard}
#define {guard}
#include <stddef.h>
// The operators that its resolver needs: {operators}.
#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char {name}[];
extern const size_t {name}_length;
#ifdef __cplusplus
}}
#endif
#endif
"""
_SOURCE = """\
// model.tflite as a C array: C++11 or C11.
#include "model.h"
#ifndef __cplusplus
#include <stdalign.h>
#endif
alignas(16) const unsigned char {name}[] = {{
{rows}
}};
const size_t {name}_length = sizeof {name};
"""


def c_source(artifact_name: str, model: bytes) -> dict[str, str]:
    """Returns the model as C source: file name -> text. The array is called `model_<the artifact's name>`."""
    name = "model_" + re.sub(r"\W", "_", artifact_name, flags=re.ASCII)
    rows = "\n".join(",".join(map(str, model[i : i + 32])) + "," for i in range(0, len(model), 32))
    return {
        "model.h": _HEADER.format(guard=f"{name.upper()}_H", name=name, operators=", ".join(_operators(model))),
        "model.cc": _SOURCE.format(name=name, rows=rows),
    }


def _operators(model: bytes) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    found = schema.Model.GetRootAs(model, 0)
    return sorted({names[found.OperatorCodes(i).BuiltinCode()] for i in range(found.OperatorCodesLength())})


def arena_bytes(of: Artifact) -> int | None:
    """Finds the smallest arena that runs the model in TensorFlow Lite Micro, in steps of 1 KiB, or None.

    This is an upper estimate: pointers take 8 bytes here, and 4 on a microcontroller.
    """
    image = of.golden.examples[:1]

    def runs(size: int) -> bool:
        try:
            runtimes.ask(of, "tflm", image, ("--arena", str(size)))  # crashes or fails if the arena is too small
        except ConverterError:
            return False
        return True

    short, enough = 0, 64 * _STEP
    while not runs(enough):
        if enough >= _LARGEST:
            return None
        short, enough = enough, 2 * enough
    while enough - short > _STEP:
        middle = (short + enough) // 2 // _STEP * _STEP
        short, enough = (short, middle) if runs(middle) else (middle, enough)
    return enough
