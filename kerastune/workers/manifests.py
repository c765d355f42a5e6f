"""What to give Kubernetes or Slurm, so that a recipe trains on many machines. Nothing here talks to either."""

import json
import re
import shlex
from dataclasses import dataclass

from kerastune.workers import cluster

_PORT = 29400
_TASK = (
    f'{cluster.VARIABLE}="{{\\"cluster\\": {{\\"worker\\": [$all]}}, '
    '\\"task\\": {\\"type\\": \\"worker\\", \\"index\\": $rank}}"'
)
"""Sets TF_CONFIG in a shell, where $all are the quoted addresses and $rank is the number of this worker."""


@dataclass(frozen=True)
class Asked:
    """What to run, and on how many machines.

    Attributes:
        recipe: a name or a path, as each machine sees it.
        overrides: those of -s.
        out: the run folder, on a disk that all machines share, or that the first keeps.
        workers: how many machines.
        gpus: GPUs of each machine that a worker gets, 0 or 1.
        image: the container image, for Kubernetes.
    """

    recipe: str
    overrides: tuple[str, ...]
    out: str
    workers: int
    gpus: int
    image: str

    @property
    def name(self) -> str:
        """A name that Kubernetes and Slurm allow."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.recipe.removesuffix(".toml").rpartition("/")[2].lower()).strip("-")
        return f"kerastune-{plain or 'recipe'}"[:50].rstrip("-")

    @property
    def commands(self) -> list[str]:
        """Goes on with a training that was stopped; starts it where there is none (exit code 1)."""
        words = ["kerastune", "run", self.recipe, *(word for one in self.overrides for word in ("-s", one))]
        return [
            f"kerastune resume {shlex.quote(self.out)} && exit 0; code=$?",
            "[ $code = 1 ] || exit $code",
            f"exec {shlex.join(words)} -o {shlex.quote(self.out)}",
        ]


def kubernetes(asked: Asked) -> str:
    """Returns an indexed Job of `asked.workers` pods and the headless Service by which they find each other, in YAML.

    A pod that fails ends the others, and the Job starts each again; then training goes on from the last checkpoint.
    """
    name, last = asked.name, asked.workers - 1
    script = "\n".join(
        [
            "rank=$JOB_COMPLETION_INDEX",
            f"""all=$(seq -s ', ' -f '"{name}-%.0f.{name}:{_PORT}"' 0 {last})""",
            f"export {_TASK}",
            *asked.commands,
        ]
    )
    limits = f"\n          resources: {{limits: {{nvidia.com/gpu: {asked.gpus}}}}}" if asked.gpus else ""
    indented = "\n".join(f"              {line}" for line in script.splitlines())
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{job-name: {name}}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  completionMode: Indexed
  completions: {asked.workers}
  parallelism: {asked.workers}
  backoffLimit: {10 * asked.workers}
  template:
    spec:
      subdomain: {name}
      restartPolicy: OnFailure
      terminationGracePeriodSeconds: 120  # for a checkpoint
      containers:
        - name: worker
          image: {json.dumps(asked.image)}{limits}
          command: [sh, -c]
          args:
            - |
{indented}
          volumeMounts: [{{name: shared, mountPath: /shared}}]
      volumes:
        - name: shared
          persistentVolumeClaim: {{claimName: kerastune}}  # recipe, data, assets and runs; ReadWriteMany
"""


def slurm(asked: Asked) -> str:
    """Returns a batch script with one worker on each of `asked.workers` nodes; --requeue goes on after a node fails."""
    worker = "\n".join(
        [
            "rank=$SLURM_PROCID",
            f"""all=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/.*/"&:{_PORT}"/' | paste -sd, -)""",
            f"export {_TASK}",
            *asked.commands,
        ]
    )
    gpus = "\n#SBATCH --gpus-per-task=1" if asked.gpus else ""
    return f"""#!/bin/bash
#SBATCH --job-name={asked.name}
#SBATCH --nodes={asked.workers}
#SBATCH --ntasks-per-node=1{gpus}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@120

srun --kill-on-bad-exit=1 bash -c {shlex.quote(worker)}
"""
