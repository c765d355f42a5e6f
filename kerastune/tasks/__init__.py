"""One module a task: build the model, feed it, score it, and say what its device sees.

A task module has `build`, `prepare`, `describe`, `load`; `order`, `batches`, `example`, `mixing`, `preprocessing`,
`FREE`; `truth`, `targets`, `loss`, `count`, `metric`, `scores`, and where a batch does not tell, `validated`; `BEFORE`,
whether a preset can do the task before it is tuned; `GENERATES`, and where it does, `sampled`, `samples`, `answers` and
`write_beside`.
"""

from importlib import import_module
from types import ModuleType

TASKS = {
    "image_classification": "kerastune.tasks.image_classification",
    "text_classification": "kerastune.tasks.text_classification",
    "text_embedding": "kerastune.tasks.text_embedding",
    "causal_lm": "kerastune.tasks.causal_lm",
}


def get(name: str) -> ModuleType:
    """A task, which imports TensorFlow."""
    return import_module(f"{TASKS[name]}.task")
