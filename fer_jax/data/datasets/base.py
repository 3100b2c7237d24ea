"""What the builders share: the schema, square pictures as PNG, quarantine of unreadable ones, and the books.

A builder without TensorFlow: TFDS writes ArrayRecord, images are handed over as PNG bytes, and reading goes
through `as_data_source`. Examples keep the order of the raw data; shuffling is the pipeline's.
"""

import abc
import collections
import functools
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from fer_jax.data import runners
from fer_jax.data.datasets.readings import Reading, Readings, StoredFace
from fer_jax.data.detect import Box, landmarks_beside
from fer_jax.data.emotions import canonical, expressed
from fer_jax.errors import UserError
from fer_jax.files import entries, of_other_kinds, read_image, visible

# More unreadable images than this share (and than QUARANTINE_FEW) mean that something else is wrong.
QUARANTINE_SHARE = 0.01
QUARANTINE_FEW = 10
SIDE = 128  # pixels, of pictures that come in other sizes
KEPT_TOGETHER = 512  # picture files: what a preparation that is cut short may lose, some seconds' work
# How the folder of a split may be called, in any case.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "publictest", "public_test"),
    "test": ("test", "testing", "privatetest", "private_test"),
}

Example = dict[str, Any]


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing: no description of these data lies at Google's, and TFDS would leave an empty folder in /tmp."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of single faces; a subclass says where the raw data lie and yields the examples."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "see ORIGIN"

    # Of the class, or of an instance where they depend on the variant or the raw data (set before super().__init__).
    EMOTIONS: tuple[str, ...]
    HAS_INTENSITY: bool = False  # to score by; False: the intensity of a held-out example is its label's one-hot vector

    IMAGE_SHAPE: ClassVar[tuple[int, int, int]]
    VARIANTS: ClassVar[tuple[str, ...]] = ("",)  # the first is the default
    SYNTHETIC: ClassVar[bool] = False
    LISTED: ClassVar[bool] = True  # whether a folder among the raw files stands for what lies in it, see `find_raw`
    CITATION: ClassVar[str] = ""
    ORIGIN: ClassVar[str]  # where to get the raw data, and the layout expected in --data_dir
    EXPECTED: ClassVar[Mapping[str, int]] = {}  # what is counted -> its number in the official data

    def __init__(self, *, raw: tuple[Path, ...], variant: str = "", **options):
        self.raw = raw
        self.variant = variant
        self.quarantined: list[tuple[str, str]] = []  # (path, reason)
        self.notes: list[str] = []  # for the person who prepares: what was kept, what is unusual
        self.warnings: list[str] = []  # for everyone who reads it: what makes scores wrong
        self.class_counts: dict[str, collections.Counter] = {}
        self._hash = hashlib.sha256()
        super().__init__(file_format="array_record", **options)

    @classmethod
    @abc.abstractmethod
    def find_raw(cls, data_dir: Path | None) -> tuple[Path, ...]:
        """The raw files under `data_dir` that this data set is made from, to fingerprint and to read.

        A folder among them stands for the names and sizes of all files in it, where hashing them takes too long; of
        builders that are not LISTED it is only where the names of the others begin.

        Raises:
          UserError: they are not there; says where to get them, what is expected and what was found.
        """

    @abc.abstractmethod
    def examples(self) -> dict[str, Callable[[], Iterator[Example]]]:
        """For each split that the raw data have, how to iterate over its examples (made by `example`)."""

    def extra_features(self) -> dict:
        """Features beyond image, label and intensity."""
        return {}

    def example(self, image: np.ndarray, emotion: str, intensity: np.ndarray | None = None, **extra) -> Example:
        """One example: image uint8 [H, W, 1] or RGB [H, W, 3], intensity float32 [E] where the source has one."""
        return self.stored_example(encode(image), image.tobytes(), emotion, intensity, **extra)

    def stored_example(
        self, png: bytes, content: bytes, emotion: str, intensity: np.ndarray | None = None, **extra
    ) -> Example:
        """`example` of an image that is encoded already; `content`: its pixels or a digest of them."""
        if intensity is None:
            intensity = np.array([name == emotion for name in expressed(self.EMOTIONS)], np.float32)
        self._hash.update(emotion.encode() + content + intensity.tobytes() + str(extra.get("subject", "")).encode())
        return {"image": io.BytesIO(png), "label": emotion, "intensity": intensity, **extra}

    @property
    def fingerprint(self) -> str:
        """Of what the examples hold, whatever file format they came in."""
        return self._hash.hexdigest()[:16]

    def quarantine(self, path: Path, reason: str, total: int) -> None:
        """Sets an unreadable image aside.

        Raises:
          UserError: there are too many of them among `total`.
        """
        self.quarantined.append((shown(str(path)), reason))
        if len(self.quarantined) > max(QUARANTINE_FEW, QUARANTINE_SHARE * total):
            raise UserError(
                f"{len(self.quarantined)} of {total} images cannot be used, more than {QUARANTINE_SHARE:.0%}: "
                f"unpack or download them again. The first:{self._why()}"
            )

    def compare(self, found: Mapping[str, int]) -> None:
        """Notes which of the numbers found differ from the EXPECTED ones; a part of the data is as welcome."""
        for what, count in found.items():
            if (official := self.EXPECTED.get(what, count)) != count:
                self.notes.append(f"{what}: {count:,}; the official data have {official:,}")

    def note_unused(self, roots: Iterable[Path], used: Iterable[Path]) -> None:
        """Notes what lies in these folders of the raw data and is not read."""
        there, used = set(itertools.chain(*map(visible, roots))), set(used)
        landmarks = filter(None, map(landmarks_beside, used))  # which an alignment reads
        if unused := of_other_kinds(there.difference(used, landmarks)):
            self.notes.append(f"files that are not used: {unused}")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.IMAGE_SHAPE, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=self.EMOTIONS),
            "intensity": tfds.features.Tensor(
                shape=(len(expressed(self.EMOTIONS)),), dtype=np.float32, encoding="bytes"
            ),
        }
        return _Info(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features | self.extra_features()),
            citation=self.CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, _download_manager) -> dict[str, Iterator[tuple[int, Example]]]:
        splits = self.examples()
        if not splits:
            raise UserError(f"{self.name}: the raw data list no image with an emotion. {self.ORIGIN}")
        return {split: self._generate_examples(split, make) for split, make in splits.items()}

    def _generate_examples(self, split: str, make: Callable[[], Iterator[Example]]) -> Iterator[tuple[int, Example]]:
        counts = self.class_counts[split] = collections.Counter()
        self._hash.update(split.encode())
        for number, example in enumerate(tqdm(make(), desc=split, unit=" images", leave=False, disable=None)):
            counts[example["label"]] += 1
            yield number, example
        if not counts:
            raise UserError(f"{self.name}: the {split} split is empty: none of its images can be used{self._why()}")

    def _why(self) -> str:
        """Some of the images that cannot be used, for a message."""
        return "".join(f"\n  {path}: {reason}" for path, reason in self.quarantined[:5])


