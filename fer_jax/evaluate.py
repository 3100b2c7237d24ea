"""Exact evaluation: pad, mask, sum and count. 3,589 images are 3,589 at any batch size and device count."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from fer_jax import augment, metrics, sharding
from fer_jax.data import normalization
from fer_jax.data.pipeline import EvalOrder, Split
from fer_jax.heads import Head
from fer_jax.imaging import to_input


def eval_step(
    variables: dict, batch: dict, *, model: nn.Module, head: Head, input_shape: tuple, variants: float
) -> dict:
    """The metric sums of this device's share of a batch, summed over the mesh; runs inside shard_map."""
    if variants:
        enumerated = jax.vmap(functools.partial(augment.variants, strength=variants))(batch["image"])
        batch = {name: jnp.repeat(array, enumerated.shape[1], axis=0) for name, array in batch.items()}
        batch["image"] = enumerated.reshape(-1, *enumerated.shape[2:])
    inputs = normalization.apply(to_input(batch["image"], input_shape), variables["normalizer"])
    logits = model.apply(variables, inputs, train=False)
    losses = head.loss(logits, batch)
    return lax.psum(metrics.batch_sums(head, logits, batch, losses), sharding.AXIS)


class Evaluator:
    """Evaluates variables on whole splits; compiled once for each batch shape.

    With `variants` above 0 every image counts 28 times, as each of `augment.variants` at that strength.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        input_shape: tuple,
        mesh: Mesh,
        *,
        batch_size: int,
        variants: float = 0.0,
    ):
        step = functools.partial(eval_step, model=model, head=head, input_shape=input_shape, variants=variants)
        specs = (sharding.REPLICATED, sharding.SPLIT)
        self._step = jax.jit(
            jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=sharding.REPLICATED, check_vma=False)
        )
        self._batch_size = batch_size

    def sums(self, variables: dict, split: Split) -> dict:
        """The merged sums (`metrics.batch_sums`) of a split, on the host."""
        order = EvalOrder(split.length, self._batch_size)
        total = None
        for batch in split.batches(order, 0, order.steps):
            sums = self._step(variables, batch)
            total = sums if total is None else metrics.merge(total, sums)
        return jax.device_get(total)
