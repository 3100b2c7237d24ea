"""What a network costs to train and to ask: the suites `train` and `infer`, on random faces of its own input shape."""

import dataclasses
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax import config as config_lib
from fer_jax import models, ops, run, sharding, train
from fer_jax.benchmark_measure import (
    alternate,
    alternate_calls,
    compile_anew,
    peak_bytes,
    program_bytes,
    ratios,
    speeds,
    spread,
    utilisation,
)
from fer_jax.course import fresh_state
from fer_jax.data import normalization
from fer_jax.data.dataset import Dataset
from fer_jax.data.emotions import BASIC7, expressed
from fer_jax.data.pipeline import ResidentSplit, Split, train_order
from fer_jax.errors import UserError, unknown
from fer_jax.evaluate import Evaluator
from fer_jax.recognizer import Recognizer
from fer_jax.run import Experiment

CONFIGS = Path(__file__).parents[1] / "configs"
EPOCH_STEPS = 32  # of the random data
LATENCY_CALLS = 200  # at least, over all rounds
FOREVER = 10**9  # steps

Start = tuple[train.TrainState, jax.Array]  # of `course.fresh_state`


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    models: tuple[str, ...]
    dtypes: tuple[str, ...]
    rounds: int = 7
    seconds: float = 0.5  # of each side in a round
    batch: int | None = None  # None: the config's own
    dataset: str = "synthetic"  # of the suites that need real records
    data_dir: str | None = None
    images: int | None = None  # of the training split, at most; None: all
    epochs: int = 10  # of a whole run
    rival: ModuleType | None = None  # tests.benchmarks.torch_side


def config_of(name: str, settings: Settings, *, dtype: str = "auto") -> ConfigDict:
    """The config `configs/<name>.py` of a checkout, on the data set of the settings.

    Raises:
      UserError: there is none.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.py"))
    if not known:
        raise UserError(f"the benchmark trains the configs of a checkout, and there is no {CONFIGS}: run it in one")
    if name not in known:
        raise unknown("config", name, known)
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](settings.dataset)
    overrides = {"model.dtype": dtype}
    if settings.batch:
        overrides["train.batch_size"] = settings.batch
    return config_lib.overridden(config, overrides)


def random_experiment(config: ConfigDict, *, images: int) -> Experiment:
    """An experiment on random faces in device memory, of the shape that the network takes."""
    shape, rng = tuple(config.model.input_shape), np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int32) % len(BASIC7)
    arrays = {
        "image": rng.integers(0, 256, (images, *shape), dtype=np.uint8),
        "label": labels,
        "intensity": np.zeros((images, len(expressed(BASIC7))), np.float32),
    }
    dataset = Dataset(
        name="random",
        variant="",
        emotions=BASIC7,
        image_shape=shape,
        has_intensity=False,
        synthetic=True,
        directory=None,
        splits={"train": images},
        class_counts={"train": tuple(np.bincount(labels, minlength=len(BASIC7)).tolist())},
        fingerprint="random",
    )
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    split = ResidentSplit(arrays, mesh)
    order = train_order(images, config.train.batch_size, config.seed)
    recipe = run.make_recipe(config, dataset, order.steps_per_epoch)
    normalizer = normalization.compute(config.data.normalization, split, recipe.input_shape, devices=mesh.size)
    evaluator = Evaluator(recipe, mesh, batch_size=config.eval.batch_size)
    return Experiment(config, dataset, mesh, {"train": split}, order, recipe, normalizer, evaluator)


class Step:
    """The bare training step, augmentation and all, on one batch that stays on the device."""

    def __init__(self, experiment: Experiment, start: Start):
        self._state, self._key = _copied(start)
        self._hyper = sharding.replicate(experiment.hyperparameters, experiment.mesh)
        self._batch = next(experiment.splits["train"].batches(experiment.order, 0, 1))
        self._program = train.compile_step(experiment.recipe, experiment.mesh)
        lowered = self._program.lower(self._state, self._batch, self._key, self._hyper)
        compiled, self.compile_seconds = compile_anew(lowered)
        self.program_bytes = program_bytes(compiled)

    def take(self, count: int) -> int:
        """Takes the steps and waits for them."""
        for _ in range(count):
            self._state, metrics = self._program(self._state, self._batch, self._key, self._hyper)
        jax.block_until_ready(metrics)
        return count


class Training:
    """Training as `run.fit` does it, each batch from the split, to be measured in pieces."""

    def __init__(self, experiment: Experiment, start: Start, split: Split | None = None):
        state, key = _copied(start)
        self._steps = train.training_steps(
            state,
            split or experiment.splits["train"],
            experiment.order,
            key,
            sharding.replicate(experiment.hyperparameters, experiment.mesh),
            recipe=experiment.recipe,
            mesh=experiment.mesh,
            stop=FOREVER,
        )

    def take(self, count: int) -> int:
        """Takes at least so many steps (where epochs are one program, whole epochs) and waits for them."""
        done = 0
        while done < count:
            _, metrics = next(self._steps)
            done += metrics["loss"].size
        jax.block_until_ready(metrics)
        return done

    def close(self) -> None:
        """Ends the reading of streamed data."""
        self._steps.close()


def _copied(start: Start) -> Start:
    """A start of one's own: the step gives the memory of its state away."""
    return jax.tree.map(jnp.copy, start[0]), start[1]


