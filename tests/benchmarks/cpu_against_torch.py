"""Training step, inference and batch-1 latency against PyTorch, side by side on this machine's CPU.

    python -m tests.benchmarks.cpu_against_torch [--models mini_xception deep vggs_small] [--output FILE.json]

Both sides do the same work on the same weights (tests/torch_nets.py): forward in float32, or forward, backward and
an SGD update. PyTorch runs channels_last, eager and by `torch.compile` (which needs a C++ compiler). The three
alternate, `--repeats` times; the ratio is the faster PyTorch's time by ours, taken round by round: above 1 means that
we are faster. Needs `pip install torch`; run it on a machine that does nothing else.
"""

import argparse
import functools
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
    """{what: {who: function without arguments that does the work once and waits for it}}."""
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
        def mean_loss(params):
            out, updated = model.apply(variables | {"params": params}, whole, train=True, mutable=["batch_stats"])
            return heads.softmax_cross_entropy(out, labels).mean(), updated

        grads, updated = jax.grad(mean_loss, has_aux=True)(variables["params"])
        return {"params": jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], grads), **updated}

    state = {"variables": variables}

    def train():
        state["variables"] = jax.block_until_ready(step(state["variables"]))

    parameters = leaves(theirs["params"])
    torch_labels = torch.tensor(labels)

    def loss(variables, x):
        return torch.nn.functional.cross_entropy(network(variables, x, train=True), torch_labels)

    def logits(variables, x):
        return network(variables, x, train=False)

    def torch_training(loss):
        gradients = torch.autograd.grad(loss(theirs, torch_whole), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-1e-3)

    def torch_inference(logits, x):
        with torch.inference_mode():
            logits(theirs, x)

    def torch_sides(work, function, *arguments):
        forms = {"eager": function, "compiled": torch.compile(function, dynamic=False)}
        return {who: functools.partial(work, form, *arguments) for who, form in forms.items()}

    return {
        "training": {"ours": train} | torch_sides(torch_training, loss),
        "inference": {"ours": lambda: infer(variables, whole).block_until_ready()}
        | torch_sides(torch_inference, logits, torch_whole),
        "latency": {"ours": lambda: infer(variables, single).block_until_ready()}
        | torch_sides(torch_inference, logits, torch_single),
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
    for what, sides in workloads(name).items():
        for work in sides.values():
            work(), work()  # compile, allocate
        rounds = [{who: 1e3 * seconds(work) for who, work in sides.items()} for _ in range(repeats)]
        ratios = [min(times["eager"], times["compiled"]) / times["ours"] for times in rounds]
        median = {f"{who}_ms": statistics.median(times[who] for times in rounds) for who in sides}
        rows.append(
            {"model": name, "what": what}
            | median
            | {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
            | {"images": 1 if what == "latency" else BATCH, "n": repeats}
        )
        times = "   ".join(f"{who} {time:8.2f} ms" for who, time in zip(sides, median.values(), strict=True))
        ratio = f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}, n={repeats})"
        print(f"{name:14} {what:10} {times}   {ratio}", flush=True)
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
