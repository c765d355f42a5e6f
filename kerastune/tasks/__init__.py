"""One module a task: build the model, feed it, score it, and say what its device sees.

A task module has `build`, `prepare`, `describe`, `load`; `order`, `batches`, `example`, `mixing`, `preprocessing`,
`FREE`; `truth`, `targets`, `loss`, `count`, `metric`, `scores`, and where a batch does not tell, `validated`; `BEFORE`,
whether a preset can do the task before it is tuned; `GENERATES`, and where it does, `sampled`, `samples`, `answers` and
`write_beside`.
"""

from types import ModuleType

from kerastune.tasks import causal_lm, image_classification, text_classification, text_embedding

TASKS: dict[str, ModuleType] = {
    "image_classification": image_classification,
    "text_classification": text_classification,
    "text_embedding": text_embedding,
    "causal_lm": causal_lm,
}
