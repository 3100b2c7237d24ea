"""Knowledge distillation: what trained networks see in the training images, as a part of the targets.

    config.head.loss = "soft"
    config.head.teachers = ("runs/a", "runs/b")      # runs, weights files, or names of bundled weights
    config.head.teacher_share = 0.5                  # of what the label leaves of the target

Hinton et al. 2015, "Distilling the knowledge in a neural network", where the mean of several teachers, softer than one,
stands in place of a temperature. They are asked once, before training, about each image and its mirror image without
augmentation; what they answer is kept in the cache.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fer_jax import checkpoint, ensemble, files, heads, recognizer, run_directory, seen
from fer_jax.config import cache_directory
from fer_jax.data.dataset import Dataset
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError

log = logging.getLogger(__name__)

_AT_ONCE = 1024  # images


def intensities(dataset: Dataset, teachers: Sequence[str], share: float) -> np.ndarray:
    """The training split's intensities, float32 [n, E], with the teachers' mean as so large a share of each image's.

    Both are distributions over all emotions, of which the intensities leave out neutral (`heads.soft_labels`).

    Raises:
      UserError: a teacher cannot be read, knows other emotions, or its outputs are not finite; names it.
    """
    answers = np.mean([_answers(dataset, teacher) for teacher in teachers], 0)
    rows, parts = dataset.rows("train"), []
    for index in _parts(len(rows)):
        taken = rows.take(index)
        own = np.array(heads.soft_labels(jnp.asarray(taken["intensity"]), dataset.emotions))
        unknown = ~own.any(1)  # all votes went to emotions that are left out
        own[unknown] = np.eye(len(dataset.emotions))[taken["label"][unknown]]
        parts.append((1 - share) * own + share * answers[index])
    shown = remap(expressed(dataset.emotions), dataset.emotions)
    return np.concatenate(parts).astype(np.float32)[:, shown]


def warn_of_seen(dataset: Dataset, teachers: Sequence[str]) -> None:
    """Warns of teachers that were, or may have been, trained on images that their student is scored on."""
    held_out = [split for split in dataset.splits if split != "train"]
    for teacher in map(files.user_path, teachers):
        if not (teacher / "results.json").exists():
            log.warning(
                "head.teachers: whether %s was trained on held-out images is not known: no finished run", teacher
            )
            continue
        config, results = run_directory.read_finished(teacher)
        if seen.trained_on(config, results, dataset):
            continue
        trained = results | {"selected_on": None}  # by a selection the student learns nothing of single images
        for split in held_out:
            images = dataset.arrays(split)["image"]
            copied = seen.copies(images, config, trained, dataset, split, transfer=True)
            if copied is None:
                log.warning(
                    "head.teachers: whether %s was trained on images of %s is not known: its data are not at hand",
                    teacher,
                    split,
                )
                continue
            new = copied & ~np.isin(dataset.digests(split), dataset.digests("train"))
            if new.any():
                log.warning(
                    "head.teachers: %s was trained on %d of the %d images of %s, on which scores will be too high",
                    teacher,
                    new.sum(),
                    len(new),
                    split,
                )


def _answers(dataset: Dataset, teacher: str) -> np.ndarray:
    """What a teacher sees in each training image: probabilities float32 [n, C] of the data set's emotions."""
    kept = cache_directory() / "teachers" / f"{_key(dataset, teacher)}.npy"
    if kept.exists():
        return np.load(kept)
    net = recognizer.load(teacher)
    rows = dataset.rows("train")
    log.info("data: %s is asked about %d training images, once", teacher, len(rows))
    parts = []
    with tqdm(total=len(rows), desc="teacher", unit="img", unit_scale=True) as bar:
        for index in _parts(len(rows)):
            images = rows.take(index)["image"]
            parts.append(ensemble.probabilities(net, Path(teacher), images, dataset.emotions, views="flip"))
            bar.update(len(index))
    answers = np.concatenate(parts)
    log.info("data: it has %.2f %% of their labels", 100 * (answers.argmax(1) == dataset.labels("train")).mean())
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(kept) as temporary, temporary.open("wb") as file:
            np.save(file, answers)
    except OSError as error:
        if not (reason := files.refusal(error)):
            raise
        raise UserError(f"cannot write to {kept.parent} ({reason}): make room, or set FER_JAX_CACHE") from error
    return answers


def _key(dataset: Dataset, teacher: str) -> str:
    """A digest of the images and of the teacher's weights."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    digest.update(checkpoint.weights_file(teacher).read_bytes())
    return digest.hexdigest()[:24]


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // _AT_ONCE))