class Picture(NamedTuple):
    """A labelled image file before it is read."""

    path: Path
    emotion: str
    source: str  # where it is found in the raw data
    subject: str = ""  # empty where unknown
    box: Box | None = None  # of the face: x, y, width, height in pixels
    intensity: float | None = None  # of the emotion, in 0..1; None: the data have none
    extra: Mapping[str, Any] = {}  # values of extra features


class Unusable(Exception):
    """Why a picture file gives no face."""


class PictureBuilder(FaceBuilder, skip_registration=True):
    """A data set of image files of any size, each brought to IMAGE_SHAPE by `square`; examples know their subject.

    Args:
      readings: what was read of the files before, and where it is kept.
      runner, workers: what reads, crops and encodes them, see `runners.each`.
    """

    VERSION = tfds.core.Version("1.2.0")  # 1.0.0 enlarged small faces to blocks; 1.1.0's fingerprint lacks the subjects
    IMAGE_SHAPE = (SIDE, SIDE, 3)
    aligned: dict[str, list[Picture]] | None = None  # what is read in the place of `pictures`, where that is to be

    def __init__(self, *, readings: Readings, runner: str = "threads", workers: int | None = None, **options):
        self._kept, self._runner, self._workers = readings, runner, workers
        super().__init__(**options)

    @abc.abstractmethod
    def pictures(self) -> dict[str, list[Picture]]:
        """The pictures of each split."""

    @classmethod
    def images(cls, picture: Picture) -> Iterator[tuple[np.ndarray, str]]:
        """The images of a file, uint8 [H, W, C] with their sources.

        Raises:
          Unusable: there are none.
        """
        image = read_image(picture.path, grey=cls.IMAGE_SHAPE[2] == 1)
        if image is None:
            raise Unusable("not a readable image" if picture.path.exists() else "does not exist")
        if of_one_colour(image):
            raise Unusable("one colour all over")
        yield image, picture.source

    def extra_features(self):
        return {"source": tfds.features.Text(), "subject": tfds.features.Text()}

    def examples(self):
        by_split = self.pictures() if self.aligned is None else self.aligned
        total = sum(map(len, by_split.values()))
        return {
            split: functools.partial(self._labelled, split, pictures, total) for split, pictures in by_split.items()
        }

    def _labelled(self, split: str, pictures: list[Picture], total: int) -> Iterator[Example]:
        """The examples of a split's pictures, in their order."""
        for picture, reading in zip(pictures, self._read(split, pictures), strict=True):
            if reading.unusable:
                self.quarantine(picture.path, reading.unusable, total)
            intensity = None
            if picture.intensity is not None:
                names = expressed(self.EMOTIONS)
                intensity = np.array([picture.intensity * (name == picture.emotion) for name in names], np.float32)
            known = {"subject": shown(picture.subject), **picture.extra}
            for png, digest, source in reading.faces:
                yield self.stored_example(png, digest, picture.emotion, intensity, source=shown(source), **known)

    def _read(self, split: str, pictures: list[Picture]) -> Iterator[Reading]:
        """The readings of all pictures: those kept from before, then new ones, read ahead on all cores."""
        done = 0
        for reading in self._kept.load(split):
            done += 1
            yield reading
        fresh = []
        start = functools.partial(_reader, type(self))
        for reading in runners.each(start, pictures[done:], runner=self._runner, workers=self._workers):
            yield reading
            fresh.append(reading)
            if len(fresh) == KEPT_TOGETHER:
                self._kept.add(split, fresh)
                fresh = []


