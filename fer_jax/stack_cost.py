"""How members of a sweep are best trained: one after another or as a stack, how many at once; found by measuring.

One after another is always among the `FORMS`, and the one that a CPU is offered: there the others were never faster
(tests/benchmarks/stacking.py).
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from math import gcd

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import ops, sharding, train
from fer_jax.course import fresh_state
from fer_jax.data.pipeline import ResidentSplit, device_memory
from fer_jax.errors import out_of_memory, unknown
from fer_jax.run import Experiment
from fer_jax.stack import Stack

log = logging.getLogger(__name__)

SEQUENTIAL = "sequential"  # one member after another, with one compiled step for all
FORMS = (SEQUENTIAL, *ops.CONVOLUTIONS)
MEMORY_SHARE = 0.8  # of a device's memory that a stack may take

_MEASURED_STEPS = 20
_ROUNDS = 3


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
    stackable = (
        members > 1 and isinstance(experiment.splits["train"], ResidentSplit) and not sharding.on_cpu(experiment.mesh)
    )
    forms = (form,) if form != "auto" else FORMS if stackable else (SEQUENTIAL,)
    return measure(experiment, members, forms)[0]


def measure(experiment: Experiment, members: int, forms: Sequence[str]) -> list[Cost]:
    """Times a few steps of each form with that many members, on images of the full size; the fastest first.

    A form of which the memory holds not even one member is left out; its error is raised where no other is left.
    """
    recipe = dataclasses.replace(experiment.recipe, smaller_first=())
    experiment = dataclasses.replace(experiment, recipe=recipe)
    costs, refused = [], None
    for form in forms:
        try:
            if form == SEQUENTIAL:
                at_once, times = 1, _time_alone(experiment)
            else:
                at_once, times = _time_what_fits(experiment, most_members(experiment, members), form)
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            log.info("stack: the memory holds not even one member (%s)", form)
            refused = error.with_traceback(None)  # whose frames would keep the arrays
            continue
        costs.append(Cost(form, members, at_once, float(np.median(times)) * members / at_once))
    if not costs:
        raise refused
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
        stop=(_ROUNDS + 1) * _MEASURED_STEPS,  # programs of so many steps at most
        most=_MEASURED_STEPS,
    )
    return _rounds(lambda: next(steps)[1])


def _time_what_fits(experiment: Experiment, members: int, form: str) -> tuple[int, list[float]]:
    """A stack of so many members, or of half as many until the memory holds it: the members, and as `_time_stack`."""
    try:
        return members, _time_stack(experiment, members, form)
    except jax.errors.JaxRuntimeError as error:
        if members == 1 or not out_of_memory(error):
            raise
    log.info("stack: %d members at once (%s convolutions) are more than the memory holds", members, form)
    return _time_what_fits(experiment, members // 2, form)


def _time_stack(experiment: Experiment, members: int, form: str) -> list[float]:
    """Seconds a step of a stack, several times."""
    stack = Stack(experiment, [experiment.config] * members, form)
    alone, key = fresh_state(experiment)
    state, keys = stack.join([alone] * members), stack.join([key] * members)
    best = jax.tree.map(jnp.copy, state)  # as `fit` keeps it
    most = 1 if sharding.on_cpu(experiment.mesh) else _MEASURED_STEPS

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
