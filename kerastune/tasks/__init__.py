"""One module a task: build the model, feed it, score it, and say what its device sees.

A task module has `build`, `prepare`, `describe`, `load`; `order`, `batches`, `example`, `mixing`, `preprocessing`,
`FREE`; `targets`, `loss`, `metric`, `scores`.
"""

from types import ModuleType

from kerastune.tasks import image_classification, text_classification

TASKS: dict[str, ModuleType] = {
    "image_classification": image_classification,
    "text_classification": text_classification,
}
