"""One module a task: build the model, feed it, score it, and say what its device sees.

A task module has `build`, `batches`, `loss`, `metric`, `scores`, `metrics`, `device_function` and `golden`.
"""

from types import ModuleType

from kerastune.tasks import image_classification

TASKS: dict[str, ModuleType] = {"image_classification": image_classification}
