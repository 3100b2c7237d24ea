"""Several runs of one structure as one compiled program: the members of a stack.

Members of a sweep whose configs differ in `NUMBERS` alone have the same program, for these are arguments of the step
(`train.hyperparameters`), and differ besides in their initial weights, their order of the data and their keys. So
parameters, optimizer state, statistics and numbers get a leading axis of members, the step is `vmap`ped over it, and
the members are dealt out to the devices. Each keeps the run directory, and takes the steps, that it would have alone.

Under `vmap` a convolution, whose kernel differs from member to member, becomes a grouped one, which some platforms are
slow at. So there are `FORMS`, and the fastest is chosen by measuring (`measure`); one after another is always among
them, and the one form that a CPU is offered: there the others were never faster (tests/benchmarks/stacking.py).
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Sequence
from math import gcd

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from fer_jax import config as config_lib
from fer_jax import logs, metrics, ops, sharding, train
from fer_jax.course import Clock, Course, SavingPace, fresh_state
from fer_jax.data.pipeline import EvalOrder, ResidentSplit, device_memory, gather
from fer_jax.errors import UserError, unknown
from fer_jax.evaluate import eval_step
from fer_jax.run import Experiment

log = logging.getLogger(__name__)

MEMBER = "member"  # the mesh axis
NUMBERS = ("seed", "optim.learning_rate", "optim.weight_decay", "head.label_smoothing", "head.class_weight_power")
# Numbers too, but what is 0 is not compiled in.
SWITCHED = ("train.ema_decay", *(f"model.options.{name}" for name in train.RATES))

SEQUENTIAL = "sequential"  # one member after another, with one compiled step for all
FORMS = (SEQUENTIAL, *ops.CONVOLUTIONS)
MEMORY_SHARE = 0.8  # of a device's memory that a stack may take

_MEASURED_STEPS = 20
_ROUNDS = 3


def structure(config: ConfigDict) -> str:
    """What two configs must agree in for their runs to be one program."""
    fields = {}
    for name, value in config_lib.flatten(config.to_dict()).items():
        if name in SWITCHED or name.startswith("augment."):
            value = bool(value) if isinstance(value, int | float) else value
        if name not in NUMBERS:
            fields[name] = value
    return json.dumps(fields, sort_keys=True)


class Stack:
    """The programs of some members of one experiment; what differs between members has a leading axis [M, ...]."""

    def __init__(self, experiment: Experiment, configs: Sequence[ConfigDict], form: str):
        """`form` is one of `ops.CONVOLUTIONS`; the configs agree with the experiment's in `structure`.

        Raises:
          UserError: the data are streamed, while every member needs its own batches at once.
        """
        if not isinstance(experiment.splits["train"], ResidentSplit):
            raise UserError("members can be stacked only on data in device memory: --config.data.residence=device")
        members = [experiment.sibling(config) for config in configs]
        self._experiment = experiment
        self._orders = [member.order for member in members]
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0))
        devices = experiment.mesh.devices.reshape(gcd(len(members), experiment.mesh.size), -1)
        self._mesh = Mesh(devices, (MEMBER, sharding.AXIS), axis_types=(AxisType.Auto,) * 2)
        self._hyper = self.join([member.hyperparameters for member in members])
        self._form = form
        self._sums = compile_sums(experiment.recipe, self._mesh, form)

    def join(self, trees: Sequence) -> dict:
        """The trees of the members as one, dealt out to the devices."""
        joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        return jax.device_put(joined, NamedSharding(self._mesh, _MEMBERS))

    def member(self, tree, number: int):
        """One member's part of a tree, on every device."""
        return sharding.replicate(jax.tree.map(lambda leaf: leaf[number], tree), self._experiment.mesh)

    def take(self, state, keys: jax.Array, step: int, most: int) -> tuple[train.TrainState, dict]:
        """Takes up to `most` steps, to the end of the epoch at the latest: the state, and metrics [steps, M]."""
        epoch, start = divmod(step, self._orders[0].steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.stack([order.epoch(epoch) for order in self._orders], 1))
        order = self._epoch[1][start : start + most]
        steps = compile_steps(self._experiment.recipe.at(step), self._mesh, self._form)
        return steps(state, self._experiment.splits["train"].arrays, order, keys, self._hyper)

    def summaries(self, variables: dict, split: str) -> list[dict]:
        """The scores of every member on a split."""
        data, dataset = self._experiment.splits[split], self._experiment.dataset
        order = EvalOrder(data.length, self._experiment.config.eval.batch_size)
        total = None
        for batch in data.batches(order, 0, order.steps):
            sums = self._sums(variables, batch)
            total = sums if total is None else metrics.merge(total, sums)
        total = jax.device_get(total)
        parts = [jax.tree.map(lambda leaf, k=k: leaf[k], total) for k in range(len(self._orders))]
        return [metrics.summarize(sums, dataset.emotions, has_intensity=dataset.has_intensity) for sums in parts]


