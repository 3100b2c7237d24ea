"""The device mesh and how arrays lie on it: batches are split along `data`, everything else is replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UserError

AXIS = "data"
SPLIT = PartitionSpec(AXIS)
REPLICATED = PartitionSpec()


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all)."""
    devices = jax.devices() if devices is None else devices
    # Explicit axes (the default of make_mesh) make Linen's layers raise ShardingTypeError.
    return jax.make_mesh((len(devices),), (AXIS,), devices=np.array(devices), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """The tree with every array copied to every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def split_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A host batch [B, ...] laid on the mesh, B/devices examples on each."""
    return jax.device_put(batch, NamedSharding(mesh, SPLIT))


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
