"""The training step and the loop around it. Read this file first.

`train_step` is a pure function of (state, batch, key, hyper): it runs on every device's share of a batch
inside `shard_map` over the mesh axis `data`, augments there, and averages gradients and BatchNorm statistics
over that axis. What is compiled in is a `Recipe`; what may vary without a new compilation is `hyper`.
"""

import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from fer_jax import augment, imaging, models, ops, process, sharding
from fer_jax.config import RATES
from fer_jax.data import normalization
from fer_jax.data.pipeline import ResidentSplit, Split, TrainOrder, gather
from fer_jax.errors import UserError
from fer_jax.heads import IGNORE, Head, class_weights, example_weights

DIVERGED = (  # what to do then
    "try a lower --config.optim.learning_rate, or --config.optim.clip_norm=1, in another --workdir; the last good "
    "checkpoint, if there was one, is kept here"
)
# Of one program: an epoch of FER2013 in batches of 64 has 448 steps. The floating-point operations take a T4
# about 15 s, and an H100 long enough that the gap between two programs does not matter.
MOST_STEPS, MOST_OPERATIONS = 512, 5e13


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes in training, and the normaliser that the weights belong to."""

    step: jax.Array  # int32, the number of steps taken: also the position in the data
    params: dict
    batch_stats: dict
    normalizer: dict  # data.normalization
    opt_state: optax.OptState
    ema: dict | None  # moving average of params and batch_stats, None when config.train.ema_decay is 0

    @property
    def variables(self) -> dict:
        """What evaluation, export and the saved weights use: the moving average where there is one."""
        averaged = self.ema or {"params": self.params, "batch_stats": self.batch_stats}
        return averaged | {"normalizer": self.normalizer}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a compiled step is made of."""

    model: nn.Module
    head: Head
    optimizer: optax.GradientTransformationExtraArgs
    schedule: Callable[[jax.Array], jax.Array]
    input_shape: tuple[int, int, int]
    # Smaller images before those of input_shape: (up to which step, pixels a side), see `train.smaller_first`.
    smaller_first: tuple[tuple[int, int], ...] = ()

    def at(self, step: int) -> "Recipe":
        """What the step after so many is made of.

        Progressive resizing, as by Tan & Le 2021, "EfficientNetV2", section 4.1.
        """
        side = next((side for end, side in self.smaller_first if step < end), None)
        shape = (side, side, self.input_shape[2]) if side else self.input_shape
        return dataclasses.replace(self, input_shape=shape, smaller_first=())


def hyperparameters(config: ConfigDict, class_counts: Sequence[int]) -> dict:
    """The numbers of a config that the step takes as arrays; `class_counts` are the training split's.

    Changing one compiles nothing anew, unless it changes between 0 and above 0 and the program leaves it out at 0
    (dropout, augmentation, the moving average).
    """
    kind, power, options = config.head.class_weights, config.head.class_weight_power, config.model.options
    weights = None if kind == "none" else class_weights(class_counts, kind=kind, power=power)
    hyper = {
        "learning_rate": config.optim.learning_rate,
        "weight_decay": config.optim.weight_decay,
        "label_smoothing": config.head.label_smoothing,
        "ema_decay": config.train.ema_decay,
        "class_weights": weights,
        # What is 0 is not compiled in.
        "dropout": {name: options[name] for name in RATES if isinstance(options.get(name), float) and options[name]},
        "augment": augment.strengths(config.augment),
    }
    return jax.tree.map(np.float32, hyper)


def init_state(recipe: Recipe, key: jax.Array, normalizer: dict, mesh: Mesh, *, ema: bool) -> TrainState:
    """A fresh state, replicated over the mesh."""
    state = _compile_init(recipe, ema)(key, jax.tree.map(jnp.asarray, normalizer))
    return sharding.replicate(state, mesh)


@functools.lru_cache(maxsize=4)  # the members of a sweep share it
def _compile_init(recipe: Recipe, ema: bool):
    def init(key, normalizer):
        variables = recipe.model.init(key, jnp.zeros((1, *recipe.input_shape)), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            normalizer=normalizer,
            opt_state=recipe.optimizer.init(params),
            ema={"params": params, "batch_stats": batch_stats} if ema else None,
        )

    return ops.jit_once(init)


