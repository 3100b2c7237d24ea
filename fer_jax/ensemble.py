"""An ensemble: the mean of the probabilities of several trained networks, on one split.

    python -m fer_jax.ensemble runs/a runs/b runs/c --data_dir=PATH [--split=test]

The members may differ in architecture and input; their emotions must be the same, and are matched by name. The
data set is the one in the first run's config.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax import recognizer
from fer_jax.data import prepare
from fer_jax.data.emotions import remap
from fer_jax.errors import UserError
from fer_jax.recognizer import Recognizer


def mean_probabilities(members: Sequence[Recognizer], images: np.ndarray, emotions: tuple[str, ...]) -> np.ndarray:
    """The mean over the members of the probability of each of the emotions: float32 [n, C].

    Raises:
      UserError: a member knows other emotions.
    """
    total = np.zeros((len(images), len(emotions)), np.float64)
    for member in members:
        if set(member.emotions) != set(emotions):
            raise UserError(f"a member knows {', '.join(member.emotions)}, the data have {', '.join(emotions)}")
        total[:, remap(member.emotions, emotions)] += member.predict(images).probabilities
    return (total / len(members)).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m fer_jax.ensemble", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--data_dir", type=Path, help="where the raw data lie")
    parser.add_argument("--split", default="test", help="default: test")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        members = [recognizer.load(run) for run in options.runs]
        config = json.loads((options.runs[0] / "config.json").read_text())["data"]
        dataset = prepare.load(config["name"], variant=config["variant"] or None, data_dir=options.data_dir)
        arrays = dataset.arrays(options.split)
        print(f"{dataset.name}, {options.split} split, {len(arrays['label']):,} images")
        rows = [(str(run), [member]) for run, member in zip(options.runs, members, strict=True)]
        for name, some in [*rows, (f"mean of {len(members)}", members)]:
            predicted = mean_probabilities(some, arrays["image"], dataset.emotions).argmax(1)
            print(f"  {(predicted == arrays['label']).mean():7.2%}  {name}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
