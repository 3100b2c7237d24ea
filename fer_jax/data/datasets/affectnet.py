"""AffectNet (Mollahosseini et al. 2017), manually annotated: faces from the web, eight emotions, valence, arousal."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from fer_jax import files
from fer_jax.data.datasets.base import Picture, PictureBuilder, missing
from fer_jax.data.detect import Box
from fer_jax.data.emotions import CANONICAL
from fer_jax.data.subjects import divide, split_stratified
from fer_jax.errors import UserError

CODES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
NO_EMOTIONS = ("none", "uncertain", "non-face")  # the codes after them
IMAGES, LISTS = "Manually_Annotated_Images", "Manually_Annotated_file_lists"
TABLES = {"training": "training.csv", "validation": "validation.csv"}
FOLDERS = {"training": "train_set", "validation": "val_set"}
COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "expression",
    "valence",
    "arousal",
)
# Of training.csv; validation.csv was published without one.
_HEADER = (*COLUMNS[:5], "facial_landmarks", *COLUMNS[5:])
_ARRAYS = ("exp", "val", "aro")
_IMAGES = (".jpg", ".jpeg", ".png")


class Affectnet(PictureBuilder):
    """AffectNet: faces from the web with one of eight emotions, valence and arousal (-1..1; -2 where not given).

    Faces annotated as none, uncertain or non-face are left out and counted. The face's box is cut out where it is
    given. Subjects are unknown.

    Variants:
      official: the official training set is train, the official validation set is test (a test set was never
        published); there is no validation split.
      80_10_10: the official training set alone, split 80/10/10, each emotion alike, as CMU did.

    Source: http://mohammadmahoor.com/affectnet/; for non-commercial research, on request.
    Layout: training.csv and validation.csv, which may lie in Manually_Annotated_file_lists/, with their images in
      Manually_Annotated_Images/ (or beside them); or train_set/images/0.jpg with train_set/annotations/0_exp.npy,
      0_val.npy and 0_aro.npy, and val_set likewise.
    Expected: 287,651 faces for training and 4,000 for validation (3,999 in val_set) with one of the eight emotions.
    """

    EMOTIONS = CANONICAL
    VARIANTS = ("official", "80_10_10")
    CITATION = "Mollahosseini, Hasani & Mahoor 2017, AffectNet (arXiv:1708.03985)"
    ORIGIN = (
        f"Expected in --data_dir: training.csv and validation.csv with {IMAGES}/, or train_set and val_set with "
        "images/0.jpg and annotations/0_exp.npy. Ask for it at http://mohammadmahoor.com/affectnet/"
    )
    EXPECTED: ClassVar = {
        "training.csv": 287_651,
        "validation.csv": 4_000,
        "train_set": 287_651,
        "val_set": 3_999,
    }

    @classmethod
    def find_raw(cls, data_dir):
        if data_dir is None:
            raise missing("affectnet", data_dir, cls.ORIGIN)
        for folder in (data_dir, data_dir / LISTS):
            if tables := [folder / name for name in TABLES.values() if (folder / name).is_file()]:
                images = data_dir / IMAGES
                return (*tables, images if images.is_dir() else data_dir)  # the folder stands for its 100 gigabytes
        folders = [data_dir / name for name in FOLDERS.values() if (data_dir / name / "annotations").is_dir()]
        annotations = [files.entries(folder / "annotations") for folder in folders]  # some are of landmarks
        endings = [f"_{name}.npy" for name in _ARRAYS]
        arrays = [path for each in annotations for end in endings for path in each if path.name.endswith(end)]
        if not arrays:
            raise missing("affectnet", data_dir, cls.ORIGIN)
        return (*folders, *arrays)

    def extra_features(self):
        return super().extra_features() | {"valence": np.float32, "arousal": np.float32}

    def pictures(self):
        left_out = Counter()
        parts = {}
        for part in TABLES:
            for path in self.raw:
                if path.name == TABLES[part]:
                    parts[part] = list(read_table(path, self.raw[-1], left_out))
                elif path.name == FOLDERS[part] and path.is_dir():
                    parts[part] = list(read_folder(path, left_out))
                else:
                    continue
                self.compare({path.name: len(parts[part])})
        if left_out:
            shown = ", ".join(f"{left_out[name]:,} {name}" for name in NO_EMOTIONS if left_out[name])
            self.notes.append(f"left out, being of no emotion: {shown}")
        if self.variant == "official":
            splits = {"train": parts.get("training"), "test": parts.get("validation")}
            return {split: pictures for split, pictures in splits.items() if pictures is not None}
        if "training" not in parts:
            raise UserError(f"affectnet: the variant {self.variant} needs the official training set. {self.ORIGIN}")
        if "validation" in parts:
            self.notes.append(f"{self.variant}: the official validation set is left out")
        emotions = {picture.source: picture.emotion for picture in parts["training"]}
        return divide(parts["training"], lambda picture: picture.source, split_stratified(emotions))


def read_table(path: Path, images: Path, left_out: Counter) -> Iterator[Picture]:
    """The faces of training.csv, or of validation.csv, which has no header, in its order.

    Those of no emotion are counted in `left_out`.

    Raises:
      UserError: wrong header or a row that is not a path, numbers and a known code; names file and line.
    """
    with (
        path.open(newline="", encoding="utf-8-sig", errors="replace") as file,
        files.csv_rows(file, path) as reader,
    ):
        first = [name.strip() for name in next(reader, [])]
        no_header = len(first) == len(_HEADER) and first[_HEADER.index("expression")].isdecimal()
        header = list(_HEADER) if no_header else first
        if not set(COLUMNS) <= set(header):
            raise UserError(f"{path}: the header must name the columns {', '.join(COLUMNS)}; it has {header}")
        columns = [header.index(name) for name in COLUMNS]
        for fields in itertools.chain([first] if no_header else [], reader):
            if not fields:
                continue
            where = f"{path}, line {reader.line_num}"
            if len(fields) <= max(columns):
                raise UserError(f"{where}: {len(fields)} columns instead of {len(header)}; was the file cut short?")
            name, *box, code, valence, arousal = (fields[column].strip() for column in columns)
            if emotion := _emotion(code, where, left_out):
                numbers = {"valence": _number(valence, where), "arousal": _number(arousal, where)}
                yield Picture(images / name, emotion, name, box=_box(box, where), extra=numbers)


def read_folder(folder: Path, left_out: Counter) -> Iterator[Picture]:
    """The faces of train_set in the order of their numbers; those of no emotion are counted in `left_out`.

    Raises:
      UserError: annotations that are absent or no numbers, or a code that is unknown; names the file.
    """
    images = {path.stem: path for path in files.entries(folder / "images") if path.suffix.lower() in _IMAGES}
    labels = [path.name for path in files.entries(folder / "annotations") if path.name.endswith("_exp.npy")]
    names = sorted((name.removesuffix("_exp.npy") for name in labels), key=lambda name: (len(name), name))
    for name in names:
        code, *numbers = (folder / "annotations" / f"{name}_{array}.npy" for array in _ARRAYS)
        if emotion := _emotion(read_scalar(code), str(code), left_out):
            valence, arousal = (_number(read_scalar(file), str(file)) for file in numbers)
            image = images.get(name, folder / "images" / f"{name}.jpg")
            source = f"{folder.name}/images/{image.name}"
            yield Picture(image, emotion, source, extra={"valence": valence, "arousal": arousal})


def read_scalar(path: Path) -> str:
    """The one value, a number or text, of a `.npy` file. Pickled objects are refused: they could run code.

    Raises:
      UserError: no such file, or anything else in it.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a plain array of NumPy ({error}): download it again") from None
    if not isinstance(array, np.ndarray) or array.size != 1:
        raise UserError(f"{path} must hold one value; download it again")
    return str(array.item())


def _emotion(code: str, where: str, left_out: Counter) -> str | None:
    names = CODES + NO_EMOTIONS
    if not code.isdecimal() or int(code) >= len(names):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(f"{where}: unknown expression {code!r}; AffectNet has the codes {known}")
    if int(code) >= len(CODES):
        left_out[names[int(code)]] += 1
        return None
    return CODES[int(code)]


def _number(text: str, where: str) -> np.float32:
    try:
        return np.float32(text)
    except ValueError:
        raise UserError(f"{where}: {text[:40]!r} is not a number") from None


def _box(fields: list[str], where: str) -> Box | None:
    if all(field in ("", "NULL") for field in fields):
        return None
    box = tuple(float(_number(field, where)) for field in fields)
    if not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise UserError(f"{where}: the face is {fields[2]}x{fields[3]} pixels large at {fields[0]}, {fields[1]}")
    return box
