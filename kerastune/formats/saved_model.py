"""SavedModel: the traced model as it is, with all its signatures."""

import shutil
from pathlib import Path


def write(work: Path, path: Path, signature: str, quantize: str) -> None:
    """Copies the traced SavedModel; it holds every signature."""
    shutil.copytree(work / "saved_model", path, dirs_exist_ok=True)
    # Keras's own note about the export; TF Serving has no use for it.
    (path / "fingerprint.pb").unlink(missing_ok=True)
