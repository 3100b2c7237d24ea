"""What a network costs: parameters, megabytes, operations, and its speed on the machine at hand."""

import os
import time
from pathlib import Path

import jax
import numpy as np

from fer_jax import logs, models
from fer_jax.recognizer import Recognizer

BATCH = 256  # images at once when the throughput is measured: what `Recognizer.predict` takes by default
_SECONDS = 2.0  # that each of the two measurements may take, once it has its fewest rounds
_ROUNDS = {BATCH: (3, 20), 1: (20, 200)}  # images at once -> fewest and most rounds


def size(net: Recognizer, weights: Path) -> dict[str, float]:
    """Parameters, megabytes (of 1e6 bytes) in float32, bfloat16 and of the weights file, `models.forward_flops`."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(net.variables["params"]))
    return {
        "parameters": parameters,
        "megabytes_float32": 4 * parameters / 1e6,
        "megabytes_bfloat16": 2 * parameters / 1e6,
        "megabytes_file": weights.stat().st_size / 1e6,
        "mflops": models.forward_flops(net.model, net.input_shape) / 1e6,
    }


def speed(net: Recognizer, images: np.ndarray) -> dict[str, float | int | str]:
    """How fast `Recognizer.predict` answers here, from images in memory to probabilities in memory.

    Args:
      images: uint8 [n, H, W, C]; repeated where there are fewer than BATCH.

    Returns:
      images_per_second, the median over the rounds at BATCH images; latency_p50_ms and latency_p95_ms of single faces;
      rounds of each; device, cores, jax. Everything else on the machine slows it down too.
    """
    many, few = (_seconds(net, np.resize(images, (count, *images.shape[1:]))) for count in (BATCH, 1))
    return {
        "images_per_second": BATCH / float(np.median(many)),
        "batch_size": BATCH,
        "batch_rounds": len(many),
        "latency_p50_ms": 1e3 * float(np.quantile(few, 0.5)),
        "latency_p95_ms": 1e3 * float(np.quantile(few, 0.95)),
        "latency_rounds": len(few),
        "device": logs.device_name(),
        "cores": os.cpu_count() or 1,
        "jax": jax.__version__,
    }


def _seconds(net: Recognizer, images: np.ndarray) -> list[float]:
    """The seconds of each of some rounds, after one that compiles."""
    fewest, most = _ROUNDS[len(images)]
    net.predict(images)
    rounds = []
    while len(rounds) < fewest or (sum(rounds) < _SECONDS and len(rounds) < most):
        started = time.perf_counter()
        net.predict(images)
        rounds.append(time.perf_counter() - started)
    return rounds
