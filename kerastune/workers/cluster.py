"""The workers that train one model together, as TF_CONFIG names them. Without TensorFlow."""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from kerastune.errors import KerastuneError, shortened

VARIABLE = "TF_CONFIG"
_ROLES = ("chief", "master", "worker")
_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):(\d{1,5})$")


@dataclass(frozen=True)
class Cluster:
    """The addresses of all workers, HOST:PORT, the chief's first, and the rank of this process among them."""

    addresses: tuple[str, ...]
    rank: int

    @property
    def count(self) -> int:
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        return self.rank == 0


ALONE = Cluster(("localhost:0",), 0)


def found() -> Cluster:
    """Returns the cluster that TF_CONFIG describes; `ALONE` without one.

    Vertex AI, SageMaker, Kubeflow's TFJob and TrainJob, and Ray set it: {"cluster": {"chief": ["host:port"], "worker":
    […]}, "task": {"type": "worker", "index": 0}}. A chief is optional; the first worker is the chief without one.

    Raises:
        KerastuneError: it does not describe such a cluster.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return ALONE
    try:
        config = json.loads(said)
        roles: dict[str, Any] = config.get("cluster") or {}
        task: dict[str, Any] = config.get("task") or {}
    except (ValueError, AttributeError) as error:
        raise _wrong(said, f"it is no JSON object ({error})") from error
    if not roles:
        return ALONE  # as Vertex AI sets it for one machine
    if not isinstance(roles, dict) or not isinstance(task, dict):
        raise _wrong(said, '"cluster" and "task" must be objects')
    if others := sorted(set(roles) - {*_ROLES, "evaluator"}):
        raise _wrong(said, f"kerastune has no use for the role {', '.join(map(repr, others))}; it has workers alone")
    addresses = [(role, index) for role in _ROLES for index in range(len(roles.get(role) or []))]
    listed = [roles[role][index] for role, index in addresses]
    bad = [one for one in listed if not isinstance(one, str) or not _ADDRESS.match(one)]
    if bad or len(set(listed)) < len(listed):
        raise _wrong(said, f"each address must be HOST:PORT, and no two the same: {listed}")
    place = (task.get("type"), task.get("index"))
    if place not in addresses:
        raise _wrong(said, f'"task" must name one of the workers, and names {place}')
    return Cluster(tuple(listed), addresses.index(place))


def config(addresses: list[str], rank: int) -> str:
    """Returns the TF_CONFIG of one of several workers."""
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})


def _wrong(said: str, why: str) -> KerastuneError:
    return KerastuneError(
        f"{VARIABLE} = {shortened(said)} is not a cluster: {why}.",
        f"Unset {VARIABLE} to train with one process, or describe the workers in it.",
    )
