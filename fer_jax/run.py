"""One run, from a config to its results: data, state or resume, training, evaluation, files.

The run directory:
  config.json, environment.json     what was run, on what
  metrics.jsonl, timing.jsonl       rows of metrics (a function of the config alone); wall-clock figures
  tensorboard/                      the same for TensorBoard
  checkpoints/last, checkpoints/best
  weights.safetensors               the selected weights for people, with names, normaliser and input shape
  results.json, confusion.png, learning_curves.png
"""

import dataclasses
import errno
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import jax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fer_jax import __version__, checkpoint, figures, heads, logs, metrics, models, optim, sharding, train
from fer_jax import config as config_lib
from fer_jax.data import audit, normalization, pipeline, prepare
from fer_jax.errors import UserError
from fer_jax.evaluate import Evaluator

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
    evaluator: Evaluator

    @property
    def total_steps(self) -> int:
        return self.config.train.epochs * self.order.steps_per_epoch

    def evaluate(self, variables: dict, split: str) -> tuple[dict, dict]:
        """(summary, sums) of a split: numbers for people, and the mergeable sums they come from."""
        sums = self.evaluator.sums(variables, self.splits[split])
        return metrics.summarize(sums, self.dataset.emotions, has_intensity=self.dataset.has_intensity), sums


def build(config: ConfigDict, data_dir: str | None = None) -> Experiment:
    """Checks the config, prepares and loads the data, and makes the recipe.

    Raises:
      UserError: naming the field or the file that is wrong.
    """
    config_lib.validate(config)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    sharding.check_batch_size(config.eval.batch_size, mesh, "eval.batch_size")
    dataset = prepare.load(config.data.name, variant=config.data.variant or None, data_dir=data_dir)
    _announce(dataset, mesh)
    if "train" not in dataset.splits:
        raise UserError(f"{dataset.name} has no training split, only {', '.join(dataset.splits)}")
    whole, exclude = dataset, {}
    if config.data.exclude:
        exclude = audit.read_clean(config.data.exclude, whole)
        dataset = whole.without({"train": exclude["train"]})
        log.info("data: %d training images are left out by %s", len(exclude["train"]), config.data.exclude)
    labels = dataset.arrays("train")["label"] if config.data.sampling == "balanced" else None
    order = pipeline.train_order(dataset.splits["train"], config.train.batch_size, config.seed, labels=labels)
    recipe = make_recipe(config, dataset, order.steps_per_epoch)
    residence = pipeline.choose_residence(config.data.residence, dataset, mesh)
    splits = {
        name: pipeline.load_split(dataset, name, mesh, residence=residence, workers=config.data.workers)
        for name in dataset.splits
    }
    reported = reported_split(splits)
    if exclude and reported:
        clean = whole.without({reported: exclude[reported]})
        splits[DEDUPLICATED] = pipeline.load_split(
            clean, reported, mesh, residence=residence, workers=config.data.workers
        )
    evaluator = Evaluator(recipe.model, recipe.head, recipe.input_shape, mesh, batch_size=config.eval.batch_size)
    return Experiment(config, dataset, mesh, splits, order, recipe, evaluator)


def reported_split(splits: Iterable[str]) -> str | None:
    """The split that results are given on: test where there is one, else validation, else none."""
    return next((name for name in ("test", "validation") if name in splits), None)


def make_recipe(config: ConfigDict, dataset: prepare.Dataset, steps_per_epoch: int) -> train.Recipe:
    """The model, head and optimizer of a config, for a data set's emotions."""
    head = heads.make_head(config.head.name, dataset.emotions, loss=config.head.loss)
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
    weights = None
    if config.head.class_weights != "none":
        counts = dataset.class_counts["train"]
        weights = tuple(float(w) for w in heads.class_weights(counts, kind=config.head.class_weights))
    return train.Recipe(model, head, optim.make_optimizer(config.optim), schedule, input_shape, weights)


