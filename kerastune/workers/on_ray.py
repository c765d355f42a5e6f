"""Workers on a Ray cluster: Ray places them, and starts all again when one dies. The trainer knows nothing of it."""

import os
import subprocess
import sys
from typing import Any

from kerastune import run
from kerastune.environment import install
from kerastune.errors import ConverterError, KerastuneError
from kerastune.files import absolute
from kerastune.forkserver import tied


def start(arguments: list[str], out: str, count: int, restarts: int = 3) -> None:
    """Runs `kerastune run …` in `count` Ray workers, each with a GPU if there are enough; resumes it after a failure.

    Args:
        arguments: of `kerastune`, without -o.
        out: the run folder, on a disk that all nodes share, or that there is one node of.
        restarts: how often the group is started again.

    Raises:
        KerastuneError: Ray is not installed.
        ConverterError: the training failed once more than `restarts` times.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.tensorflow import TensorflowTrainer
    except ImportError as error:
        raise KerastuneError(f"Ray is not installed ({error}).", install("ray")) from error
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    settings = {"arguments": arguments, "out": str(absolute(out)), "folder": os.getcwd()}
    ray.init(ignore_reinit_error=True, log_to_driver=True)
    has_gpus = ray.cluster_resources().get("GPU", 0) >= count
    try:
        TensorflowTrainer(
            _work,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=count, use_gpu=has_gpus),
            run_config=RunConfig(failure_config=FailureConfig(max_failures=restarts)),
        ).fit()
    except Exception as error:  # Ray's errors share no class
        raise ConverterError(f"Ray could not finish the training: {str(error).strip().splitlines()[-1]}") from error


def _work(settings: dict[str, Any]) -> None:
    """Runs in each of Ray's workers, which names the others in TF_CONFIG. An own process leaves Ray's as it was."""
    has_begun = any((run.work_of(absolute(settings["out"])) / run.CHECKPOINTS).glob("[0-9]*.npz"))
    wanted = ["resume", settings["out"]] if has_begun else [*settings["arguments"], "-o", settings["out"]]
    unwanted = {"TF_USE_LEGACY_KERAS"}  # Ray sets it for Keras 2
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    command = tied([sys.executable, "-m", "kerastune", *wanted])
    code = subprocess.run(command, cwd=settings["folder"], env=environment, check=False).returncode
    if code:
        raise RuntimeError(f"kerastune {' '.join(wanted)} ended with exit code {code}")
