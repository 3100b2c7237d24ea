"""Synthetic faces (data/synthetic.py) as a data set: subjects never straddle splits."""

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data import synthetic
from fer_jax.data.datasets.base import FaceBuilder
from fer_jax.data.emotions import BASIC7

SEED = 0
PICTURES = 10  # of each subject
SUBJECTS = {
    "": {"train": 320, "validation": 40, "test": 40},
    "small": {"train": 40, "validation": 8, "test": 8},
}


class Synthetic(FaceBuilder):
    """Drawn faces of seven emotions at known intensities, with 68 landmarks and subject numbers."""

    VERSION = tfds.core.Version("1.1.0")  # the fingerprint of 1.0.0 lacks the subjects
    EMOTIONS = BASIC7
    IMAGE_SHAPE = (synthetic.SIZE, synthetic.SIZE, 3)
    VARIANTS = tuple(SUBJECTS)
    HAS_INTENSITY = True
    SYNTHETIC = True
    ORIGIN = "It is drawn, not downloaded."

    @classmethod
    def find_raw(cls, _data_dir):
        return ()

    def extra_features(self):
        landmarks = tfds.features.Tensor(shape=(68, 2), dtype=np.float32, encoding="bytes")
        return {"landmarks": landmarks, "subject": np.int32}

    def examples(self):
        splits, first = {}, 0
        for split, count in SUBJECTS[self.variant].items():
            splits[split] = lambda subjects=range(first, first + count): self._draw(subjects)
            first += count
        return splits

    def _draw(self, subjects):
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # images this small only lose by threads
        try:
            for subject in subjects:
                for number in range(PICTURES):
                    drawn = synthetic.example(SEED, subject, number)
                    yield self.example(
                        drawn.image,
                        drawn.emotion,
                        drawn.intensity,
                        landmarks=drawn.landmarks,
                        subject=subject,
                    )
        finally:
            cv2.setNumThreads(threads)