_MEMBERS = PartitionSpec(MEMBER)


@functools.lru_cache(maxsize=4)
def compile_steps(recipe: train.Recipe, mesh: Mesh, form: str):
    """(state [M], arrays, order [steps, M, B], keys [M], hyper [M]) -> (state, metrics [steps, M]). Donates state."""

    def member_step(state, arrays, index, key, hyper):
        batch = gather(arrays, index, jnp.ones(index.shape, bool))
        return train.train_step(state, batch, key, hyper, recipe=recipe)

    def steps(state, arrays, order, keys, hyper):
        with ops.convolutions(form):
            stacked = jax.vmap(member_step, in_axes=(0, None, 0, 0, 0))
            return lax.scan(lambda state, index: stacked(state, arrays, index, keys, hyper), state, order)

    order = PartitionSpec(None, MEMBER, sharding.AXIS)
    program = jax.shard_map(
        steps,
        mesh=mesh,
        in_specs=(_MEMBERS, sharding.REPLICATED, order, _MEMBERS, _MEMBERS),
        out_specs=(_MEMBERS, PartitionSpec(None, MEMBER)),
        check_vma=False,
    )
    return jax.jit(program, donate_argnums=0)


@functools.lru_cache(maxsize=4)
def compile_sums(recipe: train.Recipe, mesh: Mesh, form: str):
    """(variables [M], batch) -> the metric sums of every member."""
    evaluate = functools.partial(
        eval_step, model=recipe.model, head=recipe.head, input_shape=recipe.input_shape, variants=0.0
    )

    def sums(variables, batch):
        with ops.convolutions(form):
            return jax.vmap(evaluate, in_axes=(0, None))(variables, batch)

    specs = (_MEMBERS, sharding.SPLIT)
    return jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=specs, out_specs=_MEMBERS, check_vma=False))


class _Crew:
    """The courses of a stack: which still go on, their metrics, and what of them is on disk."""

    def __init__(self, courses: Sequence[Course], stack: Stack, state: train.TrainState):
        self.courses = courses
        self.failed: dict[int, str] = {}
        self._stack = stack
        self._best = jax.tree.map(jnp.copy, state)
        self._unsaved = np.zeros(len(courses), bool)  # whose best state is not on disk yet
        self._unread: list[dict] = []

    def going(self) -> list[tuple[int, Course]]:
        """Those that did not fail, with their numbers."""
        return [(k, course) for k, course in enumerate(self.courses) if k not in self.failed]

    def add(self, results: dict) -> None:
        """Takes in metrics [steps, M], which may still be being computed."""
        self._unread.append(results)

    @property
    def waiting(self) -> int:
        """Steps that no row tells of yet."""
        return len(self.going()[0][1].window) + sum(len(results["loss"]) for results in self._unread)

    def write(self) -> float | None:
        """Writes their rows; those whose loss is not finite fail. Returns the last loss of one."""
        self._read()
        loss = None
        for k, course in self.going():
            try:
                loss = course.write()
            except UserError as error:
                self.failed[k] = str(error)
        return loss

    def judge(self, summaries: Sequence[dict], state: train.TrainState) -> None:
        """Writes their scores on the validation split, and remembers the states that are the best so far."""
        better = np.zeros(len(self.courses), bool)
        for k, course in self.going():
            better[k] = course.judge(summaries[k])
        self._best = _where(better, state, self._best)
        self._unsaved |= better

    def keep_weights(self, state: train.TrainState) -> None:
        """Keeps the weights of this epoch, where `train.keep_every` asks for them."""
        for k, course in self.going():
            if course.experiment.config.train.keep_every:
                course.keep_weights(self._stack.member(state, k))

    def save(self, state: train.TrainState) -> None:
        """Writes their checkpoints."""
        self._read()
        for k, course in self.going():
            try:
                course.window.read()
            except UserError as error:
                self.failed[k] = str(error)
                continue
            best = self._stack.member(self._best, k) if self._unsaved[k] else None
            course.save(self._stack.member(state, k), best)
        self._unsaved[:] = False

    def timing(self, row: dict) -> None:
        """Writes wall-clock figures, which are those of all members together."""
        for _, course in self.going():
            course.log.timing(row | {"members": len(self.courses)})

    def close(self) -> None:
        for course in self.courses:
            course.close()

    def _read(self) -> None:
        for results in jax.device_get(self._unread):
            for k, course in self.going():
                course.add({name: values[:, k] for name, values in results.items()})
        self._unread = []


