"""What augmentation costs: images/s of each operation and of chains, and their share of a vggs_small step.

    python -m tests.benchmarks.augmentation [--output FILE.json]

Batches of 64 faces of 128x128x3, on whatever device JAX has. The step is the whole training step without augmentation;
chain and step take turns, so that what else the machine does slows both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from fer_jax import augment, config, heads, logs, models, optim, process, sharding, train
from fer_jax.data import synthetic
from fer_jax.data.emotions import BASIC7

BATCH = 64
CALLS = 4
STRENGTHS = {"flip": 0.5, "shift": 0.1, "brightness": 0.2, "rotate": 15.0, "scale": 0.1, "crop": 0.1, "variant": 0.4}
STRENGTHS |= {"blur": 0.3, "contrast": 0.3, "gamma": 0.3, "noise": 8.0, "erase": 0.2}
CHAINS = {
    "default (flip, shift, brightness)": ("flip", "shift", "brightness"),
    "Xu et al. (flip, shift, one of the 28)": ("flip", "shift", "variant"),
    "geometry (flip, rotate, scale, crop)": ("flip", "rotate", "scale", "crop"),
    "everything": tuple(STRENGTHS),
}


def milliseconds(*works) -> list[float]:
    """The time of one call of each, of CALLS waited for together, in turn; medians of 9 rounds after two."""
    rounds = []
    for _ in range(11):
        times = []
        for work in works:
            start = time.perf_counter()
            for _ in range(CALLS):
                result = work()
            jax.block_until_ready(result)
            times.append(1e3 * (time.perf_counter() - start) / CALLS)
        rounds.append(times)
    return [statistics.median(times) for times in zip(*rounds[2:], strict=True)]


def bare_step(batch):
    """A call that takes one step of vggs_small without augmentation."""
    settings = config.default_config()
    settings.augment.update(dict.fromkeys(settings.augment, 0.0))
    recipe = train.Recipe(
        model=models.create(
            "vggs_small", num_outputs=7, axis_name=sharding.AXIS, dtype=models.compute_dtype("auto"), dropout=0.2
        ),
        head=heads.make_head("classification", BASIC7),
        optimizer=optim.make_optimizer(settings.optim),
        schedule=lambda step: 1.0,
        input_shape=(128, 128, 3),
    )
    mesh = sharding.make_mesh(jax.devices()[:1])
    normalizer = {"mean": np.full(3, 127.5, np.float32), "scale": np.full(3, 1 / 127.5, np.float32)}
    state = [train.init_state(recipe, jax.random.key(0), normalizer, mesh, ema=False)]
    hyper = sharding.replicate(train.hyperparameters(settings, [1] * 7), mesh)
    program = train.compile_step(recipe, mesh)
    batch, key = sharding.split_batch(batch, mesh), jax.random.key(1)

    def step():
        state[0], metrics = program(state[0], batch, key, hyper)
        return metrics

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output")
    options = parser.parse_args()
    process.keep_freed_memory()
    faces = [synthetic.example(0, i, i) for i in range(BATCH)]
    images = np.stack([face.image for face in faces])
    labels = np.array([BASIC7.index(face.emotion) for face in faces], np.int32)
    intensity = np.stack([face.intensity for face in faces])
    step = bare_step({"image": images, "label": labels, "intensity": intensity, "mask": np.ones(BATCH, bool)})
    on_device, key = jax.device_put(images), jax.random.key(0)
    rows = []
    for name, members in (CHAINS | {name: (name,) for name in STRENGTHS}).items():
        strengths = {member: np.float32(STRENGTHS[member]) for member in members}
        chain = jax.jit(augment.augment_batch)
        cost, whole = milliseconds(lambda chain=chain, s=strengths: chain(key, on_device, 0, s), step)
        rows.append({"chain": name, "ms": cost, "images_per_s": 1e3 * BATCH / cost, "share_of_step": cost / whole})
        speed = f"{1e3 * BATCH / cost:9,.0f} images/s"
        print(f"{name:40} {cost:8.2f} ms {speed} {cost / whole:7.1%} of a step", flush=True)
    if options.output:
        environment = logs.environment() | {"batch": BATCH}
        Path(options.output).write_text(json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