def run(config: ConfigDict, workdir: Path, *, data_dir: str | None = None) -> dict:
    """Trains (or resumes), evaluates, and writes the run directory; returns the content of results.json.

    Raises:
      UserError: bad config, data or directory, or a loss that is not finite.
      train.Interrupted: stopped by SIGTERM or Ctrl-C after saving; the same call resumes.
    """
    started = time.perf_counter()
    workdir = Path(workdir)
    try:
        claim_workdir(workdir, config)
        experiment = build(config, data_dir)
        logs.write_json(workdir / "environment.json", logs.environment())
        state, best = fit(experiment, workdir, started=started)
        return _finish(experiment, workdir, state, best)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left while writing to {error.filename or workdir}: free some and run the same command "
                f"with --workdir={workdir}; it resumes from the last checkpoint"
            ) from error
        raise


def fit(experiment: Experiment, workdir: Path, *, started: float) -> tuple[train.TrainState, checkpoint.Checkpoints]:
    """Trains from the last checkpoint (or from nothing) to the end; returns the final state and the best's folder."""
    config, order, recipe, mesh = experiment.config, experiment.order, experiment.recipe, experiment.mesh
    last = checkpoint.Checkpoints(workdir / "checkpoints/last", keep=2)
    best = checkpoint.Checkpoints(workdir / "checkpoints/best", keep=1)
    state, meta, step_key = _start(experiment, last, workdir)
    step, stop, log_every = int(state.step), experiment.total_steps, config.train.log_every
    if step == stop:
        log.info("%s is complete: %d steps", workdir, step)
        return state, best
    run_log = logs.RunLog(workdir, step=step)
    hyper = sharding.replicate(train.hyperparameters(config), mesh)
    steps = train.training_steps(
        state, experiment.splits["train"], order, step_key, hyper, recipe=recipe, mesh=mesh, stop=stop
    )
    window = train.Window(meta.pop("window"), step)
    first = True
    with (
        train.Interruption() as interruption,
        logs.ProgressBar(total=stop * order.batch_size, done=step * order.batch_size) as bar,
    ):
        while step < stop:
            state, results = next(steps)
            window.add(results)
            taken = results["loss"].size
            step += taken
            if first:
                jax.block_until_ready(results)
                run_log.timing({"step": step, "seconds_to_first_step": time.perf_counter() - started})
                epoch_started, epoch_images, first = time.perf_counter(), 0, False
            else:
                epoch_images += taken * order.batch_size
            bar.advance(taken * order.batch_size)
            epoch_ends = step % order.steps_per_epoch == 0
            if epoch_ends or len(window) >= log_every:
                for at, mean in window.means(log_every):
                    run_log.row({"step": at, "epoch": at / order.steps_per_epoch, "split": "train", **mean})
                    bar.show(loss=mean["loss"])
            if epoch_ends:
                trained = time.perf_counter()
                if "validation" in experiment.splits:
                    _validate(experiment, state, step, run_log, best, meta, bar)
                last.save(state, meta | {"window": []})
                now = time.perf_counter()
                timing = {
                    "step": step,
                    "train_seconds": trained - epoch_started,
                    "other_seconds": now - trained,
                }
                if epoch_images:
                    timing["images_per_second"] = epoch_images / timing["train_seconds"]
                run_log.timing(timing)
                epoch_started, epoch_images = now, 0
            if interruption.signum and step < stop:
                if not epoch_ends:
                    last.save(state, meta | {"window": window.read()})
                run_log.close()
                raise train.Interrupted(interruption.signum, step)
    run_log.close()
    return state, best


