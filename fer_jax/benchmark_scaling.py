"""How the cost grows with images, batch and members: the suite `scaling`, on random faces, and its picture."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fer_jax import config as config_lib
from fer_jax import models, stack, stack_cost
from fer_jax.benchmark_measure import Work, alternate, fit_line, spread
from fer_jax.benchmark_models import Settings, Start, Step, Training, config_of, random_experiment
from fer_jax.course import fresh_state
from fer_jax.run import Experiment

EPOCHS = (4, 8, 16, 32)  # steps
BATCHES = (0.5, 1, 2, 4)  # times the config's
MEMBERS = (1, 2, 4, 8)
AXES = {"images": "seconds an epoch", "batch": "seconds a step", "members": "seconds a step of all"}
_COLOURS = ("#1f5fbf", "#c2571a", "#2e8b57", "#7b4fa3", "#8a8f98")


def scaling_suite(settings: Settings) -> Iterator[dict]:
    """A row for each model and axis: the seconds at each size, and how they grow."""
    for name in settings.models:
        config = config_of(name, settings)
        experiment = random_experiment(config, images=max(EPOCHS) * config.train.batch_size)
        start = fresh_state(experiment)
        for axis, works in (
            ("images", _epochs(experiment, start)),
            ("batch", _batches(experiment, start)),
            ("members", _members(experiment)),
        ):
            times = alternate(works, rounds=settings.rounds, seconds=settings.seconds)
            sizes = [int(size) for size in works]
            yield {
                "suite": "scaling",
                "model": name,
                "dtype": models.compute_dtype(config.model.dtype).name,
                "batch": config.train.batch_size,
                "axis": axis,
                "sizes": sizes,
                "seconds": [spread(times[size]) for size in works],
                **fit_line(sizes, [spread(times[size])["median"] for size in works]),
            }


def _epochs(experiment: Experiment, start: Start) -> dict[str, Work]:
    """An epoch of each size."""

    def work(steps: int) -> Work:
        order = dataclasses.replace(experiment.order, length=steps * experiment.order.batch_size)
        training = Training(dataclasses.replace(experiment, order=order), start)

        def take(count: int) -> int:
            return training.take(count * steps) // steps

        return take

    return {str(steps * experiment.order.batch_size): work(steps) for steps in EPOCHS}


def _batches(experiment: Experiment, start: Start) -> dict[str, Work]:
    """The bare step at each batch size that the devices can divide."""
    works = {}
    for factor in BATCHES:
        batch = round(factor * experiment.order.batch_size)
        if batch and batch % experiment.mesh.size == 0:
            order = dataclasses.replace(experiment.order, batch_size=batch)
            works[str(batch)] = Step(dataclasses.replace(experiment, order=order), start).take
    return works


def _members(experiment: Experiment) -> dict[str, Work]:
    """Steps of each number of members: stacked as a sweep would do it on these devices, or one after another."""
    return {str(count): _members_work(experiment, count) for count in MEMBERS}


def _members_work(experiment: Experiment, members: int) -> Work:
    configs = [config_lib.overridden(experiment.config, {"seed": seed}) for seed in range(members)]
    plan = stack_cost.choose(experiment, members)
    if plan.form == stack_cost.SEQUENTIAL:
        siblings = [experiment.sibling(config) for config in configs]
        trainings = [Training(sibling, fresh_state(sibling)) for sibling in siblings]

        def in_turn(count: int) -> int:
            return max([training.take(count) for training in trainings])

        return in_turn
    groups = [configs[start : start + plan.at_once] for start in range(0, members, plan.at_once)]
    stacks = [_Stacked(experiment, group, plan.form) for group in groups]

    def stacked(count: int) -> int:
        return max([each.take(count) for each in stacks])

    return stacked


class _Stacked:
    """Some members as one program, a whole epoch at a time."""

    def __init__(self, experiment: Experiment, configs: Sequence, form: str):
        self._stack = stack.Stack(experiment, configs, form)
        begun = [fresh_state(experiment.sibling(config)) for config in configs]
        self._state, self._keys = (self._stack.join(trees) for trees in zip(*begun, strict=True))
        self._epoch = experiment.order.steps_per_epoch

    def take(self, count: int) -> int:
        done = 0
        while done < count:
            self._state, metrics = self._stack.take(self._state, self._keys, 0, self._epoch)
            done += self._epoch
        jax.block_until_ready(metrics)
        return done


def draw(rows: Sequence[dict], path: Path) -> None:
    """Draws a panel for each axis: seconds against size, a line for each model, its exponent beside its name."""
    figure = Figure(figsize=(12, 4), dpi=130, layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, (axis, unit) in zip(figure.subplots(1, len(AXES)), AXES.items(), strict=True):
        ticks = set()
        for row in (row for row in rows if row["axis"] == axis):
            sizes = np.array(row["sizes"], float)
            low, middle, high = (np.array([each[name] for each in row["seconds"]]) for name in ("min", "median", "max"))
            colour = _COLOURS[models.index(row["model"]) % len(_COLOURS)]
            axes.errorbar(sizes, middle, (middle - low, high - middle), fmt="o", color=colour, markersize=4, capsize=2)
            label = f"{row['model']}: size$^{{{row['exponent']:.2f}}}$"
            axes.plot(sizes, row["fixed"] + row["slope"] * sizes, color=colour, linewidth=1.4, label=label)
            ticks |= set(row["sizes"])
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel=unit)
        shown = sorted(ticks)
        axes.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.15)  # for the legend
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():
            axes.legend(frameon=False, fontsize=8, loc="upper left")
    note = "points: median, least and most; lines: a fixed cost and one for each; size$^{1.00}$ = linear"
    figure.suptitle(note, fontsize=8, color="#555555")
    figure.savefig(path)
