"""The device mesh and how arrays lie on it: batches are split along `data`, everything else is replicated.

Of several processes (`process.join`) each has its own devices in the mesh, and runs the same program.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from fer_jax.errors import UserError

AXIS = "data"
SPLIT = PartitionSpec(AXIS)
REPLICATED = PartitionSpec()


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all)."""
    devices = jax.devices() if devices is None else devices
    # Not jax.make_mesh, which refuses the GPUs of several machines. Explicit axes make Linen's layers raise
    # ShardingTypeError.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def on_cpu(mesh: Mesh) -> bool:
    """Whether it is of CPUs: there convolutions lose their threads in a scan, which takes three times as long."""
    return mesh.devices.flat[0].platform == "cpu"


def mapped(function: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    """The function on every device's part of its arguments, as the specs say: `jax.shard_map`.

    Without its check (check_vma), with which the gradients of replicated parameters arrive summed already: after
    `lax.pmean` they would be wrong, in silence.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def replicate(tree, mesh: Mesh):
    """The tree with every array copied to every device of the mesh."""
    return _put(tree, NamedSharding(mesh, REPLICATED))


def split_batch(batch, mesh: Mesh):
    """A tree of host arrays [B, ...], the same in every process, laid on the mesh: B/devices rows on each."""
    return _put(batch, NamedSharding(mesh, SPLIT))


def join_shares(share: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch [B, ...] of which every process has its own rows (`rows_here`) in host memory."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, SPLIT), share)


def rows_here(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch lie on this process's devices, ascending: int [batch_size / processes]."""
    slices = NamedSharding(mesh, SPLIT).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size)[rows] for rows in slices]))


def _put(tree, layout: Sharding):
    if layout.is_fully_addressable:
        return jax.device_put(tree, layout)

    def lay(leaf):
        # device_put would send it to all other processes, to compare.
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, layout, lambda rows: leaf[rows])

    return jax.tree.map(lay, tree)


@contextlib.contextmanager
def in_turn(what: str) -> Iterator[None]:
    """Lets the first process go ahead, so that what it makes on a shared disk is there for the others.

    Raises:
      UserError: all was well here, but not in another process.
    """
    if jax.process_count() == 1:
        yield
        return
    first, failed = jax.process_index() == 0, True
    if not first:
        wait_for_all(what)
    try:
        yield
        failed = False
    finally:  # also when it failed, lest the others wait for ever
        if first:
            wait_for_all(what)
        failures = multihost_utils.process_allgather(np.array(failed))
    if failures.any():
        raise UserError(f"process {failures.argmax()} failed where {what}: see what it says")


def any_process(flag: bool) -> bool:
    """Whether it is true in one of the processes, all of which ask; the same in each."""
    return bool(multihost_utils.process_allgather(np.array(flag)).any()) if jax.process_count() > 1 else flag


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def least(value: float) -> float:
    """The smallest of the processes' values; among several processes rounded to float32."""
    return float(multihost_utils.process_allgather(np.float32(value)).min()) if jax.process_count() > 1 else value


def check_alike(what: str, content, advice: str = "start all of them with the same command and data") -> None:
    """Refuses JSON content that differs among the processes.

    Raises:
      UserError: it does; in every process.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest(), np.uint8)
    if (multihost_utils.process_allgather(digest) != digest).any():
        raise UserError(f"the processes differ in {what}: {advice}")


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Refuses a batch that the devices don't divide, naming the nearest sizes that they do.

    Raises:
      UserError: `batch_size` is not a positive multiple of the number of devices.
    """
    devices = mesh.size
    if batch_size > 0 and batch_size % devices == 0:
        return
    below = batch_size // devices * devices
    nearest = [size for size in (below, below + devices) if size > 0]
    raise UserError(
        f"{field} = {batch_size} cannot be divided among {devices} devices: "
        f"use {' or '.join(map(str, nearest))} (--config.{field}={nearest[0]})"
    )
