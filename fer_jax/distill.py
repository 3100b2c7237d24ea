"""Distillation: a network trained on the answers of trained networks beside the labels (Hinton et al. 2015).

A config names its teachers, `distill.teachers`: runs, weights files, or weights of the package. They are asked before
the training, once: the mean of their answers on a training image and on its mirror image takes `distill.share` of its
label. So a step costs what it costs without them. What a teacher answers is kept in the cache, for the next run.

Only training images get such labels; a score is what it is for a network that nobody taught.
"""

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from fer_jax import __version__, checkpoint, ensemble, files, recognizer
from fer_jax.config import cache_directory
from fer_jax.data.dataset import Dataset
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError

log = logging.getLogger(__name__)


def soft_labels(dataset: Dataset, config: ConfigDict) -> np.ndarray | None:
    """What a config's student is to answer on the training split: intensities, float32 [n, E]; None: the data's own.

    The teachers' share is of their probabilities of the expressed emotions, which `heads.soft_labels` completes, or for
    an intensity head of their intensities; the rest is the data's own.

    Raises:
      UserError: there is no such teacher, or it knows other emotions than the data.
    """
    teachers, share = config.distill.teachers, config.distill.share
    if not teachers:
        return None
    taught = [_answers(teacher, dataset, intensities=config.head.name == "intensity") for teacher in teachers]
    labels = share * np.mean(taught, axis=0) + (1 - share) * dataset.intensities("train")
    return labels.astype(np.float32)


def digest(teachers: Sequence[str]) -> str:
    """Of the weights of the teachers; '' of none. With others a run would go on with other labels.

    Raises:
      UserError: there is no such teacher.
    """
    return hashlib.sha256("".join(map(_digest, teachers)).encode()).hexdigest()[:12] if teachers else ""


def _digest(teacher: str) -> str:
    path = checkpoint.weights_file(teacher)
    checkpoint.load_weights(teacher)  # which says what is wrong with the file
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _answers(teacher: str, dataset: Dataset, *, intensities: bool) -> np.ndarray:
    """Of one teacher on the training split: float32 [n, E], in the order of the data's expressed emotions."""
    variables, metadata = checkpoint.load_weights(teacher)
    net = recognizer.assemble(variables, metadata, teacher)
    if set(net.emotions) != set(dataset.emotions):
        raise UserError(
            f"distill.teachers: {teacher} knows {', '.join(net.emotions)}, the data {', '.join(dataset.emotions)}: a "
            f"teacher must know the same emotions as its student"
        )
    if metadata.get("results", {}).get("fingerprint") != dataset.fingerprint:
        log.warning(
            "distill: %s was trained on other data, or does not say on which: if images that this run is scored on "
            "were among them, the scores say too much",
            teacher,
        )
    kind = "intensities" if intensities else "probabilities"
    path = cache_directory() / "teachers" / f"{dataset.fingerprint}-{_digest(teacher)}-{kind}-{__version__}.npy"
    if path.exists():
        return np.load(path)
    log.info("distill: asking %s about %s training images", teacher, f"{dataset.splits['train']:,}")
    prediction = ensemble.predict_views(net, _Images(dataset), "flip")
    if damaged := int(prediction.damaged.sum()):
        raise UserError(f"distill.teachers: the outputs of {teacher} are not finite for {damaged:,} images")
    wanted = expressed(dataset.emotions)
    if intensities:
        answers = prediction.intensities[:, remap(wanted, expressed(net.emotions))]
    else:
        answers = prediction.probabilities[:, remap(wanted, net.emotions)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as temporary, temporary.open("wb") as file:
            np.save(file, answers)
    except OSError as error:
        if not (reason := files.refusal(error)):
            raise
        log.warning("distill: the answers of %s cannot be kept in %s (%s)", teacher, path.parent, reason)
    return answers


class _Images:
    """The training images of a data set as what `recognizer.in_batches` takes parts of, read as they are taken."""

    def __init__(self, dataset: Dataset):
        self._rows = dataset.rows("train")
        self.shape = (len(self._rows), *dataset.image_shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, some: slice) -> np.ndarray:
        return self._rows.take(np.arange(len(self))[some])["image"]
