"""Schedules and the optimizer chain.

What a sweep may vary is a number that the compiled step takes as an argument (`hyper`), never a constant in
it: the learning rate and the weight decay enter at every update, so changing them compiles nothing anew and
members that differ only in them can be stacked.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from fer_jax.errors import UserError

SCHEDULES = ("constant", "cosine", "step")


def make_schedule(config: ConfigDict, *, steps_per_epoch: int, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """The learning rate's course as a factor in 0..1 of its peak: step -> float32.

    `cosine` falls to 0 after the last step; `step` multiplies by `decay_factor` after each of `decay_epochs`;
    either may start with a linear warm-up of `warmup_epochs`.

    Raises:
      UserError: unknown schedule, a warm-up as long as the run, or a negative `decay_factor`.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps and warmup > 0:
        raise UserError(f"optim.warmup_epochs = {config.warmup_epochs} is as long as the run: shorten it")
    if config.schedule == "constant":
        course = optax.constant_schedule(1.0)
    elif config.schedule == "cosine":
        course = optax.cosine_decay_schedule(1.0, total_steps - warmup)
    elif config.schedule == "step":
        if config.decay_factor < 0:
            raise UserError(f"optim.decay_factor = {config.decay_factor} is negative: use one in 0..1, e.g. 0.1")
        boundaries = {}
        for epoch in config.decay_epochs:
            step = max(round(epoch * steps_per_epoch) - warmup, 0)
            boundaries[step] = boundaries.get(step, 1.0) * config.decay_factor
        course = optax.piecewise_constant_schedule(1.0, boundaries)
    else:
        raise UserError(f"optim.schedule = {config.schedule!r} is unknown: use one of {', '.join(SCHEDULES)}")
    if not warmup:
        return course
    return lambda step: jnp.where(step < warmup, (step + 1) / warmup, course(step - warmup))


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """The chain: clip the global norm, add L2 to kernels, precondition, (decoupled decay), scale by the rate.

    `update(grads, state, params, hyper=...)` wants `hyper['learning_rate']` (at this step) and
    `hyper['weight_decay']`. L2 is what the papers mean: weight_decay/2 * sum(kernel**2) in the loss, hence
    weight_decay * kernel in the gradient, biases and BatchNorm left alone. With `decoupled=True` the kernels
    shrink by learning_rate * weight_decay instead (AdamW, Loshchilov & Hutter 2019).

    Raises:
      UserError: unknown optimizer.
    """
    momentum = optax.trace(config.momentum, nesterov=config.nesterov) if config.momentum else optax.identity()
    orthogonal = optax.chain(momentum, _orthogonalize())
    cores = {
        "sgd": momentum,
        "adam": optax.scale_by_adam(),
        "muon": optax.partition({"matrix": orthogonal, "other": optax.scale_by_adam()}, _matrices),
        "rmsprop": optax.scale_by_rms(),
        "adagrad": optax.scale_by_rss(),
    }
    if config.name not in cores:
        raise UserError(f"optim.name = {config.name!r} is unknown: use one of {', '.join(cores)}")
    core = cores[config.name]
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    steps = [clip, core, _add_decay()] if config.decoupled else [clip, _add_decay(), core]
    return optax.chain(*steps, _scale_by_rate())


def kernels(params) -> dict:
    """The tree with True at every convolution or affine kernel, False at biases and normalisation parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def _matrices(params) -> dict:
    """`matrix` for each kernel that mixes channels, `other` for those of one input channel (the first layer's of grey
    images, depthwise ones) and what is no kernel."""

    def label(param, is_kernel):
        return "matrix" if is_kernel and param.shape[-2] > 1 else "other"

    return jax.tree.map(label, params, kernels(params))


def _orthogonalize() -> optax.GradientTransformation:
    """Each kernel's update [..., C, F] as the nearest matrix of orthonormal rows or columns, all inputs by filters.

    Muon (Jordan et al. 2024): the polar factor by five Newton-Schulz steps with his coefficients. Singular values above
    a hundredth of the norm end between 0.65 and 1.25, smaller ones below that. Scaled to the root mean square of Adam's
    updates, 0.2, so that both take the same learning rate (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    """

    def orthogonal(update):
        matrix = update.reshape(-1, update.shape[-1]).astype(jnp.float32)
        tall = matrix.shape[0] > matrix.shape[1]
        wide = matrix.T if tall else matrix
        wide = wide / (jnp.linalg.norm(wide) + 1e-7)
        # A step is x <- p(x x') x, so all five are powers of the small matrix x x', and x is multiplied once: half the
        # time where a kernel is four times as long as wide. What is near 0 has its errors grow twelvefold a step, which
        # float32 bears and a GPU's TF32 would not.
        with jax.default_matmul_precision("highest"):
            gram = wide @ wide.T
            steps = []
            for _ in range(5):
                steps.append(3.4445 * jnp.eye(len(gram)) - 4.7750 * gram + 2.0315 * gram @ gram)
                gram = steps[-1] @ (gram @ steps[-1])
            wide = functools.reduce(jnp.matmul, [*steps, wide])
        return (0.2 * max(matrix.shape) ** 0.5 * (wide.T if tall else wide)).reshape(update.shape).astype(update.dtype)

    return optax.stateless(lambda updates, _: jax.tree.map(orthogonal, updates))


def _add_decay() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params, *, hyper, **_):
        def add(update, param, is_kernel):
            return update + hyper["weight_decay"] * param if is_kernel else update

        return jax.tree.map(add, updates, params, kernels(params)), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _scale_by_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, hyper, **_):
        return jax.tree.map(lambda update: -hyper["learning_rate"] * update, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
