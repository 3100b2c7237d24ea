"""Selections that a config asks for: some emotions or images only, a fold, several data sets joined.

    config.data.emotions = ("happy", "sad", "neutral")             # the rest is left out
    config.data.limit = 2000                                       # of the training images, for learning curves
    config.data.folds, config.data.fold = 5, 0                     # cross-validation: sweep over data.fold
    config.data.name = "xu"                                        # a name for what is joined
    config.data.train = ({"name": "mug"}, {"name": "ckplus"})
    config.data.validation = ({"name": "kdef", "variant": "straight"},)

Of a part `name` is needed; `variant` and `splits` (which of its splits; all) may be given, and `folder`: where its raw
data lie in --data_dir, by default a folder of its name.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import files
from fer_jax.data import prepare, subjects
from fer_jax.data.dataset import CannotKeep, Dataset, Pick, Selection, select
from fer_jax.data.emotions import CANONICAL
from fer_jax.errors import UserError, unknown

log = logging.getLogger(__name__)

ROLES = ("train", "validation", "test")
SAME_IMAGES = 0.5  # of a part in another role: they are the same data
PART = ("name", "variant", "folder", "splits")  # what a config says of a part


def load(data: Mapping[str, Any], data_dir: str | Path | None = None, *, fingerprint: str = "") -> Dataset:
    """What the fields `data` of a config, or of the completed config.json of a run, ask for.

    That is a data set as `prepare.load` gives it or several joined (`data.train`, ...), of which only some emotions
    (`data.emotions`) or training images (`data.limit`) may be kept or one fold be held out (`data.folds`).

    Args:
      data_dir: where the raw data lie; of joined data sets the folder with a folder for each.
      fingerprint: of what is wanted, for the choice among data of one name that were prepared before; for joined data
        it chooses none.

    Raises:
      UserError: as `prepare.load`, or what is asked for cannot be had of these data.
    """
    from fer_jax.data.datasets import DATASETS

    roles = {role: [_read_part(part, role) for part in data[role]] for role in ROLES}
    roles = {role: parts for role, parts in roles.items() if parts}
    if roles:
        if data["name"] in DATASETS:
            raise UserError(
                f"data.name = {data['name']!r} is the name of one data set: give what data.train, data.validation and "
                f"data.test join another, e.g. --config.data.name=joined"
            )
        loaded = {role: [_load_part(part, data_dir, data["align"]) for part in parts] for role, parts in roles.items()}
        dataset = combine(data["name"], loaded)
    else:
        options = {"variant": data["variant"] or None, "align": data["align"], "fingerprint": fingerprint}
        dataset = prepare.load(data["name"], data_dir=data_dir, **options)
    if data["emotions"]:
        dataset = restrict(dataset, data["emotions"])
    folds, by_image = data["folds"], data["fold_by"] == "image"
    if data["limit"]:
        # What is divided into folds is trained on in its turn.
        dataset = limit(dataset, data["limit"], tuple(dataset.splits) if folds and not by_image else ("train",))
    if folds:
        dataset = (fold_images if by_image else fold)(dataset, folds, data["fold"])
    return dataset


def _load_part(part: dict, data_dir: str | Path | None, align: str) -> tuple[Dataset, Sequence[str]]:
    folder = files.user_path(data_dir) / part["folder"] if data_dir is not None else None
    dataset = prepare.load(part["name"], variant=part["variant"] or None, align=align, data_dir=folder)
    return dataset, part["splits"] or tuple(dataset.splits)


def fold(dataset: Dataset, folds: int, held_out: int) -> Selection:
    """One fold of the subjects as the validation split, all others as the training split, whatever splits they had.

    Args:
      folds: into how many sets the subjects are divided, the same for every `held_out` (see `subjects.folds`).
      held_out: 0..folds-1.

    Raises:
      UserError: the data set does not know its subjects, or there are fewer than folds.
    """
    named = {split: dataset.subjects(split) for split in dataset.splits}
    if any((names == "").any() for names in named.values()):
        raise UserError(
            f"{dataset.name} does not tell who is shown in its images, so it cannot be divided into folds of subjects: "
            f"set data.folds = 0 or data.fold_by = 'image', or choose a data set that does (ckplus, jaffe, kdef, mug, "
            f"csv with a column subject)"
        )
    chosen = subjects.folds(np.concatenate(list(named.values())).tolist(), folds)[held_out]
    inside = {split: np.isin(names, sorted(chosen)) for split, names in named.items()}
    picks = {
        "train": [Pick(dataset, split, np.flatnonzero(~held)) for split, held in inside.items()],
        "validation": [Pick(dataset, split, np.flatnonzero(held)) for split, held in inside.items()],
    }
    picks = {role: tuple(pick for pick in members if pick.size) for role, members in picks.items()}
    return select(dataset, picks)


def fold_images(dataset: Dataset, folds: int, held_out: int) -> Selection:
    """`fold` for data that do not tell who is shown: of the images of the training split, each emotion alike.

    Equal images, and the frames of one video, are on the same side.
    The other splits are left out, so that what is chosen by these folds can still be tested on them.

    Raises:
      UserError: no training split, or an emotion has fewer images than there are folds.
    """
    if (dataset.subjects("train") != "").any():
        log.warning(
            "data: folds by image of %s have people in training and validation, scores will be too high; "
            "data.fold_by = 'subject' keeps them apart",
            dataset.name,
        )
    labels, first = dataset.labels("train"), _first_alike(dataset)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero((labels == label) & (first == np.arange(len(first))))
        if len(members) < folds:
            raise UserError(
                f"{folds} folds of the {len(members)} training images of {dataset.emotions[label]} in {dataset.name}: "
                f"lower data.folds (copies and frames of a video count as one)"
            )
        held |= np.isin(first, list(subjects.folds(members.tolist(), folds)[held_out]))
    if left_out := [split for split in dataset.splits if split != "train"]:
        log.info("data: folds of the training split by image; left out: %s", ", ".join(left_out))
    picks = {
        "train": (Pick(dataset, "train", np.flatnonzero(~held)),),
        "validation": (Pick(dataset, "train", np.flatnonzero(held)),),
    }
    return select(dataset, picks)


def _first_alike(dataset: Dataset) -> np.ndarray:
    """For each training image the first of those that must not be divided, itself or an earlier one: int64 [n]."""
    alike = [np.unique(dataset.digests("train"), return_inverse=True)[1]]
    alike += [np.unique(dataset.videos("train"), return_inverse=True)[1]]
    first = np.arange(len(alike[0]))
    while True:
        before = first
        for group in alike:
            least = np.full(group.max() + 1, len(first))
            np.minimum.at(least, group, first)
            first = least[group]
        if (first == before).all():
            return first


def limit(dataset: Dataset, most: int, splits: Sequence[str] = ("train",)) -> Dataset:
    """The data set with at most so many images in these splits together, each emotion in its share.

    A function of the labels and of `most` alone, whatever the seed of a run; the images of a smaller choice are among
    those of a larger one, as a learning curve wants them.
    """
    labels = np.concatenate([dataset.labels(split) for split in splits])
    if len(labels) <= most:
        return dataset
    rng = np.random.Generator(np.random.Philox(0))
    # The highest averages (Sainte-Laguë 1910): by the place within the emotion, as a share of it.
    places = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        places[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.zeros(len(labels), bool)
    chosen[np.argsort(places, kind="stable")[:most]] = True
    picks = {split: (Pick(dataset, split),) for split in dataset.splits}
    start = 0
    for split in splits:
        inside = np.flatnonzero(chosen[start : start + dataset.splits[split]])
        picks[split] = (Pick(dataset, split, inside),)
        start += dataset.splits[split]
    picks = {split: members for split, members in picks.items() if members[0].size}
    log.info("data: %d of %d images of %s are taken (data.limit)", most, len(labels), " and ".join(splits))
    return select(dataset, picks)


def restrict(dataset: Dataset, emotions: Sequence[str]) -> Selection:
    """The data set with some of its emotions alone, in the canonical order; images of the others are left out.

    The intensities of the others are dropped too, so of soft labels their share falls to neutral.

    Raises:
      UserError: an emotion that the data set lacks, fewer than two, or a split that would be empty.
    """
    for name in emotions:
        if name not in dataset.emotions:
            raise unknown("emotion", name, dataset.emotions)
    kept = tuple(name for name in dataset.emotions if name in emotions)
    if len(kept) < 2:
        raise UserError(f"data.emotions = {tuple(emotions)}: at least two emotions are needed")
    codes = [dataset.emotions.index(name) for name in kept]
    picks = {}
    for split, count in dataset.splits.items():
        pick = Pick(dataset, split, np.flatnonzero(np.isin(dataset.labels(split), codes)))
        if not pick.size:
            raise UserError(f"{dataset.name}: no image of the {split} split is one of {', '.join(kept)}")
        if left_out := count - pick.size:
            log.info("data: %d of %d images of %s are none of data.emotions and left out", left_out, count, split)
        picks[split] = (pick,)
    return select(dataset, picks, emotions=kept)


def combine(name: str, roles: Mapping[str, Sequence[tuple[Dataset, Sequence[str]]]]) -> Selection:
    """Several data sets joined: for each role (train, validation, test) data sets, with the splits taken of each.

    Emotions are united by name, in the canonical order; images are brought to the largest height and width and, where
    one is RGB, to RGB; there are intensities to score by where all parts have them, and where only some have, the
    labels' one-hot vectors are taken of all. A subject's name is led by that of its data set, so those of two files of
    one's own are one person where they are called the same.

    Raises:
      UserError: a split that a part lacks, or that is taken twice; or images of one part that are those of another,
        where one of the two is not for training.
    """
    picks, taken = {}, {}
    for role, members in roles.items():
        picks[role] = ()
        for dataset, splits in members:
            for split in splits:
                dataset.require(split)
                if other := taken.get((dataset.fingerprint, split)):
                    raise UserError(f"{name}: the {split} split of {dataset.name} is both in {other} and in {role}")
                taken[dataset.fingerprint, split] = role
                picks[role] += (Pick(dataset, split, prefix=f"{dataset.name}/"),)
    parts = [pick.dataset for members in picks.values() for pick in members]
    if len({part.has_intensity for part in parts}) > 1:
        without = {f"{part.name}:{part.variant}".rstrip(":") for part in parts if not part.has_intensity}
        log.info(
            "data: %s have no intensities to score by: one-hot vectors of the labels are taken of all",
            ", ".join(sorted(without)),
        )
    joined = select(
        parts[0],
        picks,
        name=name,
        variant="",
        emotions=tuple(emotion for emotion in CANONICAL if any(emotion in part.emotions for part in parts)),
        image_shape=tuple(max(sides) for sides in zip(*(part.image_shape for part in parts), strict=True)),
        has_intensity=all(part.has_intensity for part in parts),
        synthetic=any(part.synthetic for part in parts),
        directory=None,
    )
    try:
        _warn_of_shared_subjects(joined)
        _refuse_shared_images(joined)
    except CannotKeep as error:
        log.info("data: the parts of %s are not compared: %s", name, error)
    return joined


def _refuse_shared_images(joined: Selection) -> None:
    """Looks for equal images in two parts, not both for training: warns of some, as copies within a data set are.

    Raises:
      UserError: they are most of a part.
    """
    parts = [(role, pick) for role, members in joined.picks.items() for pick in members]
    for (one, left), (other, right) in itertools.combinations(parts, 2):
        if one == other == "train" or left.dataset.image_shape != right.dataset.image_shape:
            continue
        shared = (np.isin(left.digests, right.digests).sum(), np.isin(right.digests, left.digests).sum())
        told = (
            f"{shared[0]:,} of the {left.size:,} images of {left.dataset.name} in data.{one} equal "
            f"{shared[1]:,} of the {right.size:,} of {right.dataset.name} in data.{other}"
        )
        if max(shared[0] / left.size, shared[1] / right.size) > SAME_IMAGES:
            raise UserError(f"{joined.name}: {told}: take different splits of them, or one of the two")
        if shared[0]:
            log.warning("data: %s, %s", told, "they count twice" if one == other else "scores will be too high")


def _warn_of_shared_subjects(joined: Selection) -> None:
    if shared := list(subjects.shared({split: joined.subjects(split).tolist() for split in joined.splits})):
        log.warning(
            "data: %d subjects are in two splits of %s, scores will be too high: %s",
            len(shared),
            joined.name,
            ", ".join(shared[:8]),
        )


def _read_part(part: Mapping[str, Any], role: str) -> dict:
    """What a config says of a part, every key of PART filled in.

    Raises:
      UserError: no name, another key, or splits that are no tuple of names.
    """
    if not isinstance(part, Mapping) or "name" not in part:
        raise UserError(f"data.{role}: each part is a dict such as {{'name': 'mug'}}, not {part!r}")
    for key in part:
        if key not in PART:
            raise unknown(f"key of a part of data.{role}", key, PART)
    if isinstance(splits := part.get("splits", ()), str):
        raise UserError(f"data.{role}: the splits of {part['name']} are a tuple such as ('{splits}',), not {splits!r}")
    return {"variant": None, "folder": part["name"], "splits": ()} | dict(part)
