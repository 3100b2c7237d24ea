"""detections.jsonl: which faces were found in the photographs of a folder, so that none is looked for twice."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_jax.data.detect import Face, ShapePredictor


def to_json(face: Face) -> dict:
    """A face as plain data, its points to 0.001 pixels."""
    points = {name: getattr(face, name) for name in ("landmarks", "eyes")}
    points = {name: value.round(3).tolist() for name, value in points.items() if value is not None}
    return {"box": list(face.box)} | points


def from_json(face: dict) -> Face:
    """The face that `to_json` wrote."""
    points = {name: np.array(face[name]) for name in ("landmarks", "eyes") if name in face}
    return Face(tuple(face["box"]), **points)


def stamp(path: Path) -> dict:
    """By what a file is known to be the one seen before."""
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def origin(detector: str, model: Path | None, landmarks: Path | None) -> str:
    """By what the faces found before are known to be those that would be found now; see `align.Settings`."""
    if landmarks:
        return f"supplied {landmarks}"
    parts = [detector]
    if detector == "dlib":
        parts.append("of whole arrays")  # before, it was given views, of which it finds faces at random
    if detector == "yunet":
        parts.append(hashlib.sha256(model.read_bytes()).hexdigest()[:12])
    if ShapePredictor.available():
        parts.append("with landmarks")
    return " ".join(parts)


def records(path: Path) -> Iterator[dict]:
    """The lines of the file, if there is one, but for those that were cut short by a kill."""
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def read(path: Path, source: Path, detector: str) -> dict[str, dict]:
    """The lines by path that hold for the files of `source` as they are and for a detector, named by `origin`."""
    known = {}
    for record in records(path):
        photograph = source / record["path"]
        if photograph.exists() and record == record | stamp(photograph) | {"detector": detector}:
            known[record["path"]] = record
    return known
