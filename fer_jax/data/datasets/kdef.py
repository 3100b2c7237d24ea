"""KDEF, the Karolinska Directed Emotional Faces (Lundqvist et al. 1998): posed faces from five angles."""

import re
from pathlib import Path
from typing import ClassVar, NamedTuple

from fer_jax.data.datasets.base import Picture, PictureBuilder, missing
from fer_jax.data.emotions import BASIC7
from fer_jax.data.subjects import divide, split_subjects
from fer_jax.errors import UserError
from fer_jax.files import entries

CODES = {
    "AF": "fear", "AN": "angry", "DI": "disgust", "HA": "happy", "NE": "neutral", "SA": "sad", "SU": "surprise"
}  # fmt: skip
VIEWS = {"S": "straight", "HL": "half_left", "HR": "half_right", "FL": "full_left", "FR": "full_right"}
_IMAGES = (".jpg", ".jpeg", ".png")  # .png: aligned
# Session, subject (sex and number), emotion, view.
_NAME = re.compile(r"[AB]([FM]\d{2})([A-Z]{2})(S|HL|HR|FL|FR)", re.IGNORECASE)


class Name(NamedTuple):
    """What the name of a file says."""

    subject: str  # e.g. F01, in both sessions
    emotion: str
    view: str


class Kdef(PictureBuilder):
    """KDEF: seven posed emotions of 70 subjects in two sessions, split by subject, 80/10/10.

    Variants, by the view: straight (default), half_left, half_right, full_left, full_right, all. The sessions A and B
    show the same people, so both are in the same split. The picture's centre is taken, 562 of its 762 rows.

    Source: https://kdef.se, on request; for non-commercial research, not to be passed on.
    Layout: AF01/AF01ANS.JPG: session A, female 01, angry, straight.
    Expected: 4,900 images of 70 subjects, 980 of each view. A few files of the official data are misnamed
      (AF31V.JPG, for one) or black; they are left out and listed.
    """

    EMOTIONS = BASIC7
    VARIANTS = (*VIEWS.values(), "all")
    CITATION = "Lundqvist, Flykt & Öhman 1998, The Karolinska Directed Emotional Faces"
    ORIGIN = "Expected in --data_dir: the folders AF01 (with AF01ANS.JPG and so on) ... BM35. Ask at https://kdef.se"
    EXPECTED: ClassVar = {"images": 4900, "subjects": 70} | {f"{view} images": 980 for view in VIEWS.values()}

    @classmethod
    def find_raw(cls, data_dir):
        files = [path for path in entries(data_dir, 2) if path.suffix.lower() in _IMAGES] if data_dir else []
        if not any(read_name(path) for path in files):
            raise missing("kdef", data_dir, cls.ORIGIN)
        return tuple(files)

    def pictures(self):
        names = {path: read_name(path) for path in self.raw}
        if misnamed := [path.name for path, name in names.items() if name is None]:
            shown = ", ".join(misnamed[:8])
            self.notes.append(f"{len(misnamed)} files are left out, their names do not say what they show: {shown}")
        named = {path: name for path, name in names.items() if name}
        self.note_unused({path.parents[1] for path in self.raw}, self.raw)
        views = [name.view for name in named.values()]
        subjects = {name.subject for name in named.values()}
        self.compare({"images": len(named), "subjects": len(subjects)})
        self.compare({f"{view} images": views.count(view) for view in VIEWS.values()})
        pictures = [
            Picture(path, name.emotion, "/".join(path.parts[-2:]), name.subject)
            for path, name in named.items()
            if self.variant in (name.view, "all")
        ]
        if not pictures:
            raise UserError(f"kdef: there are no {self.variant} images, only {', '.join(sorted(set(views)))}")
        return divide(pictures, lambda picture: picture.subject, split_subjects(subjects))


def read_name(path: Path) -> Name | None:
    """What AF01ANS.JPG says, None for a name of another form.

    Raises:
      UserError: an unknown emotion in a name of that form.
    """
    match = _NAME.fullmatch(path.stem)
    if not match:
        return None
    subject, code, view = (part.upper() for part in match.groups())
    if code not in CODES:
        raise UserError(f"{path}: unknown emotion {code!r}; KDEF has the codes {', '.join(CODES)}")
    return Name(subject, CODES[code], VIEWS[view])
