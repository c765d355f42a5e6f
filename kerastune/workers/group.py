"""What the workers say to each other: sums of gradients, and the chief's word.

TensorFlow's MultiWorkerMirroredStrategy serves as an all-reduce alone. Variables are ordinary ones in each process, and
nothing but sums crosses between processes, so that clipping, decay, accumulation, averages and adapters need no code of
their own. Each worker sends and receives 2 (n - 1) / n of the gradients' bytes a step (ring all-reduce: Patarasuk &
Yuan 2009).
"""

import contextlib
import io
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
from tensorflow.python.eager import context

from kerastune import environment
from kerastune.errors import ConverterError, KerastuneError
from kerastune.workers import cluster

Vector = npt.NDArray[Any]
Arrays = dict[str, npt.NDArray[Any]]
Reduce = Callable[[Vector], Vector]

_PIECE = 2**20
"""Numbers that are summed at once. TensorFlow's ring adds a piece in one known order up to this size."""
_SILENT = 60.0  # seconds without a sign of life after which a worker counts as dead; a busy host may need ten
_LOOKED = 2.0  # seconds between two looks at the other workers
_ALIGNED = 16  # numbers; TensorFlow cuts a piece into a chunk for each worker, of a multiple of 64 bytes


class Group:
    """Workers that train together: several processes, or one process that plays several, or one alone.

    A batch is cut into a part for each worker. Every process must call the same methods in the same order.

    Args:
        count: how many workers there are.
        rank: of this process, from 0; 0 is the chief.
        reduce: sums a float32 or int32 vector over all processes; None where one process is all there is.
        peers: the other processes, as TensorFlow names them.

    Attributes:
        parts: the ranks whose parts of a batch this process computes.
        due: the chief's wish for a checkpoint after the next step; after it, what all have heard.
        asked: whether this process was asked to end.
        stopping: whether all have heard, with the last step, that one of them was asked to end.
    """

    def __init__(self, count: int = 1, rank: int = 0, reduce: Reduce | None = None, peers: Sequence[str] = ()) -> None:
        self.count, self.rank, self._reduce, self._peers = count, rank, reduce, peers
        self.parts = range(rank, rank + 1) if reduce else range(count)
        self.due = self.asked = self.stopping = False

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def is_apart(self) -> bool:
        """Whether there are several processes."""
        return self._reduce is not None

    def cut(self, size: int) -> list[slice]:
        """Returns the rows of a batch that each part of this process takes; none where a batch is too small for all."""
        return [slice(own.start, own.stop) for own in (self._share(rank, size) for rank in self.parts)]

    def block(self, size: int) -> range:
        """Returns the share of `size` things that this process does where each is done once."""
        return self._share(self.rank, size) if self.is_apart else range(size)

    def _share(self, rank: int, size: int) -> range:
        return range(size * rank // self.count, size * (rank + 1) // self.count)

    def total(self, vectors: Sequence[Any]) -> Any:
        """Returns the sum over all workers of a float32 [n] for each part of this process, added in the same order
        however many processes there are."""
        if self._reduce is None:
            return _ring([np.asarray(vector) for vector in vectors])
        (vector,) = vectors
        return self._summed(np.asarray(vector))

    def told(self, vectors: Sequence[Any]) -> Any:
        """Returns the total, as `total` does; on the way, all hear whether one wishes a checkpoint or the end."""
        wishes = np.array([self.due, self.asked], np.float32)
        said = [np.concatenate([vector, wishes if i == 0 else 0 * wishes]) for i, vector in enumerate(vectors)]
        summed = self.total(said)
        self.due, self.stopping = bool(summed[-2]), bool(summed[-1])
        return summed[:-2]

    def gather(self, own: Sequence[bytes]) -> list[bytes]:
        """Returns every worker's bytes, given those of the parts of this process."""
        if self._reduce is None:
            return list(own)
        (mine,) = own
        lengths = np.zeros(self.count, np.int32)
        lengths[self.rank] = len(mine)
        lengths = self._reduce(lengths)
        words = (lengths + 3) // 4
        starts = np.concatenate([[0], np.cumsum(words)])
        padded = np.frombuffer(mine.ljust(4 * words[self.rank], b"\0"), np.int32)
        whole = np.zeros(starts[-1], np.int32)
        whole[starts[self.rank] : starts[self.rank + 1]] = padded
        whole = self._summed(whole)
        cut = zip(starts[:-1], starts[1:], lengths, strict=True)
        return [whole[start:end].tobytes()[:length] for start, end, length in cut]

    def sum_rows(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns an array of which each process has filled its own rows and left the others zero, filled."""
        if self._reduce is None:
            return array
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        padded = np.zeros((len(flat) + 3) // 4 * 4, np.uint8)
        padded[: len(flat)] = flat
        return self._summed(padded.view(np.int32)).view(np.uint8)[: len(flat)].view(array.dtype).reshape(array.shape)

    def agree(self, value: Any = None) -> Any:
        """Returns the chief's value, which must be one that JSON holds; the others' are ignored."""
        if not self.is_apart:
            return value
        said = self.gather([json.dumps(value).encode() if self.is_chief else b""])
        return json.loads(said[0])

    def share(self, arrays: Arrays) -> Arrays:
        """Returns the chief's arrays."""
        return unpacked(self.gather([packed(arrays) if self.is_chief else b""])[0]) if self.is_apart else arrays

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM and Ctrl-C within the block as the wish to end, which all follow after the same step, and
        notices within seconds that another worker's process is gone.

        TensorFlow's collectives ignore SIGTERM otherwise, so that schedulers would have to kill.
        """
        if not self.is_apart or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self.asked = True  # and never taken back, as a signal may come while the others are being told

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with _watched(self._peers):
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _summed(self, vector: Vector) -> Vector:
        assert self._reduce
        pieces = [self._reduce(vector[at : at + _PIECE]) for at in range(0, len(vector), _PIECE)]
        return np.concatenate(pieces) if pieces else vector  # TensorFlow crashes on the sum of nothing


def joined(of: cluster.Cluster) -> Group:
    """Joins the other workers; call it before any other work with TensorFlow. Waits until all are there."""
    if of.count == 1:
        return Group()
    environment.prepare_gpus()
    _wait_for_slow_hosts()
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise KerastuneError(
            f"This process cannot join the other workers any more: {error}.",
            "Join before anything else uses TensorFlow.",
        ) from error
    # TensorFlow numbers collectives as they are traced: so each kind is traced once, in the same order everywhere.
    kinds = {np.dtype(dtype.as_numpy_dtype): _all_sum(strategy, dtype) for dtype in (tf.float32, tf.int32)}

    def reduce(vector: Vector) -> Vector:
        try:
            found: Vector = kinds[vector.dtype](vector).numpy()
        except tf.errors.OpError as error:
            raise ConverterError(
                f"Another worker has ended, or cannot be reached any more ({type(error).__name__}).",
                "See what it said. Start the same number of workers again: kerastune resume RUN --workers N, or the "
                "same command in each place; training goes on from the last checkpoint.",
            ) from error
        return found

    for dtype in kinds:
        reduce(np.zeros(1, dtype))
    return Group(of.count, of.rank, reduce, _peers())


def _counts(resolver: Any) -> dict[str, int]:
    """Returns how many workers there are of each role."""
    spec = resolver.cluster_spec()
    return {role: spec.num_tasks(role) for role in ("chief", "worker") if role in spec.jobs}


def _peers() -> list[str]:
    """Returns the other workers, as TensorFlow names them."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    tasks = [(role, i) for role, count in _counts(resolver).items() for i in range(count)]
    own = resolver.task_type, resolver.task_id
    return [f"/job:{role}/replica:0/task:{i}" for role, i in tasks if (role, i) != own]


@contextlib.contextmanager
def _watched(peers: Sequence[str]) -> Iterator[None]:
    """Fails every collective within the block as soon as a peer's process is gone.

    A collective that was about to begin then waits for `_SILENT` seconds otherwise. Peers that only do not answer are
    left to that: they may be busy.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOKED):
            for peer in peers:
                try:
                    context.context().check_collective_ops_peer_health(peer, round(1000 * _LOOKED))
                except tf.errors.DeadlineExceededError:
                    continue
                except tf.errors.OpError as error:
                    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, f"{peer} is gone: {error.message}")
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait_for_slow_hosts() -> None:
    """Configures heartbeats as MultiWorkerMirroredStrategy would, to which ten silent seconds are a death."""
    counts = _counts(tf.distribute.cluster_resolver.TFConfigClusterResolver())
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(counts))}/replica:0/task:0",
        heartbeat_timeout_in_ms=round(1000 * _SILENT),
        coordinated_jobs=[CoordinatedJob(name=role, num_tasks=count) for role, count in counts.items()],
    )


def _all_sum(strategy: Any, dtype: tf.DType) -> Any:
    def summed(vector: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        # A tensor from outside the replica has no device, and all_reduce refuses it.
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(vector))

    return tf.function(lambda v: strategy.run(summed, args=(v,)), input_signature=[tf.TensorSpec([None], dtype)])


def _ring(vectors: Sequence[Vector]) -> Vector:
    """Returns a sum of float32 vectors in the order of TensorFlow's ring: chunk k begins with worker k."""
    count, found = len(vectors), vectors[0].copy()
    for at in range(0, len(found) if count > 1 else 0, _PIECE):
        piece = found[at : at + _PIECE]
        size = math.ceil(math.ceil(len(piece) / count) / _ALIGNED) * _ALIGNED
        for k in range(count):
            rows = slice(at + k * size, at + min((k + 1) * size, len(piece)))
            found[rows] = vectors[k][rows]
            for other in range(k + 1, k + count):
                found[rows] += vectors[other % count][rows]
    return found


# --- arrays as bytes -----------------------------------------------------------------------------------------


def packed(arrays: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
