"""One run, from a config to its results: data, state or resume, training, evaluation, files.

The run directory:
  config.json, environment.json     what was run, on what
  metrics.jsonl, timing.jsonl       rows of metrics (a function of config and data alone); wall-clock figures
  tensorboard/                      the same for TensorBoard
  checkpoints/last, checkpoints/best
  weights/                          those of some epochs, where `train.keep_every` asks for them
  weights.safetensors               the selected weights for people, with names, normaliser and input shape
  results.json, confusion.png, learning_curves.png
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fer_jax import augment, checkpoint, distill, files, heads, logs, metrics, models, optim, seen, sharding, train
from fer_jax import config as config_lib
from fer_jax.course import Clock, Course, SavingPace, weights_metadata
from fer_jax.data import audit, combine, normalization, pipeline, prepare
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError
from fer_jax.evaluate import Evaluator
from fer_jax.run_directory import claim_workdir, full_disk_explained, full_memory_explained, occupied

log = logging.getLogger(__name__)

DEDUPLICATED = "deduplicated"  # the reported split without what `data.exclude` lists
MIN_SIDE = 24  # pixels: below this the networks' poolings leave nothing


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config means once its data and devices are at hand."""

    config: ConfigDict
    dataset: prepare.Dataset
    mesh: Mesh
    splits: dict[str, pipeline.Split]
    order: pipeline.TrainOrder
    recipe: train.Recipe
    normalizer: dict
    evaluator: Evaluator
    teachers: tuple[seen.Predecessor, ...] = ()
    began_with: seen.Predecessor | None = None

    @property
    def learns_from(self) -> str:
        """What decides on images and targets, for comparison: the data's fingerprint, and the teachers' weights."""
        return " ".join([self.dataset.fingerprint, *(f"taught by {teacher.weights}" for teacher in self.teachers)])

    @property
    def total_steps(self) -> int:
        return self.config.train.epochs * self.order.steps_per_epoch

    @property
    def hyperparameters(self) -> dict:
        """The numbers that the compiled step takes as arrays (`train.hyperparameters`)."""
        return train.hyperparameters(self.config, self.dataset.class_counts["train"])

    def sibling(self, config: ConfigDict) -> "Experiment":
        """The same data and programs under another config of the same `stack.structure`."""
        order = dataclasses.replace(self.order, seed=config.seed)
        return dataclasses.replace(self, config=config, order=order)

    def evaluate(self, variables: dict, split: str) -> tuple[dict, dict]:
        """(summary, sums) of a split: numbers for people, and the mergeable sums they come from."""
        sums = self.evaluator.sums(variables, self.splits[split])
        return metrics.summarize(sums, self.dataset.emotions, has_intensity=self.dataset.has_intensity), sums


@full_memory_explained()
def build(config: ConfigDict, data_dir: str | None = None) -> Experiment:
    """Checks the config, prepares and loads the data, and makes the recipe.

    Raises:
      UserError: naming the field or the file that is wrong.
    """
    config_lib.validate(config)
    _warn_of_idle_fields(config)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    sharding.check_batch_size(config.eval.batch_size, mesh, "eval.batch_size")
    refuse_unknown_names(config)
    with sharding.in_turn("the data are prepared"):
        dataset = combine.load(config.data, data_dir)
    sharding.check_alike("their data", dataset.fingerprint)
    _announce(dataset, mesh)
    if "train" not in dataset.splits:
        raise UserError(f"{dataset.name} has no training split, only {', '.join(dataset.splits)}")
    whole, exclude = dataset, {}
    if config.data.exclude:
        exclude = audit.read_clean(config.data.exclude, whole, align=config.data.align)
        dataset = whole.without({"train": exclude["train"]})
        log.info("data: %d training images are left out by %s", len(exclude["train"]), config.data.exclude)
    labels = dataset.labels("train") if config.data.sampling == "balanced" else None
    order = pipeline.train_order(dataset.splits["train"], config.train.batch_size, config.seed, labels=labels)
    recipe = make_recipe(config, dataset, order.steps_per_epoch)
    residence = pipeline.choose_residence(config.data.residence, dataset, mesh)
    began_with = _pretrained(config, dataset)
    teachers, taught = _ask_teachers(config, dataset)
    load_split = functools.partial(pipeline.load_split, residence=residence, workers=config.data.workers)
    splits = {name: load_split(dataset, name, mesh, intensity=taught.get(name)) for name in dataset.splits}
    reported = dataset.reported_split
    if exclude and reported:
        splits[DEDUPLICATED] = load_split(whole.without({reported: exclude[reported]}), reported, mesh)
    normalizer = normalization.compute(
        config.data.normalization, splits["train"], recipe.input_shape, devices=mesh.size
    )
    evaluator = Evaluator(recipe, mesh, batch_size=config.eval.batch_size)
    return Experiment(config, dataset, mesh, splits, order, recipe, normalizer, evaluator, teachers, began_with)


