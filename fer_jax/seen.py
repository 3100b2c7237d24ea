"""Which images a finished run has seen: a score on those that trained or selected it says too much of new faces."""

from pathlib import Path

import numpy as np

from fer_jax import run_directory
from fer_jax.data import combine, prepare
from fer_jax.data.rows import digests
from fer_jax.errors import UserError


def trained_on(config: dict, results: dict, data: prepare.Dataset) -> bool:
    """Whether a run was trained on this data set."""
    return run_directory.fingerprint(config, results) == data.fingerprint


def copies(
    images: np.ndarray, config: dict, results: dict, data: prepare.Dataset, split: str, *, transfer: bool
) -> np.ndarray | None:
    """Which of the images of a split are exact copies of some that trained or selected the run: bool [n].

    None where that is not known: its data are not at hand, or it trained without examples that a file lists.

    Args:
      config, results: of the run, as of `run_directory.read_finished`.
      transfer: whether `data` are others than the run's.
    """
    if config["data"]["exclude"]:
        return None
    none = np.zeros(len(images), bool)
    seen = {"train", results["selected_on"]} - {None}
    if transfer:
        if results["synthetic"] != data.synthetic:
            return none
        try:
            data = combine.load(config["data"])
        except UserError:
            return None
        if not trained_on(config, results, data):
            return None
    else:
        seen -= {split}
    if data.image_shape != images.shape[1:]:
        return none
    # Of the images as they are given to the network, which those of joined data are not as they were prepared.
    known = [digests(data.arrays(each)["image"]) for each in sorted(seen)]
    return np.isin(digests(images), np.concatenate(known)) if known else none


def optimistic_because(
    member: Path, images: np.ndarray, data: prepare.Dataset, split: str, copied: np.ndarray | None
) -> str | None:
    """Why the answers of an ensemble's member to these images may be better than to new faces; None: no reason known.

    Args:
      member: a run directory, or as `recognizer.load` takes it.
      copied: which of them the first run has seen, where known: those are reported with its own score.
    """
    unknown = f"whether {member} was trained on these images is not known"
    if not (member / "results.json").exists():
        return f"{unknown}, it is no finished run"
    config, results = run_directory.read_finished(member)
    began, pretrained, teachers = None, config["model"]["pretrained"], results.get("teachers", [])
    if pretrained:
        began = f"whether {pretrained}, with which {member} began, was trained on these images is not known"
    if trained_on(config, results, data):
        done = {"train": "trained"} | {results["selected_on"]: "selected"}
        doubts = "; ".join(doubt for teacher in teachers for doubt in teacher["doubts"])
        return f"{member} was {done[split]} on this split" if split in done else doubts or began
    if names := ", ".join(teacher["name"] for teacher in teachers):
        began = f"whether the teachers of {member}, {names}, were trained on these images is not known"
    seen = copies(images, config, results, data, split, transfer=True)
    if seen is None:
        return f"{unknown}, its data are not at hand"
    more = seen if copied is None else seen & ~copied
    return f"{member} was trained or selected on {more.sum():,} of these images" if more.any() else began
