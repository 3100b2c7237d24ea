"""JAFFE (Lyons et al. 1998): posed faces of ten Japanese women."""

import re
from pathlib import Path
from typing import ClassVar

from fer_jax.data.datasets.base import SIDE, Picture, PictureBuilder, missing
from fer_jax.data.emotions import BASIC7
from fer_jax.data.subjects import divide, split_subjects
from fer_jax.errors import UserError
from fer_jax.files import entries

CODES = {
    "AN": "angry", "DI": "disgust", "FE": "fear", "HA": "happy", "SA": "sad", "SU": "surprise", "NE": "neutral"
}  # fmt: skip
_IMAGES = (".tiff", ".tif", ".png")  # .png: aligned
_NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d+\.\d+", re.IGNORECASE)


class Jaffe(PictureBuilder):
    """JAFFE: 213 grey faces of ten subjects, seven posed emotions, split by subject (8/1/1).

    Source: https://zenodo.org/records/3451524 (on request); for non-commercial research, not to be passed on.
    Layout: files KA.AN1.39.tiff in one folder: subject KA, emotion AN, picture 1, number 39.
    Expected: 213 images of 10 subjects.
    """

    EMOTIONS = BASIC7
    IMAGE_SHAPE = (SIDE, SIDE, 1)
    CITATION = "Lyons et al. 1998, Coding Facial Expressions with Gabor Wavelets, FG (doi:10.5281/zenodo.3451524)"
    ORIGIN = "Expected in --data_dir: the files KA.AN1.39.tiff. Ask for them at https://zenodo.org/records/3451524"
    EXPECTED: ClassVar = {"images": 213, "subjects": 10}

    @classmethod
    def find_raw(cls, data_dir):
        files = [path for path in entries(data_dir) if path.suffix.lower() in _IMAGES] if data_dir else []
        if not files:
            raise missing("jaffe", data_dir, cls.ORIGIN)
        for path in files:
            read_name(path)
        return tuple(files)

    def pictures(self):
        pictures = []
        for path in self.raw:
            subject, emotion = read_name(path)
            pictures.append(Picture(path, emotion, path.name, subject))
        subjects = {picture.subject for picture in pictures}
        self.note_unused({path.parent for path in self.raw}, self.raw)
        self.compare({"images": len(pictures), "subjects": len(subjects)})
        return divide(pictures, lambda picture: picture.subject, split_subjects(subjects))


def read_name(path: Path) -> tuple[str, str]:
    """Subject and emotion of KA.AN1.39.tiff.

    Raises:
      UserError: the name has another form, or an unknown emotion.
    """
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise UserError(f"{path}: JAFFE's files are named like KA.AN1.39.tiff; move other ones elsewhere")
    subject, code = match.group(1).upper(), match.group(2).upper()
    if code not in CODES:
        raise UserError(f"{path}: unknown emotion {code!r}; JAFFE has the codes {', '.join(CODES)}")
    return subject, CODES[code]
