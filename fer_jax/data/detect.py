"""Finding faces and their 68 landmarks (iBUG order) in an image. Imports no JAX.

A detector is a function of an RGB image that returns all faces in it. `make_detector` has dlib (extra `align`),
OpenCV's Haar cascade, and YuNet when the user gives its ONNX file; `Supplied` reads landmarks that come with the data.
Haar and YuNet find boxes; dlib's shape predictor, where it is installed, adds the 68 landmarks.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax import files
from fer_jax.errors import UserError, unknown

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)  # of the image, not of the person
DETECTORS = ("dlib", "haar", "yunet")
LANDMARK_SUFFIXES = (".pts", "_landmarks.txt", ".txt")

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclasses.dataclass(frozen=True)
class Face:
    """A face in an image."""

    # x, y, width, height as detectors give them, from edge to edge: (2, 3, 4, 5) are the pixels 2..5 of the rows 3..7.
    box: Box
    # Of points the pixels' centres lie at whole numbers.
    landmarks: np.ndarray | None = None  # float [68, 2], x and y
    eyes: np.ndarray | None = None  # float [2, 2], the centres of the eyes, left of the image first

    @classmethod
    def from_landmarks(cls, landmarks: np.ndarray, box: tuple | None = None) -> "Face":
        """A face of known landmarks; its box is theirs unless given."""
        if box is None:
            box = (*(landmarks.min(0) + 0.5), *np.ptp(landmarks, axis=0))
        eyes = np.stack([landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)])
        return cls(tuple(map(float, box)), landmarks, eyes)

    def moved(self, right: float, down: float) -> "Face":
        """The face with everything in it moved: as it lies in the image that a part of was searched."""
        x, y, width, height = self.box
        points = (None if each is None else each + (right, down) for each in (self.landmarks, self.eyes))
        return Face((x + right, y + down, width, height), *points)


# Of an image uint8 [H, W, 3], RGB; those of `make_detector` take `sizes` too: the least and the greatest side in pixels
# that the faces in it can have. Only Haar uses it, to search faster.
Detector = Callable[..., list[Face]]


def make_detector(
    name: str, model: Path | None = None, *, landmarks: bool = True, smallest: int = 24, equalize: bool = True
) -> Detector:
    """The detector of that name: a function of an image uint8 [H, W, 3], RGB, that returns its faces; see `Detector`.

    Args:
      model: the ONNX file of YuNet (face_detection_yunet_*.onnx of the OpenCV model zoo).
      landmarks: whether the 68 landmarks are wanted, 2 ms a face, where the extra `align` is installed.
      smallest: the side in pixels of the smallest faces that Haar looks for; they take most of its time.
      equalize: whether Haar sees the image with its histogram equalised: 3 to 4 times slower where that brings out
        texture.

    Raises:
      UserError: unknown name, a package or file that is not there.
    """
    if name == "dlib":
        return Dlib(landmarks=landmarks)
    if name == "haar":
        return Haar(landmarks=landmarks, smallest=smallest, equalize=equalize)
    if name == "yunet":
        return YuNet(model, landmarks=landmarks)
    raise unknown("detector", name, DETECTORS)


class ShapePredictor:
    """dlib's 68 landmarks inside a box (Kazemi & Sullivan 2014), from the package face-recognition-models."""

    FILE = "models/shape_predictor_68_face_landmarks.dat"

    def __init__(self):
        import dlib

        # The package itself imports pkg_resources, which newer environments lack: only its file is wanted.
        package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
        self._dlib = dlib
        self._predict = dlib.shape_predictor(str(package / self.FILE))

    @staticmethod
    def available() -> bool:
        """Whether the extra `align` is installed."""
        return all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))

    def __call__(self, image: np.ndarray, box: Box) -> Face:
        image = np.ascontiguousarray(image)  # see Dlib
        x, y, width, height = (round(value) for value in box)
        points = self._predict(image, self._dlib.rectangle(x, y, x + width - 1, y + height - 1)).parts()
        return Face.from_landmarks(np.array([(point.x, point.y) for point in points], float), box)


def _completion(landmarks: bool) -> Callable[[np.ndarray, Face], Face]:
    """What gives a face found in an image its landmarks, or leaves it as it is: unwanted, or not installed."""
    if not (landmarks and ShapePredictor.available()):
        return lambda image, face: face
    predict = ShapePredictor()
    return lambda image, face: predict(image, face.box)


class Dlib:
    """dlib's HOG detector of frontal faces; once more at twice the size where it finds none (faces under 80 pixels)."""

    def __init__(self, *, landmarks: bool = True):
        if not ShapePredictor.available():
            raise UserError("the detector dlib needs the extra align: pip install 'fer_jax[align]'")
        import dlib

        self._detect = dlib.get_frontal_face_detector()
        self._complete = _completion(landmarks)

    def __call__(self, image: np.ndarray, sizes: tuple[float, float] | None = None) -> list[Face]:
        image = np.ascontiguousarray(image)  # of a view dlib's results are random: no faces, wrong ones, crashes
        found = self._detect(image, 0) or self._detect(image, 1)
        boxes = [tuple(map(float, (b.left(), b.top(), b.width(), b.height()))) for b in found]
        return [self._complete(image, Face(box)) for box in boxes]


