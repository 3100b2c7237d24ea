"""What the data cost before the network sees them: the suite `input`, on a real data set.

Batches are streamed from decoded arrays in files; what these save is what reading and decoding the records costs.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from fer_jax import augment, sharding
from fer_jax.benchmark_measure import Work, alternate, speeds
from fer_jax.benchmark_models import FOREVER, Settings, config_of, random_experiment
from fer_jax.data import combine
from fer_jax.data.pipeline import ResidentSplit, StreamedSplit, train_order

BATCH = 64
DECODED = 256  # pictures that the decoding alone goes through
LEAD = 12  # batches: more than are read ahead, so that a stream is measured at the speed that it can keep up


def input_suite(settings: Settings) -> Iterator[dict]:
    """A row for each way that batches come to the device, for the decoding alone, and for each model's augmentation."""
    config = config_of(settings.models[0], settings)
    dataset = combine.load(config.data, settings.data_dir)
    batch = settings.batch or BATCH
    mesh = sharding.make_mesh()
    sharding.check_batch_size(batch, mesh, "train.batch_size")
    order = train_order(dataset.splits["train"], batch, 0)
    source = dataset.source("train")
    encoded = dataclasses.replace(source, decoders={"image": tfds.decode.SkipDecoding()})
    streamed = StreamedSplit(dataset.rows("train"), mesh, workers=0).batches(order, 0, FOREVER)
    works = {
        "device-resident": _arriving(ResidentSplit(dataset.arrays("train"), mesh).batches(order, 0, FOREVER)),
        "streamed": _arriving(streamed),
        "read and decoded, one thread": _reading(source, order),
        "read, one thread": _reading(encoded, order),
        "decoded, one thread": _decoding(source, encoded),
    }
    times = alternate(works, rounds=settings.rounds, seconds=settings.seconds, lead=LEAD)
    streamed.close()
    for what, seconds in times.items():
        images = 1 if what == "decoded, one thread" else batch
        yield _row(what, dataset.name, dataset.image_shape, batch, speeds(seconds, images))
    for name in settings.models:
        config = config_of(name, settings)
        shape, size = tuple(config.model.input_shape), config.train.batch_size
        experiment = random_experiment(config, images=size)
        options, _ = augment.split_options(augment.strengths(config.augment))
        seconds = alternate(
            {"augment": _augmenting(experiment.splits["train"].arrays["image"], options)},
            rounds=settings.rounds,
            seconds=settings.seconds,
        )["augment"]
        yield _row(f"augmentation of {name}: {', '.join(options)}", "random", shape, size, speeds(seconds, size))


def _row(what: str, dataset: str, shape: tuple[int, int, int], batch: int, speed: dict) -> dict:
    return {
        "suite": "input",
        "what": what,
        "dataset": dataset,
        "image_shape": shape,
        "batch": batch,
        "images_per_second": speed,
    }


def _arriving(batches: Iterable[dict]) -> Work:
    """Waits until each batch is on the device."""
    batches = iter(batches)

    def take(count: int) -> int:
        for batch in itertools.islice(batches, count):
            jax.block_until_ready(batch)
        return count

    return take


def _reading(source, order) -> Work:
    steps = itertools.count()

    def take(count: int) -> int:
        for _ in range(count):
            index, _ = order.step(next(steps))
            source.__getitems__(index.tolist())
        return count

    return take


def _decoding(source, encoded) -> Work:
    """The pictures of the records, one after the other."""
    pictures = itertools.cycle([encoded[i]["image"] for i in range(min(DECODED, len(source)))])
    feature = source.dataset_info.features["image"]

    def take(count: int) -> int:
        for picture in itertools.islice(pictures, count):
            feature.decode_example_np(picture)
        return count

    return take


def _augmenting(images: jax.Array, options: dict[str, np.float32]) -> Work:
    chain, keys = jax.jit(augment.augment_batch), itertools.cycle(list(jax.random.split(jax.random.key(0), 64)))

    def take(count: int) -> int:
        for key in itertools.islice(keys, count):
            seen = chain(key, images, 0, options)
        seen.block_until_ready()
        return count

    return take