def fit(courses: Sequence[Course], form: str, *, started: float, until: int | None = None) -> dict[int, str]:
    """Trains courses that stand at one step, to the end or to the end of an epoch at step `until`, and saves them.

    Returns why members failed, by their number: one whose loss is not finite stops, its neighbours go on. The others'
    last and best states are in their checkpoints.

    Raises:
      train.Interrupted: stopped by SIGTERM or Ctrl-C after saving.
    """
    experiment = courses[0].experiment
    stop, step = until or experiment.total_steps, courses[0].step
    steps_per_epoch = experiment.order.steps_per_epoch
    images_a_step = len(courses) * experiment.order.batch_size
    stack = Stack(experiment, [course.experiment.config for course in courses], form)
    state = stack.join([course.start for course in courses])
    for course in courses:
        course.start = None  # or its memory would be kept
    keys = stack.join([course.key for course in courses])
    crew = _Crew(courses, stack, state)
    clock, pace = Clock(started), SavingPace(experiment.config.train.saving_share)
    with (
        train.Interruption() as interruption,
        logs.ProgressBar(total=stop * images_a_step, done=step * images_a_step) as bar,
    ):
        while step < stop and crew.going():
            most = 1 if _on_cpu(experiment) else train.steps_at_once(steps_per_epoch - step % steps_per_epoch)
            state, results = stack.take(state, keys, step, most)
            if most > 1:
                jax.block_until_ready(results)  # as in `train.scanned_steps`
            crew.add(results)
            images = len(results["loss"]) * images_a_step
            step += len(results["loss"])
            if row := clock.step(step, images, results):
                crew.timing(row)
            bar.advance(images)
            epoch_ends = step % steps_per_epoch == 0
            if epoch_ends or crew.waiting == experiment.config.train.log_every:  # whole rows, as of a run alone
                bar.show(loss=crew.write())
            if epoch_ends:
                clock.trained()
                if "validation" in experiment.splits:
                    summaries = stack.summaries(state.variables, "validation")
                    crew.judge(summaries, state)
                    bar.show(validation_accuracy=max(summary["accuracy"] for summary in summaries))
                crew.keep_weights(state)
                if step == stop or pace.due():
                    with pace.saving():
                        crew.save(state)
                crew.timing(clock.epoch(step))
            if interruption.signum and step < stop:
                crew.save(state)
                crew.close()
                raise train.Interrupted(interruption.signum, step)
    crew.close()
    return crew.failed


def _where(chosen: np.ndarray, state, other):
    """The members of `state` where chosen [M], else those of `other`."""

    def pick(a, b):
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, state, other)


