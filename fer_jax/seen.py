"""Which images a finished run has seen: a score on those that trained or selected it says too much of new faces."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_jax import checkpoint, files, run_directory
from fer_jax.data import audit, combine, prepare
from fer_jax.errors import UserError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Predecessor:
    """A network that a run learns from, a teacher or the one it begins with, as results.json tells of it."""

    name: str  # a run directory, or as `recognizer.load` takes it
    weights: str  # a digest of them
    doubts: tuple[str, ...]  # why scores of the run may be too high, see `doubts`


def predecessor(field: str, name: str, dataset: prepare.Dataset) -> Predecessor:
    """The network that a field of a config names, for a run on a data set; what is doubtful of it is logged.

    Raises:
      FileNotFoundError: there is none.
    """
    told = tuple(doubts(name, dataset))
    for doubt in told:
        log.warning("%s: scores may be too high: %s", field, doubt)
    return Predecessor(name, checkpoint.digest_of_weights(name), told)


def learnt_from(results: dict) -> list[dict]:
    """The predecessors that results.json tells of, the network that the run began with and its teachers."""
    return [each for each in (results.get("began_with"), *results.get("teachers", ())) if each]


def trained_on(config: dict, results: dict, data: prepare.Dataset) -> bool:
    """Whether a run was trained on this data set."""
    return run_directory.fingerprint(config, results) == data.fingerprint


def copies(
    digests: np.ndarray, config: dict, results: dict, data: prepare.Dataset, split: str, *, transfer: bool
) -> np.ndarray | None:
    """Which images of a split are exact copies of some that trained or selected the run: bool [n].

    None where that is not known: its data are not at hand, or the list of the examples that it trained without.

    Args:
      digests: of the images as they were prepared, before joined data bring them to one shape: uint64 [n], see
        `prepare.Dataset.digests`.
      config, results: of the run, as of `run_directory.read_finished`.
      transfer: whether `data` are others than the run's.
    """
    known = {"train", results["selected_on"]} - {None}
    if not transfer:
        known -= {split}
    elif _drawn_or_photographed(config, results, data):
        return np.zeros(len(digests), bool)
    try:
        data = _as_trained_on(config, results, None if transfer else data)
    except UserError:
        return None
    return np.isin(digests, np.concatenate([np.empty(0, np.uint64), *(data.digests(each) for each in known)]))


def _drawn_or_photographed(config: dict, results: dict, data: prepare.Dataset) -> bool:
    """Whether either a run or these data have drawn faces alone, and the other has photographed ones alone."""
    joined = data.directory is None or any(config["data"][role] for role in combine.ROLES)
    return not joined and results["synthetic"] != data.synthetic


def _as_trained_on(config: dict, results: dict, data: prepare.Dataset | None = None) -> prepare.Dataset:
    """What a run was trained on: its data, all of them, without the training images that a file lists.

    Args:
      data: all of them, where they are at hand already.

    Raises:
      UserError: they are not at hand, or the list is not.
    """
    if data is None:
        data = combine.load(config["data"], fingerprint=run_directory.fingerprint(config, results))
    if path := config["data"]["exclude"]:
        data = audit.without_listed(path, data)
    if results.get("fingerprint") != data.fingerprint:
        raise UserError("the data at hand are others")
    return data


def optimistic_because(
    member: Path, digests: np.ndarray, data: prepare.Dataset, split: str, copied: np.ndarray | None
) -> str | None:
    """Why the answers of an ensemble's member to these images may be better than to new faces; None: no reason known.

    Args:
      member: a run directory, or as `recognizer.load` takes it.
      digests: of these images, as of `copies`.
      copied: which of them the first run has seen, where known: those are reported with its own score.
    """
    unknown = f"whether {member} was trained on these images is not known"
    if not (member / "results.json").exists():
        return f"{unknown}, it is no finished run"
    config, results = run_directory.read_finished(member)
    pretrained, known = config["model"]["pretrained"], learnt_from(results)
    names = [each["name"] for each in known]
    if pretrained and not results.get("began_with"):  # by a version that did not look it up
        names.append(pretrained)
    learnt = f"what {member} learnt from, {', '.join(names)}, may have been trained on these images" if names else None
    if trained_on(config, results, data):
        if split in (done := {"train": "trained"} | {results["selected_on"]: "selected"}):
            return f"{member} was {done[split]} on this split"
        told = "; ".join(doubt for each in known for doubt in each["doubts"])
        return told or (learnt if len(names) > len(known) else None)
    seen = copies(digests, config, results, data, split, transfer=True)
    if seen is None:
        return f"{unknown}, its data are not at hand"
    more = seen if copied is None else seen & ~copied
    return f"{member} was trained or selected on {more.sum():,} of these images" if more.any() else learnt


def doubts(name: str, dataset: prepare.Dataset, pupils: tuple[str, ...] = ()) -> Iterator[str]:
    """Why a predecessor, or a network that it learnt from itself, may know images that the run's data set holds out.

    Being selected on them is not counted: by that the run learns nothing of single images.

    Args:
      name: a run directory, or as `recognizer.load` takes it.
      pupils: those that learnt from it, for the walk.
    """
    run = files.user_path(name)
    if not (run / "results.json").exists():
        if _knows_emotions(name):
            yield f"whether {name} was trained on held-out images is not known, it is no finished run"
        return
    config, results = run_directory.read_finished(run)
    if results.get("fingerprint") != dataset.fingerprint and not _drawn_or_photographed(config, results, dataset):
        try:
            yield from _shared(name, config, results, dataset)
        except UserError:
            yield f"whether {name} was trained on held-out images is not known, its data are not at hand"
    for other in filter(None, (config["model"]["pretrained"], *config["head"]["teachers"])):
        if other in (name, *pupils):
            yield f"whether the {other} that {name} learnt from was trained on held-out images is not known, it is gone"
        else:
            yield from doubts(other, dataset, (name, *pupils))


def _knows_emotions(name: str) -> bool:
    """Whether weights name what they tell apart; those that do not, as ImageNet's, were not trained on such images."""
    try:
        _, metadata = checkpoint.load_weights(name)
    except UserError:  # they are gone
        return True
    return bool(metadata["emotions"])


def _shared(name: str, config: dict, results: dict, dataset: prepare.Dataset) -> Iterator[str]:
    """How many held-out images a run was trained on, without copies of what its successor is trained on as well.

    Raises:
      UserError: as of `_as_trained_on`.
    """
    data = _as_trained_on(config, results)
    for split in dataset.splits:
        held_out = dataset.digests(split)
        known = np.isin(held_out, data.digests("train")) & ~np.isin(held_out, dataset.digests("train"))
        if known.any():
            yield f"{name} was trained on {known.sum():,} of the {len(known):,} images of {split}"
