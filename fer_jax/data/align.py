"""Alignment of faces by 68 landmarks, offline: from photographs to 128x128 crops. Imports no JAX.

    python -m fer_jax.data.align --input=DIR --output=DIR [--method=landmarks] [--detector=dlib] [--runner=ray]

The methods: `landmarks` levels the eyes and cuts the face out by its landmarks (Xu et al.), `rotation` levels the eyes
and keeps the detector's box, `none` is that box alone; `crops` has the geometry.

The output mirrors the tree of the input as PNG, which `prepare folder`, `jaffe` and `kdef` take as they take the
original (`prepare NAME --align=METHOD` aligns every data set of photographs), with `faces.csv` (every image, every
face, and why one has no crop), `settings.txt` (what the crops are), and `detections.jsonl` (the boxes and landmarks of
all faces), from which a run that was cut short goes on; copied into another output it saves detecting again for other
crops. Landmarks that come with the data are read each time, as they may have been corrected. Crops of photographs that
are gone from the input are deleted.
"""

import csv
import dataclasses
import functools
import glob
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from tqdm import tqdm

from fer_jax import files, process
from fer_jax.data import crops, detections, runners
from fer_jax.data.detect import DETECTORS, LANDMARK_SUFFIXES, Box, Detector, Supplied, make_detector
from fer_jax.errors import UserError, exits_with_message

