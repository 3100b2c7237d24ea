"""The input pipeline: which examples make step k, and how they reach the devices.

The order is a function of (seed, epoch) alone and a batch a function of the order, so a split that lies in
device memory and one that is streamed give the same batches, and a run resumes by its step number.
Images travel and rest as uint8.
"""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fer_jax import sharding
from fer_jax.data.dataset import Dataset
from fer_jax.data.rows import Rows, TaughtRows
from fer_jax.errors import UserError

log = logging.getLogger(__name__)

# The share of a device's memory that resident data may take; the rest is for weights and activations, and on a TPU for
# the copy in another layout, up to 3.4 times as large, that XLA makes of them to gather a batch.
RESIDENT_SHARE, RESIDENT_SHARE_TPU = 0.4, 0.15
PREFETCH = 2  # batches on their way to the devices while one is computed on


@dataclasses.dataclass(frozen=True)
class TrainOrder:
    """Shuffled anew each epoch; the last, incomplete batch of an epoch is left out (others each time)."""

    length: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def epoch(self, epoch: int) -> np.ndarray:
        """The examples of every step of an epoch: int32 [steps, batch]."""
        steps = self.steps_per_epoch
        permutation = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.length)
        return permutation[: steps * self.batch_size].reshape(steps, self.batch_size).astype(np.int32)

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples of a step, counted over all epochs, and the mask: int32 [B], bool [B]."""
        epoch, step = divmod(step, self.steps_per_epoch)
        return self.cached_epoch(epoch)[step], np.ones(self.batch_size, bool)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - frozen and tiny; two epochs are in use at a boundary
    def cached_epoch(self, epoch: int) -> np.ndarray:
        """As `epoch`, kept for the other parts of that epoch: not to be written to."""
        return self.epoch(epoch)


@dataclasses.dataclass(frozen=True)
class BalancedOrder(TrainOrder):
    """Each class as often as the others: the classes take turns, each goes through its own examples, shuffled.

    An epoch has as many steps as without balancing, so that examples of rare classes recur within it. Where each
    class stands is random; like the plain order it is a function of (seed, epoch).
    """

    labels: bytes = dataclasses.field(kw_only=True, repr=False)  # of an int32 array: bytes can be hashed

    def epoch(self, epoch: int) -> np.ndarray:
        """The examples of every step of an epoch: int32 [steps, batch]."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        shown = self.steps_per_epoch * self.batch_size
        labels = np.frombuffer(self.labels, np.int32)
        classes = np.unique(labels)
        turns = rng.permutation(np.resize(rng.permutation(classes), shown))
        order = np.empty(shown, np.int64)
        for label in classes:
            places = np.flatnonzero(turns == label)
            members = np.flatnonzero(labels == label)
            rounds = -(-len(places) // len(members))
            order[places] = np.concatenate([rng.permutation(members) for _ in range(rounds)])[: len(places)]
        return order.reshape(-1, self.batch_size).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class EvalOrder:
    """Every example once, in order; the last batch is padded and the padding masked."""

    length: int
    batch_size: int

    @property
    def steps(self) -> int:
        return -(-self.length // self.batch_size)

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples of a step and the mask: int32 [B], bool [B]."""
        index = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int32)
        mask = index < self.length
        return np.where(mask, index, 0).astype(np.int32), mask


Order = TrainOrder | EvalOrder


class ResidentSplit:
    """A split in device memory, a copy on every device; batches are gathered there by index."""

    def __init__(self, arrays: dict[str, np.ndarray], mesh: Mesh):
        self.arrays = sharding.replicate(arrays, mesh)
        self.length = len(arrays["label"])
        self._mesh = mesh
        specs = (sharding.REPLICATED, sharding.SPLIT, sharding.SPLIT)
        self._gather = jax.jit(sharding.mapped(gather, mesh, specs, sharding.SPLIT))

    def batches(self, order: Order, start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        """The batches of the steps start..stop-1, split over the mesh."""
        for step in range(start, stop):
            yield self._gather(self.arrays, *sharding.split_batch(order.step(step), self._mesh))


def gather(arrays: dict[str, jax.Array], index: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """The examples [B] of resident arrays as a batch."""
    return {name: jnp.take(array, index, axis=0) for name, array in arrays.items()} | {"mask": mask}


class StreamedSplit:
    """A split read from disk by Grain, in threads or worker processes, and sent ahead to the devices.

    Of several processes each reads what goes to its own devices.
    """

    def __init__(self, rows: Rows, mesh: Mesh, *, workers: int):
        self.length = len(rows)
        self._rows = rows
        self._mesh = mesh
        self._workers = workers

    def batches(self, order: Order, start: int, stop: int) -> Iterator[dict[str, jax.Array]]:
        """The batches of the steps start..stop-1, split over the mesh."""
        read = grain.ReadOptions(num_threads=max(2, min(16, os.cpu_count() or 2)), prefetch_buffer_size=8)
        places = sharding.rows_here(order.batch_size, self._mesh)
        dataset = grain.MapDataset.range(start, stop).map(functools.partial(load_rows, self._rows, order, places))
        stream = dataset.to_iter_dataset(read)
        if self._workers:
            from absl import flags

            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which only absl.app has parsed
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
        iterator = iter(stream)
        ahead = collections.deque()
        try:
            for batch in iterator:
                ahead.append(sharding.join_shares(batch, self._mesh))
                if len(ahead) > PREFETCH:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()
        finally:
            iterator.close()


def load_rows(rows: Rows, order: Order, places: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """Reads what belongs at these places int [n] of a step's batch on the host; of the others nothing is read."""
    index, mask = (array[places] for array in order.step(int(step)))
    return rows.take(index) | {"mask": mask}


Split = ResidentSplit | StreamedSplit


def choose_residence(requested: str, dataset: Dataset, mesh: Mesh) -> str:
    """`device` or `stream`: what was requested, or under `auto` what the data set's size allows."""
    if requested != "auto":
        return requested
    needed = sum(dataset.splits.values()) * int(np.prod(dataset.image_shape))
    device = mesh.local_devices[0]
    available = sharding.least(device_memory(device))  # all processes choose the same
    share = RESIDENT_SHARE_TPU if device.platform == "tpu" else RESIDENT_SHARE
    choice = "device" if needed <= share * available else "stream"
    log.info("data: %.0f MB of %.0f MB memory: %s", needed / 1e6, available / 1e6, choice)
    return choice


def load_split(
    dataset: Dataset, split: str, mesh: Mesh, *, residence: str, workers: int, intensity: np.ndarray | None = None
) -> Split:
    """The split of a data set, resident or streamed (`choose_residence`).

    Args:
      intensity: float32 [n, E], in the place of its own.
    """
    with sharding.in_turn(f"the {split} split is decoded"):
        found = dataset.arrays(split) if residence == "device" else dataset.rows(split)
    if intensity is not None:
        found = found | {"intensity": intensity} if residence == "device" else TaughtRows(found, intensity)
    return ResidentSplit(found, mesh) if residence == "device" else StreamedSplit(found, mesh, workers=workers)


def train_order(length: int, batch_size: int, seed: int, *, labels: np.ndarray | None = None) -> TrainOrder:
    """The order of training; balanced among the classes when the labels int [length] are given.

    Raises:
      UserError: the split is smaller than one batch.
    """
    if length < batch_size:
        raise UserError(
            f"the training split has {length} examples, fewer than one batch of {batch_size}: "
            f"lower --config.train.batch_size"
        )
    if labels is not None:
        return BalancedOrder(length, batch_size, seed, labels=np.asarray(labels, np.int32).tobytes())
    order = TrainOrder(length, batch_size, seed)
    if left := length % batch_size:
        log.info("each epoch leaves out %d of %d examples (an incomplete batch), others each time", left, length)
    return order


def device_memory(device: jax.Device) -> int:
    """Bytes of memory of a device, 0 where it does not say; of this machine, shared among its devices, for CPUs."""
    stats = device.memory_stats() or {}
    if device.platform != "cpu" or "bytes_limit" in stats:
        return stats.get("bytes_limit", 0)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
