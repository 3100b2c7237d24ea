"""The photographs of a data set, aligned: crops in their places, by the landmarks beside them or by dlib. No JAX."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax import files
from fer_jax.data.align import Settings, align_tree, holds_centre
from fer_jax.data.detect import landmarks_beside, read_landmarks
from fer_jax.errors import UserError

if TYPE_CHECKING:
    from fer_jax.data.datasets.base import Picture

log = logging.getLogger(__name__)


def align_pictures(
    pictures: Sequence["Picture"],
    root: Path,
    folder: Path,
    method: str,
    *,
    landmarks: bool = False,
    runner: str = "processes",
    workers: int | None = None,
) -> tuple[list["Picture"], list[tuple[str, str]]]:
    """The pictures of a data set with aligned crops in their places, and (path, reason) of those that stay as they are.

    Of several faces the largest is taken; where the data say where the face is, the largest of those that lie there.

    Args:
      root: the folder that they all lie in, resolved.
      folder: of the crops, in a folder for each method, and of the detections, which serve all methods.
      landmarks: whether they lie beside the pictures (`have_landmarks`); otherwise dlib finds the faces.

    Raises:
      UserError: a video among them, two whose crops would be the same file, no detector.
    """
    paths = [(picture.path.parent.resolve() / picture.path.name).relative_to(root) for picture in pictures]
    images = sorted({path.as_posix() for path in paths})
    if videos := [image for image in images if not files.is_image(Path(image))]:
        known = ", ".join(files.IMAGES)
        raise UserError(f"{root / videos[0]} cannot be aligned, only images can ({known}): leave it out")
    supplied = root if landmarks else None
    settings = Settings(root, folder / method, method, landmarks=supplied, detections=folder / "detections.jsonl")
    # An image has one crop: of one that several pictures are of, the largest face, for those whose box it lies in.
    count = Counter(paths)
    boxes = {
        path.as_posix(): picture.box
        for picture, path in zip(pictures, paths, strict=True)
        if picture.box and count[path] == 1
    }
    rows = align_tree(settings, images, boxes=boxes, runner=runner, workers=workers)
    rows = {row["path"]: row for row in rows}
    aligned, reasons = [], []
    for picture, path in zip(pictures, paths, strict=True):
        row = rows[path.as_posix()]
        if row["status"] != "ok":
            reasons.append((row["path"], f"{row['status']}, {row['reason']}"))
        elif picture.box and not holds_centre(picture.box, tuple(row[name] for name in ("x", "y", "width", "height"))):
            reasons.append((row["path"], "the face found is not the annotated one"))
        else:
            picture = picture._replace(path=settings.output / row["output"], box=None)
        aligned.append(picture)
    return aligned, reasons


def have_landmarks(pictures: Sequence["Picture"]) -> bool:
    """Whether beside each picture that is there lies a file of its landmarks, as `detect.Supplied` reads them.

    Files of which none holds landmarks are something else, as the boxes of a detector's training are in NAME.txt.

    Raises:
      UserError: some hold landmarks, one does not.
    """
    found, wrong, lacking = False, None, None
    for path in (picture.path for picture in pictures if files.is_image(picture.path) and picture.path.exists()):
        try:
            if file := landmarks_beside(path):
                read_landmarks(file)
                found = True
            else:
                lacking = lacking or path
        except UserError as error:
            wrong = wrong or error
        if found and wrong:
            raise wrong
        if found and lacking:
            log.warning("data: %s has no landmarks beside it, as others have: dlib is to find those of all", lacking)
            return False
    return found
