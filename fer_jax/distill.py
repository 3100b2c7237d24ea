"""Distillation: a network trained on the answers of trained networks beside the labels (Hinton et al. 2015).

A config names its teachers, `distill.teachers`: runs, weights files, or weights of the package. They are asked before
the training, once: the mean of their answers on a training image and on its mirror image takes `distill.share` of its
label. So a step costs what it costs without them. What a teacher answers is kept in the cache, for the next run.

Only training images get such labels; a score is what it is for a network that nobody taught.
"""

import hashlib
import json
import logging

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from fer_jax import __version__, checkpoint, ensemble, files, heads, recognizer
from fer_jax.config import cache_directory
from fer_jax.data.dataset import Dataset
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError
from fer_jax.recognizer import Recognizer

log = logging.getLogger(__name__)


def soft_labels(dataset: Dataset, config: ConfigDict) -> tuple[np.ndarray, str]:
    """What a config's student is to answer on the training split, and a digest of its teachers.

    The labels are intensities, float32 [n, E]. For a classification head they are the probabilities of the expressed
    emotions, of the teachers and of the data in their shares, which `heads.soft_labels` completes.

    Raises:
      UserError: there is no such teacher, it knows other emotions than the data, or its answers are not finite.
    """
    by_intensity, emotions = config.head.name == "intensity", dataset.emotions
    own = dataset.intensities("train")
    if not by_intensity:
        own = np.asarray(heads.soft_labels(own, emotions))[:, remap(expressed(emotions), emotions)]
    taught, digests = np.zeros(own.shape, np.float64), []
    for teacher in config.distill.teachers:
        variables, metadata = checkpoint.load_weights(teacher)
        digests.append(_digest(variables, metadata))
        net = recognizer.assemble(variables, metadata, teacher)
        if set(net.emotions) != set(emotions):
            raise UserError(
                f"distill.teachers: {teacher} knows {', '.join(net.emotions)}, the data {', '.join(emotions)}: a "
                f"teacher must know the same emotions as its student"
            )
        if metadata.get("results", {}).get("fingerprint") != dataset.fingerprint:
            log.warning(
                "distill: %s was trained on other data, or does not say on which: if images that this run is scored "
                "on were among them, the scores say too much",
                teacher,
            )
        key = f"{dataset.fingerprint}-{digests[-1]}-{'intensities' if by_intensity else 'probabilities'}-{__version__}"
        taught += _answers(teacher, net, dataset, key, intensities=by_intensity) / len(config.distill.teachers)
    share = config.distill.share
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
    return (share * taught + (1 - share) * own).astype(np.float32), digest


def _digest(variables: dict, metadata: dict) -> str:
    """Of all that a network's answers depend on."""
    about = {name: metadata.get(name) for name in ("model", "head", "emotions", "input_shape")}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(traverse_util.flatten_dict(variables, sep="/").items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _answers(teacher: str, net: Recognizer, dataset: Dataset, key: str, *, intensities: bool) -> np.ndarray:
    """Of a teacher on the training split: float32 [n, E], in the order of the data; kept in the cache as `key`."""
    path = cache_directory() / "teachers" / f"{key}.npy"
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
