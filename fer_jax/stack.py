"""Several runs of one structure as one compiled program: the members of a stack.

Members of a sweep whose configs differ in `NUMBERS` alone have the same program, for these are arguments of the step
(`train.hyperparameters`), and differ besides in their initial weights, their order of the data and their keys. So
parameters, optimizer state, statistics and numbers get a leading axis of members, the step is `vmap`ped over it, and
the members are dealt out to the devices. Each keeps the run directory, and takes the steps, that it would have alone.

Under `vmap` a convolution, whose kernel differs from member to member, becomes a grouped one, which some platforms are
slow at. So a convolution has several forms (`ops.CONVOLUTIONS`), of which `stack_cost` finds the fastest.
"""

import contextlib
import functools
import json
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
from fer_jax.course import Clock, Course, SavingPace
from fer_jax.data.pipeline import EvalOrder, ResidentSplit, gather
from fer_jax.errors import UserError
from fer_jax.evaluate import eval_step
from fer_jax.run import Experiment
from fer_jax.run_directory import full_memory_explained

MEMBER = "member"  # the mesh axis
NUMBERS = ("seed", "optim.learning_rate", "optim.weight_decay", "head.label_smoothing", "head.class_weight_power")
# Numbers too, but what is 0 is not compiled in.
SWITCHED = ("train.ema_decay", *(f"model.options.{name}" for name in config_lib.RATES))


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
        layout = NamedSharding(self._mesh, _MEMBERS)
        # One leaf after the other, as each is on every device before it is dealt out.
        return jax.tree.map(lambda *leaves: jax.device_put(jnp.stack(leaves), layout), *trees)

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
        total = metrics.summed(self._sums(variables, batch) for batch in data.batches(order, 0, order.steps))
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
    specs = (_MEMBERS, sharding.REPLICATED, order, _MEMBERS, _MEMBERS)
    program = sharding.mapped(steps, mesh, specs, (_MEMBERS, PartitionSpec(None, MEMBER)))
    return ops.jit(program, donate_argnums=0)


@functools.lru_cache(maxsize=4)
def compile_sums(recipe: train.Recipe, mesh: Mesh, form: str):
    """(variables [M], batch) -> the metric sums of every member."""
    evaluate = functools.partial(eval_step, recipe=recipe, variants=0.0)

    def sums(variables, batch):
        with ops.convolutions(form):
            return jax.vmap(evaluate, in_axes=(0, None))(variables, batch)

    return ops.jit(sharding.mapped(sums, mesh, (_MEMBERS, sharding.SPLIT), _MEMBERS))


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
        """Writes their scores on the validation split, and remembers the states that are the best so far.

        Those whose loss there is not finite fail.
        """
        better = np.zeros(len(self.courses), bool)
        for k, course in self.going():
            try:
                better[k] = course.judge(summaries[k])
            except UserError as error:
                self.failed[k] = str(error)
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


@full_memory_explained()
def fit(courses: Sequence[Course], form: str, *, started: float, until: int | None = None) -> dict[int, str]:
    """Trains courses that stand at one step, to the end or to the end of an epoch at step `until`, and saves them.

    Returns why members failed, by their number: one whose loss is not finite stops, its neighbours go on. The others'
    last and best states are in their checkpoints.

    Raises:
      train.Interrupted: stopped by one of `process.ENDING` after saving.
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
    on_device = images_a_step // experiment.mesh.size
    most = 1 if sharding.on_cpu(experiment.mesh) else train.most_steps(experiment.recipe, on_device)
    saved = None  # the step of the last checkpoints
    with (
        contextlib.closing(crew),
        train.Interruption() as interruption,
        logs.ProgressBar(total=stop * images_a_step, done=step * images_a_step) as bar,
    ):
        while step < stop and crew.going():
            count = train.steps_at_once(steps_per_epoch, step % steps_per_epoch, most)
            state, results = stack.take(state, keys, step, count)
            if count > 1:
                jax.block_until_ready(results)  # as in `train.training_steps`
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
                    saved = step
                crew.timing(clock.epoch(step))
            if interruption.signum:
                if saved != step:
                    crew.save(state)
                raise train.Interrupted(interruption.signum, f" at step {step}: saved")
    return crew.failed


def _where(chosen: np.ndarray, state, other):
    """The members of `state` where chosen [M], else those of `other`."""

    def pick(a, b):
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, state, other)