def _pretrained(config: ConfigDict, dataset: prepare.Dataset) -> seen.Predecessor | None:
    if not config.model.pretrained:
        return None
    with sharding.in_turn("what the pretrained network has seen is looked up"):
        return seen.predecessor("model.pretrained", config.model.pretrained, dataset)


def _ask_teachers(
    config: ConfigDict, dataset: prepare.Dataset
) -> tuple[tuple[seen.Predecessor, ...], dict[str, np.ndarray]]:
    """The teachers, if there are any, and the intensities of the splits that they teach: those for training.

    Raises:
      UserError: as of `distill`, or what they see differs among the processes.
    """
    if not config.head.teachers:
        return (), {}
    with sharding.in_turn("the teachers are asked"):
        teachers = distill.find_teachers(config.head.teachers, dataset, align=config.data.align)
        intensity = distill.intensities(dataset, teachers, config.head.teacher_share)
    digest = hashlib.sha256(intensity.tobytes()).hexdigest()
    sharding.check_alike("what their teachers see", digest, "give them the same teachers and a shared FER_JAX_CACHE")
    return teachers, {"train": intensity}


def _warn_of_idle_fields(config: ConfigDict) -> None:
    optimizer, head = config.optim, config.head
    if optimizer.decay_epochs and optimizer.schedule != "step":
        log.warning("without effect: optim.decay_epochs, as optim.schedule is not step")
    if head.name == "intensity" and head.loss != "softmax":
        log.warning("without effect: head.loss, as head.name is intensity")
    if head.teacher_share != config_lib.default_config().head.teacher_share and not head.teachers:
        log.warning("without effect: head.teacher_share, as there are no head.teachers")
    if head.class_weight_power != 1 and head.class_weights == "none":
        log.warning("without effect: head.class_weight_power, as head.class_weights is none")
    if config.data.sampling == "balanced" and head.class_weights != "none":
        log.warning(
            "data.sampling = balanced shows all classes alike and head.class_weights = %s weighs them besides, so that "
            "the rarest count the most: set one of the two back",
            head.class_weights,
        )
    late = [epoch for epoch in optimizer.decay_epochs if epoch >= config.train.epochs]
    if optimizer.schedule == "step" and late:
        log.warning("optim.decay_epochs: %s are not reached in %d epochs (train.epochs)", late, config.train.epochs)


def refuse_unknown_names(config: ConfigDict) -> None:
    """Makes and reads what can be without data, so that a misspelt name is told before they are prepared.

    Raises:
      UserError: there is one.
    """
    head = heads.make_head(config.head.name, BASIC7, loss=config.head.loss)
    models.create(config.model.name, num_outputs=head.num_outputs, **config_lib.model_options(config))
    optim.make_schedule(config.optim, steps_per_epoch=1000, total_steps=1000 * config.train.epochs)
    optim.make_optimizer(config.optim)
    for weights in filter(None, (config.model.pretrained, *config.head.teachers)):
        checkpoint.load_weights(weights)


