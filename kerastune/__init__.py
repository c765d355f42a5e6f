"""Fine-tune a pretrained KerasHub model from one recipe, and ship it with proof that it computes what was trained.

from kerastune import export, fine_tune, read_recipe, verify

run = fine_tune(read_recipe("quickstart", ["train.batch_size=16"]))
for artifact in export(run):                # the recipe's [[exports]], each verified in its own runtime
    print(artifact.folder, artifact.report)

A terminal or a notebook shows what goes on. `progress=Progress()` is silent; a subclass shows it in its own way.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastune.exporting.exporter import export
    from kerastune.predicting.inference import predict
    from kerastune.progress import Progress
    from kerastune.recipe import Export
    from kerastune.recipe import read as read_recipe
    from kerastune.training.train import evaluate, fine_tune, resume
    from kerastune.verifying.verifier import verify

__all__ = ["Export", "Progress", "evaluate", "export", "fine_tune", "predict", "read_recipe", "resume", "verify"]
__version__ = version("kerastune")

_WHERE = {
    "Export": ("recipe", "Export"),
    "Progress": ("progress", "Progress"),
    "evaluate": ("training.train", "evaluate"),
    "export": ("exporting.exporter", "export"),
    "fine_tune": ("training.train", "fine_tune"),
    "predict": ("predicting.inference", "predict"),
    "read_recipe": ("recipe", "read"),
    "resume": ("training.train", "resume"),
    "verify": ("verifying.verifier", "verify"),
}


def __getattr__(name: str) -> Any:  # imports TensorFlow, which takes seconds, only if needed
    if name in _WHERE:
        from kerastune.environment import quiet_start

        module, attribute = _WHERE[name]
        with quiet_start():
            return getattr(import_module(f"kerastune.{module}"), attribute)
    raise AttributeError(f"module 'kerastune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
