"""One run under way: where it begins, its log, its checkpoints and its best weights so far.

`run.fit` takes one course to its end, `stack.fit` several at once; what each leaves in its run directory is the same.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from fer_jax import __version__, checkpoint, logs, models, sharding, train
from fer_jax.errors import UserError
from fer_jax.scores import selection_score

if TYPE_CHECKING:
    from fer_jax.run import Experiment

log = logging.getLogger(__name__)


class Course:
    """What a run keeps beside its state as it trains.

    Opening one finds the state to go on from: the last checkpoint of the run directory, or a fresh one. Of several
    processes, which all do the same, the first one's files are the run's; the others' fall into a folder that is thrown
    away, but for the checkpoints, which they write together.

    Raises:
      UserError: checkpoints that cannot be read or are of other data, or pretrained weights that do not fit.
    """

    def __init__(self, experiment: "Experiment", workdir: Path):
        self.experiment = experiment
        self.workdir = workdir
        if jax.process_index() > 0:
            self._thrown_away = tempfile.TemporaryDirectory(prefix="fer_jax")
            self.workdir = Path(self._thrown_away.name)
        self.last = checkpoint.Checkpoints(workdir / "checkpoints/last")
        self.best = checkpoint.Checkpoints(workdir / "checkpoints/best")
        self.start, self._meta, self.key = _begin(experiment, self.last, workdir)
        self.step = int(self.start.step)
        self.best.drop_after(self.step)
        self.window = train.Window(self._meta.pop("window"), self.step)
        self.log = logs.RunLog(self.workdir, step=self.step)
        if self.step < experiment.total_steps:
            logs.record_environment(self.workdir / "environment.json", step=self.step)

    @property
    def epoch(self) -> float:
        """Of the step."""
        return self.step / self.experiment.order.steps_per_epoch

    @property
    def best_score(self) -> float | None:
        """Of the best weights so far on the validation split, higher is better; None before the first evaluation."""
        return self._meta["best_score"]

    @property
    def best_step(self) -> int | None:
        """At which those weights were."""
        return self._meta["best_step"]

    def add(self, results: dict) -> None:
        """Takes in the metrics of one step, or with a leading axis of several; they may still be being computed."""
        self.window.add(results)
        self.step += results["loss"].size

    def write(self) -> float | None:
        """Writes a row for each `train.log_every` steps taken in, the last of fewer; returns the last mean loss.

        Raises:
          UserError: a loss is not finite.
        """
        loss = None
        steps_per_epoch = self.experiment.order.steps_per_epoch
        for at, mean in self.window.means(self.experiment.config.train.log_every):
            self.log.row({"step": at, "epoch": at / steps_per_epoch, "split": "train", **mean})
            loss = mean["loss"]
        return loss

    def judge(self, summary: dict) -> bool:
        """Writes the scores on the validation split; True if they are the best so far.

        Raises:
          UserError: the loss is not finite.
        """
        if summary["count"] and summary["loss"] is None:
            raise UserError(f"the loss on validation is not finite at step {self.step}: {train.DIVERGED}")
        self.log.row({"step": self.step, "epoch": self.epoch, "split": "validation", **summary})
        score = selection_score(self.experiment.config, summary)
        if self.best_score is not None and score <= self.best_score:
            return False
        self._meta |= {"best_step": self.step, "best_score": score}
        return True

    def save(self, state: train.TrainState, best: train.TrainState | None = None) -> None:
        """Keeps the state to resume from, with the metrics that no row holds yet.

        Args:
          best: the state that `judge` found to be the best, where that is not saved yet.
        """
        if best is not None:
            self.best.save(best, self._meta | {"window": []})
        self.last.save(state, self._meta | {"window": self.window.read()})

    def keep_weights(self, state: train.TrainState) -> None:
        """Keeps the weights of this epoch to look at, where `train.keep_every` asks for them."""
        every, epoch = self.experiment.config.train.keep_every, round(self.epoch)
        if every and epoch % every == 0:
            folder = self.workdir / "weights"
            folder.mkdir(exist_ok=True)
            path = folder / f"epoch-{epoch:04}.safetensors"
            checkpoint.save_weights(path, jax.device_get(state.variables), weights_metadata(self.experiment))

    def close(self) -> None:
        self.log.close()


def weights_metadata(experiment: "Experiment") -> dict:
    """What a weights file says of its network."""
    config = experiment.config
    return {
        "version": __version__,
        "model": config.model.to_dict(),
        "head": config.head.to_dict(),
        "emotions": experiment.dataset.emotions,
        "input_shape": experiment.recipe.input_shape,
        "normalization": "pretrained" if config.model.pretrained else config.data.normalization,
        "align": config.data.align,
        "grey": experiment.dataset.image_shape[2] == 1,
    }


def fresh_state(experiment: "Experiment") -> tuple[train.TrainState, jax.Array]:
    """The state that a run begins with, initialised or pretrained, and the key of its steps, on every device.

    Raises:
      UserError: the pretrained weights are those of another model, or of images of one size where the run has others
        or begins with smaller ones, or there are none.
    """
    config, recipe, mesh = experiment.config, experiment.recipe, experiment.mesh
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    # Else each step would send it from the first device to the others.
    step_key = jax.random.wrap_key_data(sharding.replicate(jax.random.key_data(step_key), mesh))
    ema = config.train.ema_decay > 0
    if not config.model.pretrained:
        return train.init_state(recipe, init_key, experiment.normalizer, mesh, ema=ema), step_key
    pretrained, metadata = checkpoint.load_weights(config.model.pretrained)
    mean = pretrained["normalizer"]["mean"]
    if mean.ndim > 1 and recipe.smaller_first:
        raise UserError(
            f"train.smaller_first: {config.model.pretrained} subtracts a mean image, which has one size of images"
        )
    if mean.ndim > 1 and mean.shape != recipe.input_shape:
        raise UserError(
            f"model.input_shape = {recipe.input_shape}: {config.model.pretrained} subtracts a mean image of "
            f"{mean.shape}, so it takes images of that size alone"
        )
    same_emotions = metadata["emotions"] and tuple(metadata["emotions"]) == experiment.dataset.emotions
    same_outputs = same_emotions and metadata.get("head", {}).get("name", "classification") == config.head.name
    state = train.init_state(recipe, init_key, pretrained["normalizer"], mesh, ema=ema)
    try:
        return _begin_with(state, pretrained, recipe, keep_output=bool(same_outputs)), step_key
    except UserError as error:
        raise UserError(f"model.pretrained = {config.model.pretrained}: {error}") from error


class SavingPace:
    """When a run's checkpoints are due: as often as their writing takes no more than a share of the time."""

    def __init__(self, share: float):
        """`share`: in 0..1; 0: no limit."""
        self._share = share
        self._saved, self._took = -float("inf"), 0.0

    def due(self) -> bool:
        """The same in every process."""
        late = not self._share or time.perf_counter() - self._saved >= self._took / self._share
        return bool(multihost_utils.broadcast_one_to_all(np.array(late))) if jax.process_count() > 1 else late

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around the writing."""
        began = time.perf_counter()
        yield
        self._saved = time.perf_counter()
        self._took = self._saved - began


class Clock:
    """Wall-clock figures of a run, for timing.jsonl: until its first step, and of each epoch.

    The first epoch after one on smaller images (`train.smaller_first`) counts what is compiled for it.
    """

    def __init__(self, started: float):
        """`started`: `time.perf_counter()` when the command began."""
        self._started = started
        self._epoch_started: float | None = None

    def step(self, step: int, images: int, results: dict) -> dict | None:
        """Steps up to `step` were begun, with so many images; after the first ones the row of how long they took."""
        if self._epoch_started is not None:
            self._images += images
            return None
        jax.block_until_ready(results)
        self._epoch_started, self._images = time.perf_counter(), 0  # those first steps compiled as well
        return {"step": step, "seconds_to_first_step": self._epoch_started - self._started}

    def trained(self) -> None:
        """The steps of an epoch are done; evaluation and checkpoints follow."""
        self._trained = time.perf_counter()

    def epoch(self, step: int) -> dict:
        """Those are done, too: the row of the epoch."""
        now = time.perf_counter()
        row = {"step": step, "train_seconds": self._trained - self._epoch_started, "other_seconds": now - self._trained}
        if self._images:
            row["images_per_second"] = self._images / row["train_seconds"]
        self._epoch_started, self._images = now, 0
        return row


def _begin(experiment: "Experiment", last: checkpoint.Checkpoints, workdir: Path):
    """The state to go on from, what is known with it, and the key of the steps."""
    state, step_key = fresh_state(experiment)
    learns_from = experiment.learns_from
    dtype = experiment.recipe.model.dtype.name
    began_with = experiment.began_with.weights if experiment.began_with else ""
    meta = {"data": learns_from, "began_with": began_with, "dtype": dtype}
    meta |= {"best_step": None, "best_score": None, "window": []}
    # Before the state is read, whose shapes other data may have changed.
    if (saved := last.meta()) and saved["data"] != learns_from:
        raise UserError(
            f"{workdir} was trained on other data or by other teachers ({saved['data']}, now {learns_from}): "
            f"choose another --workdir, or the data and teachers it was trained with"
        )
    if saved and saved.get("began_with", began_with) != began_with:
        raise UserError(
            f"{workdir} began with other weights than those of {experiment.config.model.pretrained} now: "
            f"choose another --workdir, or put them back"
        )
    if restored := last.restore(state):
        state, meta = restored
        log.info("resuming %s at step %d of %d", workdir, int(state.step), experiment.total_steps)
        if (before := meta.get("dtype", dtype)) != dtype:
            log.warning(
                "%s computed in %s and goes on in %s, as this device does: set model.dtype for a run on several kinds",
                workdir,
                before,
                dtype,
            )
        meta["dtype"] = dtype
    return state, meta, step_key


def _begin_with(state: train.TrainState, weights: dict, recipe: train.Recipe, *, keep_output: bool) -> train.TrainState:
    """The fresh state with pretrained weights; the output layer only if its outputs mean the same."""

    def shapes(model):
        params = models.variable_shapes(model, recipe.input_shape)["params"]
        flat = traverse_util.flatten_dict({"params": params}, sep="/")
        return {name: leaf.shape for name, leaf in flat.items()}

    # The output layer is what changes its shape with the number of outputs.
    model = recipe.model
    more = shapes(model.clone(num_outputs=model.num_outputs + 1))
    output = frozenset(name for name, shape in shapes(model).items() if shape != more[name] and not keep_output)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    grafted = checkpoint.graft(variables, weights, output)
    # In the state's own type: a file may hold half the bits, in which small steps would change nothing.
    grafted = jax.tree.map(
        lambda new, old: jax.device_put(np.asarray(new, old.dtype), old.sharding), grafted, variables
    )
    log.info("begins with pretrained weights%s", "" if keep_output else "; the output layer is new")
    # Copies: the step donates the state, and a buffer can be given away only once.
    return state.replace(**grafted, ema=jax.tree.map(jax.numpy.copy, grafted) if state.ema else None)