def make_recipe(config: ConfigDict, dataset: prepare.Dataset, steps_per_epoch: int) -> train.Recipe:
    """The model, head and optimizer of a config, for a data set's emotions.

    Raises:
      UserError: fields that do not go together; names them.
    """
    head = heads.make_head(
        config.head.name, dataset.emotions, loss=config.head.loss, label_share=config.head.label_share
    )
    input_shape = tuple(config.model.input_shape)
    if min(input_shape[:2]) < MIN_SIDE:
        raise UserError(f"model.input_shape = {input_shape} is too small: at least {MIN_SIDE} pixels a side")
    model = models.create(
        config.model.name,
        num_outputs=head.num_outputs,
        dtype=models.compute_dtype(config.model.dtype),
        axis_name=sharding.AXIS,
        **config_lib.model_options(config),
    )
    schedule = optim.make_schedule(
        config.optim, steps_per_epoch=steps_per_epoch, total_steps=config.train.epochs * steps_per_epoch
    )
    ends = itertools.accumulate(epochs * steps_per_epoch for epochs, _ in config.train.smaller_first)
    smaller_first = tuple((end, side) for end, (_, side) in zip(ends, config.train.smaller_first, strict=True))
    variables = _variable_shapes(config, model, input_shape, f"model.input_shape = {input_shape}")
    for _, side in smaller_first:
        if side < MIN_SIDE:
            raise UserError(f"train.smaller_first: {side} pixels are too few: at least {MIN_SIDE} a side")
        asked = f"train.smaller_first, {side} pixels a side"
        if _variable_shapes(config, model, (side, side, input_shape[2]), asked) != variables:
            raise UserError(
                f"train.smaller_first: {config.model.name} has other weights for images of {side} pixels than for "
                f"those of {input_shape}; only networks that end in global pooling take any size"
            )
    return train.Recipe(model, head, optim.make_optimizer(config.optim), schedule, input_shape, smaller_first)


def _variable_shapes(config: ConfigDict, model: nn.Module, input_shape: tuple[int, int, int], asked: str) -> dict:
    """As `models.variable_shapes`; `asked` is how the config asks for images of this size.

    Raises:
      UserError: the options, or images of this size, are none for this model.
    """
    try:
        return models.variable_shapes(model, input_shape)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        options = config.model.options.to_dict()
        raise UserError(
            f"{config.model.name} cannot be made with options {options} for images of {asked}: {error}"
        ) from error


def run(config: ConfigDict, workdir: Path, *, data_dir: str | None = None) -> dict:
    """Trains (or resumes), evaluates, and writes the run directory; returns the content of results.json.

    Raises:
      UserError: bad config, data or directory, another process that trains there, or a loss that is not finite.
      train.Interrupted: stopped by one of `process.ENDING` after saving; the same call resumes.
    """
    started = time.perf_counter()
    workdir = Path(workdir)
    with full_disk_explained(workdir), contextlib.ExitStack() as stack:
        sharding.check_alike("their configs", config.to_dict())
        dtype = models.compute_dtype(config.model.dtype).name
        sharding.check_alike("the types that their devices compute in", dtype, "set model.dtype")
        with sharding.in_turn("the run directory is claimed"):
            if jax.process_index() == 0:  # for all processes of the run
                stack.enter_context(occupied(workdir))
            claim_workdir(workdir, config)
        return complete(build(config, data_dir), workdir, started=started)


def complete(experiment: Experiment, workdir: Path, *, started: float) -> dict:
    """`run` for data and programs that are at hand, in a directory that is claimed."""
    state, course = fit(experiment, workdir, started=started)
    return finish(course, state)


