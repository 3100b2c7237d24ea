"""Whether training costs what its steps cost, and how soon it begins: the suite `end_to_end`, on real records."""

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_jax import config as config_lib
from fer_jax import files, models, run
from fer_jax.benchmark_input import LEAD
from fer_jax.benchmark_measure import alternate, ratios, speeds
from fer_jax.benchmark_models import CONFIGS, Settings, Step, Training, config_of
from fer_jax.course import fresh_state
from fer_jax.data import prepare
from fer_jax.data.pipeline import load_split, train_order
from fer_jax.errors import UserError
from fer_jax.run import Experiment

DEADLINE = 900  # seconds that a process may take to its first step
_LOOK_EVERY = 0.01  # seconds
ROOT = Path(__file__).parents[1]


def end_to_end_suite(settings: Settings) -> Iterator[dict]:
    """For each model: epochs from device memory, epochs streamed, and whole runs, each beside the bare step; then the
    time from the start of a process to its first step, without and with a warm compilation cache.
    """
    for name in settings.models:
        experiment = build(name, settings)
        start = fresh_state(experiment)
        step = Step(experiment, start)
        split = load_split(experiment.dataset, "train", experiment.mesh, residence="stream", workers=0)
        streaming = Training(experiment, start, split)
        works = {"step": step.take, "device": Training(experiment, start).take, "stream": streaming.take}
        times = alternate(works, rounds=settings.rounds, seconds=settings.seconds, lead=LEAD)
        streaming.close()
        for residence in ("device", "stream"):
            yield _row(experiment, f"epoch, {residence}", times["step"], times[residence])
        yield _row(
            experiment, f"run of {settings.epochs} epochs", *_runs(experiment, step, start[0].variables, settings)
        )
        if experiment.mesh.devices.flat[0].platform != "tpu":  # which admits one process at a time, this one
            yield from first_steps(name, experiment, settings)


def build(name: str, settings: Settings) -> Experiment:
    """The experiment of a config with its data in device memory, on a part of them if the settings say so."""
    config = config_of(name, settings)
    config = config_lib.overridden(config, {"data.residence": "device", "train.epochs": settings.epochs})
    experiment = run.build(config, settings.data_dir)
    if settings.images is None or settings.images >= experiment.order.length:
        return experiment
    share = settings.images / experiment.order.length
    dataset = first_part(experiment.dataset, share)
    order = train_order(dataset.splits["train"], config.train.batch_size, config.seed)
    recipe = run.make_recipe(config, dataset, order.steps_per_epoch)
    splits = {
        split: load_split(dataset, split, experiment.mesh, residence="device", workers=0) for split in dataset.splits
    }
    return dataclasses.replace(experiment, dataset=dataset, order=order, recipe=recipe, splits=splits)


def first_part(dataset: prepare.Dataset, share: float) -> prepare.Dataset:
    """The first examples of every split, so many of each that the splits keep their proportions."""
    sizes = {split: max(1, round(share * size)) for split, size in dataset.splits.items()}
    return dataset.without({split: np.arange(sizes[split], size) for split, size in dataset.splits.items()})


def _row(experiment: Experiment, what: str, step: list[float], seconds: list[float]) -> dict:
    """`step` and `seconds`: of a bare step and of a step in the training, in each round."""
    batch, config = experiment.order.batch_size, experiment.config
    return {
        "suite": "end_to_end",
        "model": config.model.name,
        "dtype": models.compute_dtype(config.model.dtype).name,
        "batch": batch,
        "dataset": experiment.dataset.name,
        "images": experiment.order.length,
        "what": what,
        "images_per_second": speeds(seconds, batch),
        "step_images_per_second": speeds(step, batch),
        "share_of_step": ratios(seconds, step),
    }


def _runs(experiment: Experiment, step: Step, variables: dict, settings: Settings) -> tuple[list[float], list[float]]:
    """Seconds of a bare step, and of a step in a run with its evaluations and checkpoints, in turn."""
    batch = experiment.order.batch_size
    if "validation" in experiment.splits:  # compiles, as the first of the run's epochs would
        experiment.evaluate(variables, "validation")
    bare, whole = [], []
    count = max(1, math.ceil(settings.seconds / alternate({"step": step.take}, rounds=1, seconds=0)["step"][0]))
    for _ in range(settings.rounds):
        started = time.perf_counter()
        done = step.take(count)
        bare.append((time.perf_counter() - started) / done)
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder)
            run.fit(experiment, workdir, started=time.perf_counter())
            rows = [row for row in files.read_rows(workdir / "timing.jsonl") if "images_per_second" in row]
        # From the end of the first steps, which compile and count nowhere (on accelerators they are an epoch, whose
        # row has no images then), to the last checkpoint.
        images = sum(row["images_per_second"] * row["train_seconds"] for row in rows)
        if not images:
            raise UserError("a run needs more than one epoch here: --epochs=2 or more")
        whole.append(sum(row["train_seconds"] + row["other_seconds"] for row in rows) * batch / images)
    return bare, whole


def first_steps(name: str, experiment: Experiment, settings: Settings) -> Iterator[dict]:
    """A row for a process with an empty compilation cache, and one for the next with what the first has left there."""
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("cold", "warm"):
            seconds, first = _first_step(name, experiment, settings, Path(folder), cache)
            inside = first["seconds_to_first_step"]
            yield {
                "suite": "end_to_end",
                "model": experiment.config.model.name,
                "dtype": models.compute_dtype(experiment.config.model.dtype).name,
                "batch": experiment.order.batch_size,
                "dataset": experiment.dataset.name,
                "what": f"first step, {cache} cache" if first["step"] == 1 else f"first program, {cache} cache",
                "steps": first["step"],
                "seconds_from_start": seconds,
                "seconds_to_first_step": inside,
                "seconds_of_start_up": seconds - inside,
            }


def _first_step(name: str, experiment: Experiment, settings: Settings, folder: Path, label: str) -> tuple[float, dict]:
    """Seconds from the start of `python -m fer_jax.main` to the end of its first step, and its own row of it.

    On accelerators it is the end of the first program, of many steps.
    """
    workdir = folder / label
    command = [sys.executable, "-m", "fer_jax.main", f"--config={CONFIGS / name}.py:{settings.dataset}"]
    command += [f"--workdir={workdir}", f"--config.train.batch_size={experiment.order.batch_size}"]
    command += [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
    own = {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    log = folder / f"{label}.log"
    with log.open("w") as output:
        started = time.perf_counter()
        child = subprocess.Popen(command, env=os.environ | own, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            timing = workdir / "timing.jsonl"
            while not (timing.exists() and (rows := files.read_rows(timing))):
                seconds = time.perf_counter() - started
                if child.poll() is not None or seconds > DEADLINE:
                    last = (log.read_text().strip().splitlines() or ["no output"])[-1]
                    raise UserError(f"{' '.join(command)} did not come to its first step in {seconds:.0f} s: {last}")
                time.sleep(_LOOK_EVERY)
            return time.perf_counter() - started, rows[0]
        finally:
            child.kill()
            child.wait()