def _start(experiment: Experiment, last: checkpoint.Checkpoints, workdir: Path):
    """The state to go on from, what is known with it, and the key of the steps."""
    config, recipe, mesh = experiment.config, experiment.recipe, experiment.mesh
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    pretrained = None
    if config.model.pretrained:
        pretrained, metadata = checkpoint.load_weights(Path(config.model.pretrained))
        same_outputs = metadata["emotions"] and tuple(metadata["emotions"]) == experiment.dataset.emotions
        normalizer = pretrained["normalizer"]
    else:
        normalizer = normalization.compute(
            config.data.normalization, experiment.splits["train"], recipe.input_shape, devices=mesh.size
        )
    state = train.init_state(recipe, init_key, normalizer, mesh, ema=config.train.ema_decay > 0)
    if pretrained:
        state = _begin_with(state, pretrained, recipe, keep_output=bool(same_outputs))
    fingerprint = experiment.dataset.fingerprint
    meta = {"data": fingerprint, "best_step": None, "best_score": None, "window": []}
    if restored := last.restore(state):
        state, meta = restored
        if meta["data"] != fingerprint:
            raise UserError(
                f"{workdir} was trained on other data ({meta['data']}, now {fingerprint}): "
                f"choose another --workdir, or the data it was trained on"
            )
        log.info("resuming %s at step %d of %d", workdir, int(state.step), experiment.total_steps)
    return state, meta, step_key


def _begin_with(state: train.TrainState, weights: dict, recipe: train.Recipe, *, keep_output: bool) -> train.TrainState:
    """The fresh state with pretrained weights; the output layer only if its emotions are the same."""

    def shapes(model):
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jax.numpy.zeros((1, *recipe.input_shape)), train=False)
        )
        flat = traverse_util.flatten_dict({"params": variables["params"]}, sep="/")
        return {name: leaf.shape for name, leaf in flat.items()}

    # The output layer is what changes its shape with the number of outputs.
    model = recipe.model
    more = shapes(model.clone(num_outputs=model.num_outputs + 1))
    output = frozenset(name for name, shape in shapes(model).items() if shape != more[name] and not keep_output)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    grafted = checkpoint.graft(variables, weights, output)
    grafted = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), grafted, variables)
    log.info("begins with pretrained weights%s", "" if keep_output else "; the output layer is new")
    # Copies: the step donates the state, and a buffer can be given away only once.
    return state.replace(**grafted, ema=jax.tree.map(jax.numpy.copy, grafted) if state.ema else None)


def _validate(experiment, state, step, run_log, best, meta, bar) -> None:
    """Evaluates on the validation split, logs it, and keeps the state if it is the best so far."""
    summary, _ = experiment.evaluate(state.variables, "validation")
    epoch = step / experiment.order.steps_per_epoch
    run_log.row({"step": step, "epoch": epoch, "split": "validation", **summary})
    if experiment.config.head.name == "intensity":
        score = -summary["rmse"] if experiment.dataset.has_intensity else summary["accuracy"]
    else:
        score = summary["accuracy"]
    if meta["best_score"] is None or score > meta["best_score"]:
        meta |= {"best_step": step, "best_score": score}
        best.save(state, meta)
    bar.show(validation_accuracy=summary["accuracy"])