@full_memory_explained()
def fit(
    experiment: Experiment, workdir: Path, *, started: float, until: int | None = None
) -> tuple[train.TrainState, Course]:
    """Trains from the last checkpoint (or from nothing) to the end, or to the end of an epoch at step `until`.

    Returns the last state, and the course with the best one's checkpoint.

    Raises:
      UserError: a loss that is not finite, a checkpoint of other data, too little memory.
      train.Interrupted: stopped by one of `process.ENDING` after saving.
    """
    config, order = experiment.config, experiment.order
    course = Course(experiment, workdir)
    state, stop = course.start, until or experiment.total_steps
    if course.step >= stop:
        log.info("%s is complete: %d steps", workdir, course.step)
        return state, course
    hyper = sharding.replicate(experiment.hyperparameters, experiment.mesh)
    steps = train.training_steps(
        state,
        experiment.splits["train"],
        order,
        course.key,
        hyper,
        recipe=experiment.recipe,
        mesh=experiment.mesh,
        stop=stop,
    )
    clock, pace = Clock(started), SavingPace(config.train.saving_share)
    best, saved = None, None  # a state that was the best and is not saved yet; the step of the last checkpoint
    with (
        contextlib.closing(course),
        train.Interruption() as interruption,
        logs.ProgressBar(total=stop * order.batch_size, done=course.step * order.batch_size) as bar,
    ):
        while course.step < stop:
            state, results = next(steps)
            course.add(results)
            images = results["loss"].size * order.batch_size
            if row := clock.step(course.step, images, results):
                course.log.timing(row)
            bar.advance(images)
            epoch_ends = course.step % order.steps_per_epoch == 0
            single = results["loss"].ndim == 0  # else the steps of a program, whose rows are written with their epoch
            row_ends = epoch_ends or (single and len(course.window) % config.train.log_every == 0)
            if row_ends:
                bar.show(loss=course.write())
            if epoch_ends:
                clock.trained()
                due = course.step == stop or pace.due()
                if "validation" in experiment.splits:
                    summary, _ = experiment.evaluate(state.variables, "validation")
                    if course.judge(summary):
                        # A copy, for the next step takes the state's own memory.
                        best = state if due else jax.tree.map(jax.numpy.copy, state)
                    bar.show(validation_accuracy=summary["accuracy"])
                course.keep_weights(state)
                if due:
                    with pace.saving():
                        course.save(state, best)
                    best, saved = None, course.step
                course.log.timing(clock.epoch(course.step))
            if interruption.agreed(together=row_ends or not single):  # at the last step, too: a sweep would go on
                if saved != course.step:
                    course.save(state, best)
                raise train.Interrupted(interruption.signum, f" at step {course.step}: saved")
    return state, course