SEVERAL = ("largest", "all", "refuse")
LARGEST = 4096  # pixels, the side of a crop
_COLUMNS = ("path", "face", "status", "reason", "output", "x", "y", "width", "height", "roll")
_FURTHER = re.compile(r"(.+)-[1-9]\d*")  # the crop of a further face in an image; see `align_image`


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides on the crops of a tree."""

    source: Path
    output: Path
    method: str = "landmarks"
    several: str = "largest"  # of several faces in an image: the largest, all of them, or none
    size: int = 128
    detector: str = "dlib"
    model: Path | None = None  # of yunet
    landmarks: Path | None = None  # supplied with the data: no detector then
    detections: Path | None = None  # the file that keeps them; None: detections.jsonl in the output

    def known(self) -> dict[str, dict]:
        """The lines of the file of detections that still hold; see `detections.read`."""
        return detections.read(self.kept, self.source, self.origin)

    @property
    def kept(self) -> Path:
        """The file of detections."""
        return self.detections or self.output / "detections.jsonl"

    def finder(self) -> Detector | Supplied:
        """What finds the faces.

        Raises:
          UserError: no such detector, or no landmarks where they are said to lie.
        """
        return Supplied(self.landmarks) if self.landmarks else make_detector(self.detector, self.model)

    @property
    def origin(self) -> str:
        """What finds the faces; see `detections.origin`."""
        return detections.origin(self.detector, self.model, self.landmarks)


def align_image(
    path: str, known: dict | None, box: Box | None, *, settings: Settings, detector: Detector | Supplied
) -> tuple[dict | None, list]:
    """Detects (unless `known`) and crops the faces of one image, and writes the crops.

    Args:
      box: where the face lies, if the data say so: only one whose centre lies in it is taken.
      detector: `Supplied` where the settings name landmarks.

    Returns:
      Its line of detections.jsonl, but for the detector (None: there is no such file), and its rows of faces.csv.
    """
    source = settings.source / path
    if not source.exists():
        return None, [_row(path, "unreadable", "does not exist")]
    record = known or {"path": path, **detections.stamp(source)}
    image = files.read_image(source)
    if image is None:
        reason = "not an image, or damaged" if source.stat().st_size else "an empty file"
        return record | {"faces": []}, [_row(path, "unreadable", reason)]
    if "faces" not in record:
        found = detector(Path(path)) if settings.landmarks else detector(image)
        found = sorted(found, key=lambda face: -face.box[2] * face.box[3])
        record["faces"] = [detections.to_json(face) for face in found]
    faces = [detections.from_json(face) for face in record["faces"]]
    if not faces:
        reason = f"no landmarks of it in {settings.landmarks}" if settings.landmarks else "the detector finds none"
        return record, [_row(path, "no face", reason)]
    if box:
        faces = [face for face in faces if holds_centre(box, face.box)]
        if not faces:
            return record, [_row(path, "no face", f"of {len(record['faces'])} found none is the annotated one")]
    if len(faces) > 1 and settings.several == "refuse":
        return record, [_row(path, "several faces", f"{len(faces)} faces; --several=largest or all takes them")]
    rows = []
    for number, face in enumerate(faces if settings.several == "all" else faces[:1]):
        try:
            crop = crops.align(image, face, size=settings.size, method=settings.method)
        except crops.NoCrop as error:
            rows.append(_row(path, "no crop", str(error), number, face))
            continue
        target = Path(path).with_suffix("")
        target = target.with_name(f"{target.name}-{number}.png" if number else f"{target.name}.png")
        _write(settings.output / target, crop)
        reason = f"the largest of {len(faces)}" if len(faces) > 1 and settings.several == "largest" else ""
        rows.append(_row(path, "ok", reason, number, face, target.as_posix()))
    return record, rows


def _write(path: Path, crop: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", crop[..., ::-1])[1].tobytes())


def _row(path, status, reason, number="", face=None, output="") -> dict:
    row = {"path": path, "face": number, "status": status, "reason": reason, "output": output}
    if face:
        row |= dict(zip(("x", "y", "width", "height"), (round(value, 1) for value in face.box), strict=True))
        row["roll"] = round(crops.roll(face), 2)
    return row


def find_images(source: Path, output: Path) -> list[str]:
    """The images under a folder, relative to it, sorted; the output, should it lie there, is left out.

    Raises:
      UserError: there are none.
    """
    if not source.is_dir():
        raise UserError(f"--input={source} is not a folder")
    paths = (path for path in files.visible(source) if files.is_image(path))
    if output == source or output in source.parents:
        raise UserError(f"--input={source} lies in --output={output}, whose images are crops: choose another output")
    images = sorted(path.relative_to(source).as_posix() for path in paths if output not in path.parents)
    if not images:
        raise UserError(f"--input={source} has no images ({', '.join(files.IMAGES)})")
    return images


def _no_images(settings: Settings) -> list[Path]:
    """The files in the input that are no images by their names, nor landmarks of some."""
    known = (*files.IMAGES, *LANDMARK_SUFFIXES)
    found = (path for path in files.visible(settings.source) if not path.name.lower().endswith(known))
    return [path for path in found if settings.output not in path.parents and path != settings.landmarks]


def _stem(path: str) -> str:
    return Path(path).with_suffix("").as_posix()


def _refuse_same_crops(images: Sequence[str], settings: Settings) -> None:
    stems = Counter(map(_stem, images))
    where = f"under {settings.source}"
    if same := [stem for stem, count in stems.items() if count > 1]:
        raise UserError(f"several images {where} are named {same[0]}.*: their crops would be the same file")
    if settings.several != "all":
        return
    if both := [(match[1], stem) for stem in stems if (match := _FURTHER.fullmatch(stem)) and match[1] in stems]:
        several, one = both[0]
        raise UserError(
            f"images {where} are named {several}.* and {one}.*: with --several=all another face of the first would "
            f"have the crop {one}.png, which is the second's; rename one of them or use --several=largest"
        )


def _claim(settings: Settings, *, whole: bool) -> None:
    """Notes in the output what its crops are, and of which input.

    Args:
      whole: the crops are those of all images of the input; of the pictures of a data set the input may have moved.

    Raises:
      UserError: it has other ones.
    """
    note = settings.output / "settings.txt"
    asked = [
        f"--method={settings.method} --several={settings.several} --size={settings.size}",
        f"--input={json.dumps(str(settings.source))}",
    ]
    compared = asked if whole else asked[:1]
    before = note.read_text().strip().splitlines() if note.exists() else asked
    if any(old != new for old, new in zip(before, compared, strict=False)):
        raise UserError(
            f"{settings.output} has crops of {' '.join(before)}, not of {' '.join(compared)}: choose another output "
            f"folder (with a copy of detections.jsonl nothing is detected again), or delete this one"
        )
    with files.whole(note) as temporary:
        temporary.write_text("\n".join(asked) + "\n")


def _rows_before(settings: Settings) -> list[dict[str, str]]:
    """The rows of the faces.csv of an earlier run into the same output."""
    table = settings.output / "faces.csv"
    if not table.exists():
        return []
    with _open(table) as file:
        return list(csv.DictReader(file))


def _delete_old_crops(
    settings: Settings, rows: Sequence[dict], images: Container[str] | None, looked_at: Collection[str]
) -> None:
    """Deletes the crops of an earlier run that `rows` lack: of photographs that are gone, or have no face now.

    Args:
      images: the photographs to which `rows` belong; None: all.
      looked_at: the photographs of earlier runs, of which one that was cut short has left no rows.
    """
    before = {row["output"] for row in _rows_before(settings) if images is None or row["path"] in images}
    if images is None:
        for path in set(looked_at).difference(row["path"] for row in rows):
            crop = Path(path).with_suffix(".png")
            further = (settings.output / crop.parent).glob(f"{glob.escape(crop.stem)}-[1-9]*.png")
            before.update([crop.as_posix(), *(each.relative_to(settings.output).as_posix() for each in further)])
    for crop in before - {row["output"] for row in rows} - {""}:
        (settings.output / crop).unlink(missing_ok=True)


def align_tree(
    settings: Settings,
    images: Sequence[str] | None = None,
    *,
    boxes: Mapping[str, Box] | None = None,
    runner: str = "processes",
    workers: int | None = None,
) -> list[dict]:
    """Aligns images of a tree, all unless named; returns the rows of faces.csv, which it writes. See `runners.each`.

    Args:
      boxes: where the faces of some images lie, see `align_image`.

    Raises:
      UserError: no images, two whose crops would be the same file, a detector that cannot be had, crops of other
        settings or of another input in the output.
    """
    whole = images is None
    if whole:
        images = find_images(settings.source, settings.output)
    _refuse_same_crops(images, settings)
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output={settings.output} ({error.strerror}): choose another") from error
    settings.finder()  # fails here, not in every worker
    _claim(settings, whole=whole)
    before, by = settings.known(), {"detector": settings.origin}
    looked_at = [record["path"] for record in detections.records(settings.kept)] if whole else []
    known = {} if settings.landmarks else before  # landmarks may have been corrected, and are quickly read
    rows = []
    with (
        settings.kept.open("a+", buffering=1) as kept,
        tqdm(total=len(images), unit=" images", smoothing=0.05, disable=None) as bar,
    ):
        if kept.tell() and not settings.kept.read_bytes().endswith(b"\n"):
            kept.write("\n")  # after a line that was cut short
        boxes = boxes or {}
        work = ((image, known.get(image), boxes.get(image)) for image in images)
        start = functools.partial(_aligner, settings)
        for record, of_image in runners.each(start, work, runner=runner, workers=workers):
            if record and record | by != before.get(record["path"]):
                kept.write(json.dumps(record | by) + "\n")
            rows += of_image
            bar.update()
    rows.sort(key=lambda row: (row["path"], row["face"] or 0))
    _delete_old_crops(settings, rows, None if whole else set(images), looked_at)
    with files.whole(settings.output / "faces.csv") as temporary, _open(temporary, "w") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _open(table: Path, mode: str = "r") -> TextIO:
    return table.open(mode, newline="", encoding="utf-8", errors="surrogateescape")  # names may be no UTF-8


def _aligner(settings: Settings) -> Callable[[tuple[str, dict | None, Box | None]], tuple[dict | None, list]]:
    """`align_image` of (path, known, box), with the settings and a detector of its own: made in each worker."""
    cv2.setNumThreads(1)  # the workers are the parallelism
    detector = settings.finder()
    return lambda work: align_image(*work, settings=settings, detector=detector)


def holds_centre(box: Box, face: Box) -> bool:
    """Whether the centre of a face lies in a box."""
    across, down = face[0] + face[2] / 2 - box[0], face[1] + face[3] / 2 - box[1]
    return 0 <= across <= box[2] and 0 <= down <= box[3]


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.data.align", __doc__)
    parser.add_argument("--input", type=files.user_path, required=True, help="folder of images, searched to any depth")
    parser.add_argument("--output", type=files.user_path, required=True, help="folder of crops, mirrors the input")
    parser.add_argument("--method", choices=crops.METHODS, default="landmarks", help="default: landmarks")
    parser.add_argument("--detector", choices=DETECTORS, default="dlib", help="default: dlib")
    parser.add_argument(
        "--model", type=files.user_path, help="of yunet: face_detection_yunet_*.onnx (OpenCV model zoo)"
    )
    parser.add_argument("--landmarks", type=files.user_path, help="folder or CSV of landmarks that come with the data")
    parser.add_argument("--several", choices=SEVERAL, default="largest", help="which of several faces to take")
    parser.add_argument("--size", type=int, default=128, help="side of the crops in pixels")
    parser.add_argument("--runner", choices=("processes", "ray"), default="processes", help="ray: on a cluster")
    parser.add_argument("--workers", type=int, help="processes, or Ray actors (default: one a core)")
    parser.add_argument("--preview", type=files.user_path, metavar="FILE", help="draw faces before and after")
    options = parser.parse_args(arguments)
    if not 1 <= options.size <= LARGEST:
        parser.error(f"--size={options.size} must lie in 1..{LARGEST} pixels")
    settings = Settings(
        options.input.resolve(),
        options.output.resolve(),
        options.method,
        options.several,
        options.size,
        options.detector,
        options.model and options.model.resolve(),
        options.landmarks and options.landmarks.resolve(),
    )
    try:
        rows = align_tree(settings, runner=options.runner, workers=options.workers)
        counts = Counter(row["status"] for row in rows)
        print(", ".join(f"{count:,} {status}" for status, count in counts.most_common()))
        if others := files.of_other_kinds(_no_images(settings)):
            print(f"left out, by their names no images: {others}")
        print(f"table: {settings.output / 'faces.csv'}")
        if not counts["ok"]:
            reason, times = Counter(row["reason"] for row in rows).most_common(1)[0]
            raise UserError(f"no face has a crop; {times:,} of {len(rows):,} times: {reason}")
        if options.preview:
            from fer_jax.data.align_preview import preview  # here: it draws with Matplotlib

            preview(settings, rows, options.preview)
            print(f"preview: {options.preview}")
    except OSError as error:
        if not (reason := files.refusal(error)):
            raise
        if settings.landmarks and error.filename == str(settings.landmarks):
            raise UserError(f"{settings.landmarks} cannot be read ({reason}): make it readable") from error
        raise UserError(
            f"cannot write to {error.filename or settings.output} ({reason}): make room, or choose an --output that "
            f"you can write to, and repeat the command, which goes on where it was"
        ) from error


if __name__ == "__main__":
    main()