def train_suite(settings: Settings) -> Iterator[dict]:
    """A row for each model and dtype: the step alone, and an epoch of resident data, against the rival's forms."""
    for name in settings.models:
        for dtype in settings.dtypes:
            config = config_of(name, settings, dtype=dtype)
            batch = config.train.batch_size
            experiment = random_experiment(config, images=EPOCH_STEPS * batch)
            start = fresh_state(experiment)
            step = Step(experiment, start)
            works = {"step": step.take, "epoch": Training(experiment, start).take}
            rivals = settings.rival.trainings(experiment, start[0].variables) if settings.rival else {}
            for form, rival in rivals.items():
                works |= {f"{form} step": rival.take_steps, f"{form} epoch": rival.take_epoch_steps}
            # Forward, gradient by the activations, gradient by the weights (Chowdhery et al. 2022, appendix B).
            flops = 3 * models.forward_flops(experiment.recipe.model, experiment.recipe.input_shape)
            times = alternate(works, rounds=settings.rounds, seconds=settings.seconds)
            speed, epoch_speed = (speeds(times[what], batch) for what in ("step", "epoch"))
            fastest = max(speed["median"], epoch_speed["median"])  # on accelerators the epoch, which is one program
            row = {
                **_identity("train", name, dtype, batch),
                "images_per_second": speed,
                "epoch_images_per_second": epoch_speed,
                "compile_seconds": step.compile_seconds,
                "program_bytes": step.program_bytes,
                "peak_bytes_so_far": peak_bytes(),
                "flops_per_image": flops,
                **utilisation(fastest * flops, dtype, experiment.mesh.size),
            }
            if rivals:
                row["against"] = {
                    "images_per_second": {form: speeds(times[f"{form} step"], batch) for form in rivals},
                    "epoch_images_per_second": {form: speeds(times[f"{form} epoch"], batch) for form in rivals},
                    "ratio": ratios(times["step"], *(times[f"{form} step"] for form in rivals)),
                    "epoch_ratio": ratios(times["epoch"], *(times[f"{form} epoch"] for form in rivals)),
                    "peak_bytes": {form: rival.peak_bytes for form, rival in rivals.items()},
                }
            yield row


def infer_suite(settings: Settings) -> Iterator[dict]:
    """A row for each model and dtype: images/s of batches on the device, latency of one face from host to host."""
    for name in settings.models:
        for dtype in settings.dtypes:
            config = config_of(name, settings, dtype=dtype)
            batch = config.train.batch_size
            experiment = random_experiment(config, images=batch)
            net = recognizer(experiment)
            images = np.asarray(experiment.splits["train"].arrays["image"])
            variables, on_device = jax.device_put((net.variables, images), jax.devices()[0])
            forward = ops.jit(net.answer)
            compiled, compile_seconds = compile_anew(forward.lower(variables, on_device))
            works = {"ours": _repeated(forward, variables, on_device)}
            calls = {"ours": lambda net=net, face=images[:1]: net.predict(face)}
            rivals = settings.rival.inferences(experiment, net) if settings.rival else {}
            works |= {form: rival.take for form, rival in rivals.items()}
            calls |= {form: rival.answer_one for form, rival in rivals.items()}
            times = alternate(works, rounds=settings.rounds, seconds=settings.seconds)
            each = alternate_calls(calls, rounds=settings.rounds, count=-(-LATENCY_CALLS // settings.rounds))
            flops = models.forward_flops(net.model, net.input_shape)
            speed = speeds(times["ours"], batch)
            row = {
                **_identity("infer", name, dtype, batch),
                "images_per_second": speed,
                "latency": _latency(each["ours"]),
                "compile_seconds": compile_seconds,
                "program_bytes": program_bytes(compiled),
                "peak_bytes_so_far": peak_bytes(),
                "flops_per_image": flops,
                **utilisation(speed["median"] * flops, dtype, 1),
            }
            if rivals:
                medians = {side: [float(np.median(some)) for some in rounds] for side, rounds in each.items()}
                row["against"] = {
                    "images_per_second": {form: speeds(times[form], batch) for form in rivals},
                    "latency": {form: _latency(each[form]) for form in rivals},
                    "ratio": ratios(times["ours"], *(times[form] for form in rivals)),
                    "latency_ratio": ratios(medians["ours"], *(medians[form] for form in rivals)),
                }
            yield row


def recognizer(experiment: Experiment) -> Recognizer:
    """The untrained network of an experiment."""
    state, _ = fresh_state(experiment)
    model = experiment.recipe.model.clone(axis_name=None)
    variables = jax.device_get(state.variables)
    return Recognizer(model, experiment.recipe.head, variables, BASIC7, experiment.recipe.input_shape)


def _repeated(function: Callable, *arguments) -> Callable[[int], int]:
    def take(count: int) -> int:
        for _ in range(count):
            answers = function(*arguments)
        jax.block_until_ready(answers)
        return count

    return take


def _latency(rounds: list[list[float]]) -> dict[str, float | int]:
    """Milliseconds of a call over all rounds, and between the medians of the rounds."""
    calls = 1e3 * np.concatenate(rounds)
    return {
        "median_ms": float(np.median(calls)),
        "p95_ms": float(np.quantile(calls, 0.95)),
        "calls": len(calls),
        "rounds_ms": spread([1e3 * float(np.median(some)) for some in rounds]),
    }


def _identity(suite: str, model: str, dtype: str, batch: int) -> dict:
    return {"suite": suite, "model": model, "dtype": dtype, "batch": batch}