@full_memory_explained()
def finish(course: Course, state: train.TrainState) -> dict:
    """Evaluates the selected weights once more, on the test split where there is one, and writes the results.

    Raises:
      UserError: the best checkpoint is gone, or of weights that nothing selected the loss is not finite.
    """
    from fer_jax import figures  # here: Matplotlib and SciPy take a second, for which the first step need not wait

    experiment, workdir = course.experiment, course.workdir
    selected_on = "validation" if "validation" in experiment.splits else None
    if selected_on:
        if (restored := course.best.restore(state, step=course.best_step)) is None:
            raise UserError(f"{course.best.directory} is gone, and with it the weights to report: delete {workdir}")
        state, _ = restored
    dataset, config = experiment.dataset, experiment.config
    split = dataset.reported_split
    results = {
        "dataset": dataset.name,
        "variant": dataset.variant,
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "model": config.model.name,
        "dtype": experiment.recipe.model.dtype.name,
        "emotions": dataset.emotions,
        "split": split,
        "selected_on": selected_on,
        "step": int(state.step),
        "examples": dataset.splits.get(split, 0),
        "began_with": experiment.began_with and dataclasses.asdict(experiment.began_with),
        "teachers": [dataclasses.asdict(teacher) for teacher in experiment.teachers],
    }
    if split:
        summary, sums = experiment.evaluate(state.variables, split)
        if not selected_on and summary["count"] and summary["loss"] is None:
            raise UserError(f"the loss on {split} is not finite: {train.DIVERGED}")
        results |= {"metrics": summary, "confusion": sums["confusion"].tolist()}
        figures.confusion_matrix(sums["confusion"], dataset.emotions, workdir / "confusion.png")
    if split and config.eval.variants:
        mesh = experiment.mesh
        evaluator = Evaluator(
            experiment.recipe,
            mesh,
            batch_size=mesh.size * max(1, config.eval.batch_size // augment.VARIANTS // mesh.size),
            variants=config.eval.variants,
        )
        summary, _ = dataclasses.replace(experiment, evaluator=evaluator).evaluate(state.variables, split)
        results["variants"] = {"strength": config.eval.variants, "metrics": summary}
    if DEDUPLICATED in experiment.splits:
        summary, _ = experiment.evaluate(state.variables, DEDUPLICATED)
        results[DEDUPLICATED] = {"examples": experiment.splits[DEDUPLICATED].length, "metrics": summary}
    if jax.process_index() > 0:
        return results  # written by the first process
    figures.learning_curves(files.read_rows(workdir / "metrics.jsonl"), workdir / "learning_curves.png")
    told = {key: results[key] for key in ("dataset", "split", "selected_on", "examples", "step")}
    metadata = weights_metadata(experiment) | {"results": told}
    checkpoint.save_weights(workdir / "weights.safetensors", jax.device_get(state.variables), metadata)
    files.write_json(workdir / "results.json", results)
    return results


def format_results(results: dict) -> str:
    """The results as a small table for the terminal."""
    name = f"{results['model']} on {results['dataset']}" + (" (SYNTHETIC faces)" if results["synthetic"] else "")
    if not results["split"]:
        return f"{name}: trained; the data set has no split to evaluate on"
    scores, loss = results["metrics"], results["metrics"]["loss"]
    selected = results["selected_on"]
    protocol = f"selected on {selected}" if selected else "last weights, nothing selected"
    if selected == results["split"]:
        protocol += ": optimistic, the split that selects also reports"
    lines = [
        f"{name}, {results['split']} split, {results['examples']:,} images, step {results['step']:,} ({protocol})",
        f"  accuracy {scores['accuracy']:.2%}   balanced {scores['balanced_accuracy']:.2%}   "
        f"macro-F1 {scores['macro_f1']:.3f}   loss {'not finite' if loss is None else format(loss, '.3f')}"
        + (f"   RMSE {scores['rmse']:.3f}" if scores.get("rmse") is not None else ""),
    ]
    if varied := results.get("variants"):
        accuracy = varied["metrics"]["accuracy"]
        lines.append(
            f"  on all {augment.VARIANTS} variants in brightness and blur of each image: accuracy {accuracy:.2%}"
        )
    if clean := results.get(DEDUPLICATED):
        lines.append(
            f"  without copies and flat images, {clean['examples']:,} images: "
            f"accuracy {clean['metrics']['accuracy']:.2%}   macro-F1 {clean['metrics']['macro_f1']:.3f}"
        )
    for emotion in results["emotions"]:
        recall, f1 = scores[f"accuracy/{emotion}"], scores[f"f1/{emotion}"]
        shown = "no images" if recall is None else f"accuracy {recall:7.2%}   F1 {f1 or 0:.3f}"
        lines.append(f"  {emotion:<10} {shown}")
    return "\n".join(lines)


def _announce(dataset: prepare.Dataset, mesh: Mesh) -> None:
    sizes = ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items())
    log.info("data: %s %s(%s)", dataset.name, f"{dataset.variant} " if dataset.variant else "", sizes)
    if dataset.synthetic:
        log.info("data: SYNTHETIC faces, drawn by a program: results on them say nothing about people")
    device = mesh.devices.flat[0]
    log.info("devices: %d x %s (%s)", mesh.size, device.device_kind, device.platform)
