"""Knowledge distillation: what trained networks see in the training images, as a part of the targets.

    config.head.loss = "soft"
    config.head.teachers = ("runs/a", "runs/b")      # runs, weights files, or names of bundled weights
    config.head.teacher_share = 0.5                  # of what the label leaves of the target

Hinton et al. 2015, "Distilling the knowledge in a neural network"; here the mean of several teachers, which is softer
than one's answer, stands in place of their temperature. They are asked once, before training, about each image and its
mirror image without augmentation; what they answer is kept in the cache.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fer_jax import checkpoint, ensemble, files, heads, recognizer, seen
from fer_jax.config import cache_directory
from fer_jax.data.dataset import Dataset
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError
from fer_jax.lock import alone
from fer_jax.seen import Predecessor

log = logging.getLogger(__name__)

_VIEWS = "flip"  # a key of `ensemble.VIEWS`
_AT_ONCE = 1024  # images


def find_teachers(names: Sequence[str], dataset: Dataset, *, align: str) -> tuple[Predecessor, ...]:
    """The teachers of a config for a data set; what is doubtful of them is logged.

    Args:
      dataset: what the student learns from, and is scored on.
      align: how its faces were aligned.

    Raises:
      UserError: one cannot be read.
    """
    found = []
    for name in names:
        _, metadata = checkpoint.load_weights(name)
        recognizer.warn_of_other_alignment(f"head.teachers: {name}", metadata.get("align", ""), align)
        found.append(seen.predecessor("head.teachers", name, dataset))
    return tuple(found)


def intensities(dataset: Dataset, teachers: Sequence[Predecessor], share: float) -> np.ndarray:
    """The training split's intensities, float32 [n, E], with the teachers' mean as so large a share of each image's.

    Both are distributions over all emotions, of which the intensities leave out neutral (`heads.soft_labels`).

    Raises:
      UserError: a teacher knows other emotions, or its outputs are not finite; names it.
    """
    answers = np.mean([_answers(dataset, teacher) for teacher in teachers], 0)
    own = np.array(heads.soft_labels(jnp.asarray(dataset.intensities("train")), dataset.emotions))
    unknown = ~own.any(1)  # all votes went to emotions that are left out
    own[unknown] = np.eye(len(dataset.emotions))[dataset.labels("train")[unknown]]
    shown = remap(expressed(dataset.emotions), dataset.emotions)
    return ((1 - share) * own + share * answers).astype(np.float32)[:, shown]


def _answers(dataset: Dataset, teacher: Predecessor) -> np.ndarray:
    """What a teacher sees in each training image: probabilities float32 [n, C] of the data set's emotions."""
    kept = cache_directory() / "teachers" / f"{dataset.fingerprint}-{teacher.weights}-{_VIEWS}.npy"
    if kept.exists():
        return np.load(kept)
    try:
        with alone(kept.with_suffix(".lock")):
            if not kept.exists():  # somebody asked in the meantime
                answers = _ask(dataset, teacher)
                with files.whole(kept) as temporary, temporary.open("wb") as file:
                    np.save(file, answers)
            return np.load(kept)
    except OSError as error:
        if not (reason := files.refusal(error)):
            raise
        raise UserError(
            f"cannot write to {kept.parent} ({reason}): make room, or set FER_JAX_CACHE to a folder that has it and "
            f"that you can write to"
        ) from error


def _ask(dataset: Dataset, teacher: Predecessor) -> np.ndarray:
    net, who = recognizer.load(teacher.name), Path(teacher.name)
    predict = ensemble.viewer(net, _VIEWS)
    rows, parts = dataset.rows("train"), []
    log.info("data: %s is asked about %d training images, once", teacher.name, len(rows))
    with tqdm(total=len(rows), desc="teacher", unit="img", unit_scale=True, disable=None) as bar:
        for start in range(0, len(rows), _AT_ONCE):
            index = np.arange(start, min(start + _AT_ONCE, len(rows)))
            images = rows.take(index)["image"]
            try:
                parts.append(ensemble.probabilities(net, who, images, dataset.emotions, predict=predict))
            except UserError as error:
                raise UserError(f"head.teachers: {error}: choose another teacher") from error
            bar.update(len(index))
    answers = np.concatenate(parts)
    log.info("data: it has %.2f %% of their labels", 100 * (answers.argmax(1) == dataset.labels("train")).mean())
    return answers
