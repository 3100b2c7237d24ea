"""Training step, inference and batch-1 latency against PyTorch, side by side on this machine's CPU.

    python -m tests.benchmarks.cpu_against_torch [--models mini_xception deep vggs_small] [--output FILE.json]

Both sides do the same work on the same weights (tests/torch_nets.py): forward in float32, or forward, backward and
an SGD update. PyTorch runs channels_last. The two alternate, `--repeats` times; the ratio is taken pair by pair, and
above 1 means that we are faster. Needs `pip install torch`; run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from fer_jax import heads, models, process
from tests import torch_nets

BATCH = 64
OPTIONS = {"deep": {"dropout": 0.0, "conv_dropout": 0.0}, "vggs_small": {"dropout": 0.0}}


def leaves(tree):
    return [leaf for value in tree.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]


def workloads(name):
    """{what: (ours, PyTorch's)}: functions without arguments that do the work once and wait for it."""
    model = models.create(name, num_outputs=7, **OPTIONS.get(name, {}))
    shape = models.MODELS[name].input_shape
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, *shape)).astype(np.float32)
    labels = np.arange(BATCH) % 7
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    theirs = torch_nets.to_torch(jax.device_get(variables))
    network = getattr(torch_nets, name)

    infer = jax.jit(lambda v, x: model.apply(v, x, train=False))
    whole, single = jnp.asarray(images), jnp.asarray(images[:1])
    torch_whole, torch_single = torch.tensor(images), torch.tensor(images[:1])  # NHWC in memory: channels_last

    @jax.jit
    def step(variables):
        def loss(params):
            out, updated = model.apply(variables | {"params": params}, whole, train=True, mutable=["batch_stats"])
            return heads.softmax_cross_entropy(out, labels).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        return {"params": jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], grads), **updated}

    state = {"variables": variables}

    def train():
        state["variables"] = jax.block_until_ready(step(state["variables"]))

    parameters = leaves(theirs["params"])
    torch_labels = torch.tensor(labels)

    def torch_train():
        loss = torch.nn.functional.cross_entropy(network(theirs, torch_whole, train=True), torch_labels)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-1e-3)

    def torch_infer(x):
        with torch.inference_mode():
            network(theirs, x, train=False)

    return {
        "training": (train, torch_train),
        "inference": (lambda: infer(variables, whole).block_until_ready(), lambda: torch_infer(torch_whole)),
        "latency": (lambda: infer(variables, single).block_until_ready(), lambda: torch_infer(torch_single)),
    }


def seconds(work, budget=0.5):
    """Median time of one call, over as many as fit the budget (three at least)."""
    times = []
    while len(times) < 3 or sum(times) < budget:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(name, repeats):
    """Rows of the table for one model."""
    rows = []
    for what, (ours, theirs) in workloads(name).items():
        for work in (ours, theirs):
            work(), work()  # compile, allocate
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
        ratios = [torch_time / our_time for our_time, torch_time in pairs]
        images = 1 if what == "latency" else BATCH
        row = {
            "model": name,
            "what": what,
            "ours_ms": 1e3 * statistics.median(pair[0] for pair in pairs),
            "torch_ms": 1e3 * statistics.median(pair[1] for pair in pairs),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "images": images,
            "n": repeats,
        }
        rows.append(row)
        print(
            f"{name:14} {what:10} ours {row['ours_ms']:8.2f} ms   PyTorch {row['torch_ms']:8.2f} ms   "
            f"ratio {row['ratio']:.2f} ({min(ratios):.2f}..{max(ratios):.2f}, n={repeats})",
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mini_xception", "deep", "vggs_small"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output")
    options = parser.parse_args()
    process.keep_freed_memory()  # for both sides
    torch.set_num_threads(os.cpu_count())
    rows = [row for name in options.models for row in compare(name, options.repeats)]
    if options.output:
        environment = {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "jax": jax.__version__,
            "torch": torch.__version__,
        }
        Path(options.output).write_text(json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