def train_step(state: TrainState, batch: dict, key: jax.Array, hyper: dict, *, recipe: Recipe):
    """One step on this device's share of a batch; runs inside shard_map over `data`.

    Args:
      batch: image uint8 [B,H,W,C], label int32 [B], intensity float32 [B,E], mask bool [B] (all True here).
      key: of the run; the step's own keys are folded from it and `state.step`.
      hyper: see `hyperparameters`.

    Returns:
      The next state, and {'loss', 'accuracy', 'learning_rate'} of the whole batch.
    """
    augment_key, dropout_key, mix_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    # An example's draws depend on its place in the global batch: one device and eight draw the same.
    first = lax.axis_index(sharding.AXIS) * batch["label"].shape[0]
    of_images, of_pairs = augment.split_options(hyper["augment"])
    images = augment.augment_batch(augment_key, batch["image"], first, of_images)
    labels = {name: array for name, array in batch.items() if name != "image"}
    targets = [(labels, 1.0)]  # and the share that each example has of them
    if of_pairs:
        images, others, share = augment.mix(mix_key, images, labels, first, of_pairs, sharding.AXIS)
        targets = [(labels, share), (others, 1 - share)]
    inputs = normalization.apply(imaging.to_input(images, recipe.input_shape), state.normalizer)

    weights = [share * example_weights(target["label"], hyper["class_weights"]) for target, share in targets]
    total = jnp.maximum(lax.pmean(sum(weights).mean(), sharding.AXIS), jnp.finfo(jnp.float32).tiny)

    model = recipe.model.clone(**hyper["dropout"])

    def loss_fn(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            inputs,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = sum(
            weight * recipe.head.loss(logits, target, label_smoothing=hyper["label_smoothing"])
            for weight, (target, _) in zip(weights, targets, strict=True)
        )
        # A mean over the weights of the whole batch, not over its examples nor over this device's.
        return losses.mean() / total, (logits, updated.get("batch_stats", {}))

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = gradient(state.params)
    grads = lax.pmean(grads, sharding.AXIS)

    learning_rate = hyper["learning_rate"] * recipe.schedule(state.step)
    updates, opt_state = recipe.optimizer.update(
        grads, state.opt_state, state.params, hyper=hyper | {"learning_rate": learning_rate}
    )
    params = optax.apply_updates(state.params, updates)
    correct = recipe.head.class_probabilities(logits).argmax(-1) == batch["label"]
    counted = lax.pmean((batch["label"] != IGNORE).mean(), sharding.AXIS)
    metrics = lax.pmean({"loss": loss, "accuracy": correct.mean() / jnp.maximum(counted, 1e-9)}, sharding.AXIS)
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=_average(state.ema, {"params": params, "batch_stats": batch_stats}, state.step, hyper["ema_decay"]),
    )
    return state, metrics | {"learning_rate": learning_rate}


def _average(ema: dict | None, current: dict, step: jax.Array, decay: jax.Array) -> dict | None:
    if ema is None:
        return None
    # Early on the average follows quickly, so that it doesn't remember the initialisation (Tan & Le 2019).
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda average, value: decay * average + (1 - decay) * value, ema, current)


@functools.lru_cache(maxsize=4)  # the members of a sweep share it
def compile_step(recipe: Recipe, mesh: Mesh):
    """The jitted step on a global batch: (state, batch, key, hyper) -> (state, metrics). Donates the state."""
    replicated = sharding.REPLICATED
    step = functools.partial(train_step, recipe=recipe)
    step = sharding.mapped(step, mesh, (replicated, sharding.SPLIT, replicated, replicated), replicated)
    return ops.jit(step, donate_argnums=0)