def shown(name: str) -> str:
    """Of a name that is not UTF-8 what can be shown: the records' text and terminals are."""
    return os.fsencode(name).decode(errors="replace")


def _reader(builder: type[PictureBuilder]) -> Callable[[Picture], Reading]:
    """`read_faces` for a data set, as `runners.each` starts it in every worker."""
    return functools.partial(read_faces, builder)


def read_faces(builder: type[PictureBuilder], picture: Picture) -> Reading:
    """Reads one file, and crops and encodes what it shows, as the data set wants it."""
    faces = []
    try:
        for image, source in builder.images(picture):
            face = square(image, builder.IMAGE_SHAPE[0], picture.box)
            faces.append(StoredFace(encode(face), hashlib.sha256(face.tobytes()).digest(), source))
    except Unusable as reason:
        return Reading([], str(reason))
    return Reading(faces)


def of_one_colour(image: np.ndarray) -> bool:
    """Whether all pixels of an image [H, W, C] are alike."""
    return bool((image == image[:1, :1]).all())


def encode(image: np.ndarray) -> bytes:
    """The PNG of an image uint8 [H, W, 1] or RGB [H, W, 3]."""
    channels = image[..., ::-1] if image.shape[-1] == 3 else image
    return cv2.imencode(".png", channels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def square(image: np.ndarray, side: int, box: Box | None = None) -> np.ndarray:
    """A square part of an image, `side` pixels wide: around the face's box, else the centre.

    Args:
      image: uint8 [H, W, C].
      side: of the result, in pixels.
      box: x, y, width and height in pixels. The square is as wide as its longer side (at most as the image's longer
        side) and lies within the image as far as it fits; beyond it the border is repeated.

    Returns:
      uint8 [side, side, C]; the pixels of `image` unchanged where it is that large and has no box.
    """
    height, width = image.shape[:2]
    if box is None:
        length = min(height, width)
        left, top = (width - length) // 2, (height - length) // 2
    else:
        x, y, box_width, box_height = box
        length = max(1, min(round(max(box_width, box_height)), max(height, width)))
        left = _inside(round(x + (box_width - length) / 2), width - length)
        top = _inside(round(y + (box_height - length) / 2), height - length)
    crop = image[max(top, 0) : top + length, max(left, 0) : left + length]
    if crop.shape[:2] != (length, length):
        below, right = max(top + length - height, 0), max(left + length - width, 0)
        crop = cv2.copyMakeBorder(crop, max(-top, 0), below, max(-left, 0), right, cv2.BORDER_REPLICATE)
    if length != side:  # INTER_AREA would enlarge to blocks
        method = cv2.INTER_AREA if length > side else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (side, side), interpolation=method)
    return np.ascontiguousarray(crop).reshape(side, side, image.shape[2])


def _inside(start: int, room: int) -> int:
    """Where a square starts that has `room` to move; with less than none it must reach over both borders."""
    return min(max(start, min(room, 0)), max(room, 0))


def emotion_of(folder: Path) -> str:
    """The emotion that a folder is named after.

    Raises:
      UserError: it is none.
    """
    try:
        return canonical(folder.name)
    except ValueError as error:
        raise UserError(f"{folder}: {error}; give it an emotion's name or move it elsewhere") from None


def split_of(folder: str) -> str | None:
    """The split that a folder's name, or a cell of a table, stands for; None: it is none."""
    return next((split for split, names in SPLIT_FOLDERS.items() if folder.lower() in names), None)


def split_folders(root: Path, endings: Collection[str]) -> list[Path]:
    """The folders in a tree that are splits, by name; none where the emotions' folders lie in the tree itself.

    Raises:
      UserError: beside them lies a folder that is none, with files of these endings.
    """
    folders = [path for path in entries(root) if path.is_dir()]
    splits = [folder for folder in folders if split_of(folder.name)]
    for beside in folders if splits else ():
        if beside not in splits and any(path.suffix.lower() in endings for path in visible(beside)):
            raise UserError(
                f"{beside} lies beside {splits[0]} and is no split ({', '.join(SPLIT_FOLDERS)}): name it as one, put "
                f"it into one of the splits, or elsewhere"
            )
    return splits


def missing(name: str, data_dir: Path | None, origin: str) -> UserError:
    """The error of raw data that are not there: what was looked at, what is expected, where to get it."""
    if data_dir is None:
        return UserError(f"{name} needs --data_dir=PATH. {origin}")
    if not data_dir.exists():
        return UserError(f"{name}: {data_dir} does not exist. {origin}")
    if not data_dir.is_dir():
        return UserError(f"{name}: {data_dir} is none of the files expected. {origin}")
    found = [path.name + "/" * path.is_dir() for path in entries(data_dir)]
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return UserError(f"{name}: nothing usable in {data_dir} (found: {shown or 'nothing'}). {origin}")