def _on_cpu(experiment: Experiment) -> bool:
    """XLA's CPU convolutions lose their threads inside a scan: there a step at a time."""
    return experiment.mesh.devices.flat[0].platform == "cpu"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a form of training some members takes, measured."""

    form: str
    members: int
    at_once: int  # members in a stack: all, or as many as the memory holds
    seconds: float  # a step of all members


def choose(experiment: Experiment, members: int, form: str = "auto") -> Cost:
    """How to train so many members of a structure: as `form` says, or under `auto` what measuring finds the fastest.

    Raises:
      UserError: unknown form, or a stack of streamed data.
    """
    if form not in ("auto", *FORMS):
        raise unknown("form of a stack", form, ("auto", *FORMS))
    stackable = members > 1 and isinstance(experiment.splits["train"], ResidentSplit) and not _on_cpu(experiment)
    forms = (form,) if form != "auto" else FORMS if stackable else (SEQUENTIAL,)
    return measure(experiment, members, forms)[0]


def measure(experiment: Experiment, members: int, forms: Sequence[str]) -> list[Cost]:
    """Times a few steps of each form with that many members, on images of the full size; the fastest first."""
    experiment = dataclasses.replace(experiment, recipe=experiment.recipe.stages()[-1][1])
    costs = []
    for form in forms:
        if form == SEQUENTIAL:
            at_once, times = 1, _time_alone(experiment)
        else:
            at_once, times = _time_what_fits(experiment, most_members(experiment, members), form)
        costs.append(Cost(form, members, at_once, float(np.median(times)) * members / at_once))
    return sorted(costs, key=lambda cost: cost.seconds)


def _time_alone(experiment: Experiment) -> list[float]:
    """Seconds a step of the ordinary run, several times."""
    state, key = fresh_state(experiment)
    hyper = sharding.replicate(experiment.hyperparameters, experiment.mesh)
    steps = train.training_steps(
        state,
        experiment.splits["train"],
        experiment.order,
        key,
        hyper,
        recipe=experiment.recipe,
        mesh=experiment.mesh,
        stop=_ROUNDS + 1,
        most=_MEASURED_STEPS,
    )
    return _rounds(lambda: next(steps)[1])


def _time_what_fits(experiment: Experiment, members: int, form: str) -> tuple[int, list[float]]:
    """A stack of so many members, or of half as many until the memory holds it: the members, and as `_time_stack`."""
    try:
        return members, _time_stack(experiment, members, form)
    except jax.errors.JaxRuntimeError as error:
        if members == 1 or "RESOURCE_EXHAUSTED" not in str(error):
            raise
    log.info("stack: %d members at once (%s convolutions) are more than the memory holds", members, form)
    return _time_what_fits(experiment, members // 2, form)


def _time_stack(experiment: Experiment, members: int, form: str) -> list[float]:
    """Seconds a step of a stack, several times."""
    stack = Stack(experiment, [experiment.config] * members, form)
    alone, key = fresh_state(experiment)
    state, keys = stack.join([alone] * members), stack.join([key] * members)
    best = jax.tree.map(jnp.copy, state)  # as `fit` keeps it
    most = 1 if _on_cpu(experiment) else _MEASURED_STEPS

    def go_on():
        nonlocal state
        state, results = stack.take(state, keys, 0, most)
        return results

    times = _rounds(go_on)
    del best
    return times


def _rounds(go_on) -> list[float]:
    seconds = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        results = jax.block_until_ready(go_on())
        seconds.append((time.perf_counter() - began) / len(np.atleast_1d(results["loss"])))
    return seconds[1:]  # the first compiles


def bytes_a_member(experiment: Experiment) -> int:
    """Device memory of a member: its state twice (the newest and the best) and what its step needs meanwhile."""
    return sum(_bytes(experiment))


def _bytes(experiment: Experiment) -> tuple[int, int]:
    """What of `bytes_a_member` is its states, and what its step needs for a device's share of the batch."""
    state, key = fresh_state(experiment)
    split = experiment.splits["train"]
    batch = next(split.batches(experiment.order, 0, 1))
    hyper = sharding.replicate(experiment.hyperparameters, experiment.mesh)
    program = train.compile_step(experiment.recipe, experiment.mesh).lower(state, batch, key, hyper).compile()
    return 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)), program.memory_analysis().temp_size_in_bytes


def most_members(experiment: Experiment, members: int) -> int:
    """How many of so many members the devices hold at once beside the data, by an estimate; 1 at least."""
    device = experiment.mesh.devices.flat[0]
    used = (device.memory_stats() or {}).get("bytes_in_use", 0)
    free = MEMORY_SHARE * device_memory(device) - used
    states, temporary = _bytes(experiment)

    def fits(count: int) -> bool:
        dealt = gcd(count, experiment.mesh.size)  # see `Stack`: parts of the stack; the batch is cut for the rest
        return count < 2 or count // dealt * (states + temporary * dealt) <= free

    # What is left over after stacks of this size is one, too.
    return next(count for count in range(members, 0, -1) if fits(count) and fits(members % count))