@functools.lru_cache(maxsize=4)
def compile_epoch(recipe: Recipe, mesh: Mesh):
    """Many steps on resident data as one program: (state, arrays, order [steps, B], key, hyper) -> (state, metrics).

    Donates the state; the metrics have a leading axis of steps.
    """

    def steps(state, arrays, order, key, hyper):
        def body(state, index):
            batch = gather(arrays, index, jnp.ones(index.shape, bool))
            return train_step(state, batch, key, hyper, recipe=recipe)

        return lax.scan(body, state, order)

    replicated, by_example = sharding.REPLICATED, PartitionSpec(None, sharding.AXIS)
    specs = (replicated, replicated, by_example, replicated, replicated)
    program = sharding.mapped(steps, mesh, specs, replicated)
    return ops.jit(program, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def most_steps(recipe: Recipe, images: int) -> int:
    """How many steps one program takes at most, with so many images a step on a device.

    A signal is heeded and the progress shown between two programs alone, which therefore take seconds.
    """
    try:
        operations = 3 * images * models.forward_flops(recipe.model, recipe.input_shape)
    except UserError:  # JAX has been told to do without CPUs, which count
        return MOST_STEPS // 8
    return int(np.clip(MOST_OPERATIONS / operations, 1, MOST_STEPS))


def steps_at_once(epoch: int, start: int, most: int) -> int:
    """How many steps one program takes from step `start` of an epoch on: to its end, or to that of a part of it.

    Parts of one size, which is at most `most` and not less than half of it, are one compilation; an epoch of a length
    that has none ends in a smaller one.
    """
    sizes = [epoch] if epoch <= most else [size for size in range(most, most // 2, -1) if epoch % size == 0]
    size = sizes[0] if sizes else -(-epoch // -(-epoch // most))
    return min(size - start % size, epoch - start)


def training_steps(
    state: TrainState,
    split: Split,
    order: TrainOrder,
    key: jax.Array,
    hyper: dict,
    *,
    recipe: Recipe,
    mesh: Mesh,
    stop: int,
    most: int = MOST_STEPS,
) -> Iterator[tuple[TrainState, dict]]:
    """From `state.step` on, to step `stop`: the state and the metrics after each program, of one step or of several.

    What suits the platform; both give the same results. On CPUs and of streamed data it is a step at a time, which is
    not waited for. Else it is up to `most` steps, to the end of the epoch; the last program may pass `stop`.
    """
    first = int(state.step)
    if sharding.on_cpu(mesh) or not isinstance(split, ResidentSplit):
        for step, batch in enumerate(split.batches(order, first, stop), first):
            state, metrics = compile_step(recipe.at(step), mesh)(state, batch, key, hyper)
            yield state, metrics
        return
    step = first
    while step < stop:
        stage, (epoch, start) = recipe.at(step), divmod(step, order.steps_per_epoch)
        longest = min(most, most_steps(stage, order.batch_size // mesh.size))
        count = steps_at_once(order.steps_per_epoch, start, longest)
        index = order.cached_epoch(epoch)[start : start + count]
        state, metrics = compile_epoch(stage, mesh)(state, split.arrays, index, key, hyper)
        jax.block_until_ready(metrics)  # or all parts of an epoch would be under way before a signal is looked for
        yield state, metrics
        step += count


class Interrupted(Exception):
    """SIGTERM, Ctrl-C or the end of the terminal was caught and the state saved."""

    def __init__(self, signum: int, detail: str):
        super().__init__(f"{signal.Signals(signum).name}{detail}")
        self.signum = signum


class Interruption:
    """Remembers `process.ending_signals` instead of dying of them; a second Ctrl-C interrupts as usual."""

    def __enter__(self):
        self.signum = 0
        self._before = {}
        for signum in process.ending_signals():
            try:
                self._before[signum] = signal.signal(signum, self._remember)
            except ValueError:  # not in the main thread (a notebook's worker, a test): leave signals alone
                break
        return self

    def agreed(self, *, together: bool) -> bool:
        """Whether to stop. Several processes do when any of them is told to, at a step at which all ask `together`."""
        if jax.process_count() > 1:
            if not together:
                return False
            told = int(multihost_utils.process_allgather(np.int32(self.signum)).max())
            self.signum = told or self.signum  # which may have come meanwhile: the others hear of it the next time
            return bool(told)
        return bool(self.signum)

    def _remember(self, signum, _frame):
        self.signum = signum
        if signum == signal.SIGINT:
            signal.signal(signum, self._before[signum])

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


class Window:
    """The metrics of the steps since the last row, and their mean; may hold results still being computed."""

    def __init__(self, rows: list[dict], step: int):
        self.rows = rows  # of finished steps: plain floats
        self.step = step
        self._unread = []

    def add(self, metrics: dict) -> None:
        self._unread.append(metrics)

    def __len__(self) -> int:
        return len(self.rows) + len(self._unread)

    def read(self) -> list[dict]:
        """Waits for the results and returns all rows, one a step.

        Raises:
          UserError: a loss is not finite; names the step.
        """
        for metrics in jax.device_get(self._unread):
            columns = {name: np.atleast_1d(value) for name, value in metrics.items()}
            for values in zip(*columns.values(), strict=True):
                self.rows.append(dict(zip(columns, map(float, values), strict=True)))
                self.step += 1
                if not np.isfinite(self.rows[-1]["loss"]):
                    raise UserError(
                        f"the loss became {self.rows[-1]['loss']} at step {self.step} (learning rate "
                        f"{self.rows[-1]['learning_rate']:.3g}): {DIVERGED}"
                    )
        self._unread = []
        return self.rows

    def means(self, size: int) -> Iterator[tuple[int, dict]]:
        """Empties the window as (last step, mean) over each `size` rows."""
        rows, self.rows = self.read(), []
        first = self.step - len(rows)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            mean = {name: sum(row[name] for row in part) / len(part) for name in part[0]}
            mean["learning_rate"] = part[-1]["learning_rate"]
            yield first + start + len(part), mean