def _finish(experiment: Experiment, workdir: Path, state: train.TrainState, best: checkpoint.Checkpoints) -> dict:
    """Evaluates the selected weights once more, on the test split where there is one, and writes the results."""
    selected_on = "validation" if "validation" in experiment.splits else None
    if selected_on and (restored := best.restore(state)):
        state, _ = restored
    split = reported_split(experiment.splits)
    dataset, config = experiment.dataset, experiment.config
    results = {
        "dataset": dataset.name,
        "variant": dataset.variant,
        "synthetic": dataset.synthetic,
        "model": config.model.name,
        "emotions": dataset.emotions,
        "split": split,
        "selected_on": selected_on,
        "step": int(state.step),
        "examples": dataset.splits.get(split, 0),
    }
    if split:
        summary, sums = experiment.evaluate(state.variables, split)
        results |= {"metrics": summary, "confusion": sums["confusion"].tolist()}
        figures.confusion_matrix(sums["confusion"], dataset.emotions, workdir / "confusion.png")
    if split and config.eval.variants:
        recipe, mesh = experiment.recipe, experiment.mesh
        evaluator = Evaluator(
            recipe.model,
            recipe.head,
            recipe.input_shape,
            mesh,
            batch_size=mesh.size * max(1, config.eval.batch_size // 28 // mesh.size),
            variants=config.eval.variants,
        )
        summary, _ = dataclasses.replace(experiment, evaluator=evaluator).evaluate(state.variables, split)
        results["variants"] = {"strength": config.eval.variants, "metrics": summary}
    if DEDUPLICATED in experiment.splits:
        summary, _ = experiment.evaluate(state.variables, DEDUPLICATED)
        results[DEDUPLICATED] = {"examples": experiment.splits[DEDUPLICATED].length, "metrics": summary}
    figures.learning_curves(logs.read_rows(workdir / "metrics.jsonl"), workdir / "learning_curves.png")
    metadata = {
        "version": __version__,
        "model": config.model.to_dict(),
        "head": config.head.to_dict(),
        "emotions": dataset.emotions,
        "input_shape": experiment.recipe.input_shape,
        "normalization": config.data.normalization,
        "results": {key: results[key] for key in ("dataset", "split", "selected_on", "examples", "step")},
    }
    checkpoint.save_weights(workdir / "weights.safetensors", jax.device_get(state.variables), metadata)
    logs.write_json(workdir / "results.json", results)
    return results


def format_results(results: dict) -> str:
    """The results as a small table for the terminal."""
    name = f"{results['model']} on {results['dataset']}" + (" (SYNTHETIC faces)" if results["synthetic"] else "")
    if not results["split"]:
        return f"{name}: trained; the data set has no split to evaluate on"
    scores = results["metrics"]
    selected = results["selected_on"]
    protocol = f"selected on {selected}" if selected else "last weights, nothing selected"
    if selected == results["split"]:
        protocol += ": optimistic, the split that selects also reports"
    lines = [
        f"{name}, {results['split']} split, {results['examples']:,} images, step {results['step']:,} ({protocol})",
        f"  accuracy {scores['accuracy']:.2%}   balanced {scores['balanced_accuracy']:.2%}   "
        f"macro-F1 {scores['macro_f1']:.3f}   loss {scores['loss']:.3f}"
        + (f"   RMSE {scores['rmse']:.3f}" if scores.get("rmse") is not None else ""),
    ]
    if varied := results.get("variants"):
        accuracy = varied["metrics"]["accuracy"]
        lines.append(f"  on all 28 variants in brightness and blur of each image: accuracy {accuracy:.2%}")
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


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the run directory, or checks that the one there belongs to the same config.

    Raises:
      UserError: the directory cannot be written, or holds a run of another config (with the differences).
    """
    path = workdir / "config.json"
    content = json.loads(json.dumps(config.to_dict()))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if lines := config_lib.difference(json.loads(path.read_text()), content):
                changes = "\n  ".join(lines)
                raise UserError(
                    f"{workdir} holds a run of another config:\n  {changes}\n"
                    f"choose another --workdir, or go back to that config to resume it"
                )
        else:
            logs.write_json(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot write to the run directory {workdir}: {error.strerror}; choose another --workdir"
        ) from error


def _announce(dataset: prepare.Dataset, mesh: Mesh) -> None:
    sizes = ", ".join(f"{split} {count:,}" for split, count in dataset.splits.items())
    log.info("data: %s %s(%s)", dataset.name, f"{dataset.variant} " if dataset.variant else "", sizes)
    if dataset.synthetic:
        log.info("data: SYNTHETIC faces, drawn by a program: results on them say nothing about people")
    device = mesh.devices.flat[0]
    log.info("devices: %d x %s (%s)", mesh.size, device.device_kind, device.platform)