class Haar:
    """OpenCV's Haar cascade of frontal faces (Viola & Jones 2001); landmarks where the extra `align` is installed."""

    def __init__(self, *, landmarks: bool = True, smallest: int = 24, equalize: bool = True):
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        self._smallest, self._equalize = smallest, equalize
        self._complete = _completion(landmarks)

    def __call__(self, image: np.ndarray, sizes: tuple[float, float] | None = None) -> list[Face]:
        least, most = (self._smallest, 0) if sizes is None else (max(self._smallest, int(sizes[0])), round(sizes[1]))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.equalizeHist(grey) if self._equalize else grey
        boxes = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(least, least), maxSize=(most, most))
        # OpenCV's threads give them in the order in which they end.
        return [self._complete(image, Face(box)) for box in sorted(tuple(map(float, box)) for box in boxes)]


class YuNet:
    """YuNet (Wu et al. 2023) by OpenCV, which finds the eyes too; landmarks where the extra `align` is installed."""

    def __init__(self, model: Path | None, *, landmarks: bool = True):
        if model is None or not Path(model).is_file():
            raise UserError(
                f"the detector yunet needs its ONNX file, --model=FILE (got {model}): face_detection_yunet_*.onnx of "
                f"https://github.com/opencv/opencv_zoo"
            )
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score_threshold=0.7)
        except cv2.error as error:
            size = f"{Path(model).stat().st_size:,} bytes"
            raise UserError(
                f"{model} ({size}) is no ONNX file that OpenCV can read; one of a few bytes is a pointer of Git LFS: "
                f"download the file itself"
            ) from error
        self._complete = _completion(landmarks)

    def __call__(self, image: np.ndarray, sizes: tuple[float, float] | None = None) -> list[Face]:
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, found = self._net.detect(image[..., ::-1])
        faces = []
        for row in [] if found is None else found.astype(float):
            box, eyes = tuple(row[:4]), row[4:8].reshape(2, 2)
            face = Face(box, eyes=eyes[eyes[:, 0].argsort()])
            faces.append(self._complete(image, face))
        return faces


def landmarks_beside(image: Path, endings: Sequence[str] = LANDMARK_SUFFIXES) -> Path | None:
    """The file of landmarks that lies beside an image."""
    beside = (image.with_name(image.stem + ending) for ending in endings)
    return next((file for file in beside if file.is_file()), None)


class Supplied:
    """Landmarks that come with the data, instead of a detector: a tree beside the images' tree, or one CSV file.

    In a tree `a/b.jpg` has `a/b.pts` (1-based), or `a/b_landmarks.txt` (CK+) or `a/b.txt` with 68 rows `x y`. A CSV
    file has the header `path,x1,y1,...,x68,y68`, paths relative to the images' tree, several rows for several faces.

    Raises:
      UserError: `source` does not exist, or its table is wrong.
    """

    def __init__(self, source: Path):
        if not source.exists():
            raise UserError(f"--landmarks={source} does not exist")
        self._source = source
        self._rows = read_table(source) if source.is_file() else None

    def __call__(self, path: Path) -> list[Face]:
        """The faces of the image at `path`, relative to the images' tree."""
        if self._rows is not None:
            return [Face.from_landmarks(points) for points in self._rows.get(path.as_posix(), [])]
        file = landmarks_beside(self._source / path)
        return [Face.from_landmarks(read_landmarks(file))] if file else []


def read_landmarks(path: Path) -> np.ndarray:
    """The 68 landmarks of a `.pts` file (x y, 1-based, as iBUG writes them) or of a text file of 68 rows `x y`.

    Raises:
      UserError: not 68 pairs of numbers; names file and line.
    """
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip() or re.match(r"\s*(version|n_points|[{}])", line):
            continue
        try:
            x, y = map(float, line.replace(",", " ").split())
        except ValueError:
            x = y = np.nan
        if not np.isfinite((x, y)).all():
            raise UserError(f"{path}, line {number}: {line.strip()[:40]!r} is not a pair x y")
        points.append((x, y))
    if len(points) != 68:
        raise UserError(f"{path}: {len(points)} landmarks, expected 68")
    return np.array(points) - (1 if path.suffix == ".pts" else 0)


def read_table(path: Path) -> dict[str, list[np.ndarray]]:
    """The landmarks of a CSV file by image.

    Raises:
      UserError: no text in UTF-8, a wrong header or row; names file and line.
    """
    columns = [f"{axis}{i}" for i in range(1, 69) for axis in "xy"]
    table: dict[str, list[np.ndarray]] = {}
    with (
        path.open(newline="", encoding="utf-8-sig") as file,
        files.csv_rows(file, path, skipinitialspace=True) as reader,
    ):
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in ["path", *columns] if name not in header]:
            raise UserError(f"{path}: the header lacks {', '.join(missing[:4])}; expected path,x1,y1,...,x68,y68")
        for fields in filter(any, reader):
            row = dict(zip(header, fields, strict=False))
            try:
                path_of_image = row["path"].strip()
                points = np.array([float(row[name]) for name in columns]).reshape(68, 2)
            except (KeyError, ValueError):
                points = np.array(np.nan)
            if not np.isfinite(points).all():
                raise UserError(f"{path}, line {reader.line_num}: 136 numbers are expected beside the path")
            table.setdefault(path_of_image, []).append(points)
    return table
