"""Members of a sweep trained at once against one after another: seconds a step of all of them.

    python -m tests.benchmarks.stacking [--models mini_xception deep] [--members 4 16] [--output=FILE]

Every form of `fer_jax.stack` is timed on this machine's devices with the models' own configs and batch sizes, on the
synthetic faces. Printed and written as JSON: the median of some rounds, and the ratio to one run alone.
"""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from fer_jax import process


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.stacking")
    parser.add_argument("--models", nargs="+", default=["mini_xception", "deep"], help="files in configs/")
    parser.add_argument("--members", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    process.set_up()
    from fer_jax import logs, run, stack_cost

    rows = []
    for name in options.models:
        config = importlib.import_module(f"configs.{name}").get_config("synthetic")
        with config.unlocked():
            config.data.residence = "device"
        experiment = run.build(config)
        one = stack_cost.measure(experiment, 1, (stack_cost.SEQUENTIAL,))[0].seconds
        for members in options.members:
            for cost in stack_cost.measure(experiment, members, stack_cost.FORMS):
                row = {"model": name, "batch": config.train.batch_size, "members": members, "form": cost.form}
                row |= {"at_once": cost.at_once, "seconds": cost.seconds, "times_one_run": cost.seconds / one}
                rows.append(row)
                print(
                    f"{name:<16}{members:>4} members  {cost.form:<11}{1e3 * cost.seconds:>9.1f} ms a step of all, "
                    f"{row['times_one_run']:6.1f} times one run",
                    flush=True,
                )
    if options.output:
        options.output.write_text(json.dumps({"environment": logs.environment(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
