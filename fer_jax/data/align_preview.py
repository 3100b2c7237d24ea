"""A picture of faces before and after their alignment."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax import figures, files
from fer_jax.data import crops, detections
from fer_jax.data.align import Settings
from fer_jax.data.detect import Face


def preview(settings: Settings, rows: Sequence[dict], path: Path, count: int = 24) -> None:
    """Draws faces before (with box and landmarks) and after, spread over the tree, as the paper's figure 5."""
    rows = [row for row in rows if row["status"] == "ok"]
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
    known = settings.known()
    before, after = [], []
    for row in chosen:
        image = files.read_image(settings.source / row["path"])
        face = detections.from_json(known[row["path"]]["faces"][int(row["face"])])
        before.append(_surroundings(image, face))
        after.append(cv2.resize(files.read_image(settings.output / row["output"]), (256, 256)))
    half = -(-len(chosen) // 2)
    columns = {}
    for number, part in enumerate((slice(0, half), slice(half, None))):
        if before[part]:
            columns[f"before{' ' * number}"] = np.stack(before[part])
            columns[f"after{' ' * number}"] = np.stack(after[part])
    figures.contact_sheet(columns, path)


def _surroundings(image: np.ndarray, face: Face, side: int = 256) -> np.ndarray:
    """The face with what is around it, its box and landmarks drawn: uint8 [side, side, 3]."""
    x, y, width, height = face.box
    reach = max(width, height)
    wide = Face((x + width / 2 - reach, y + height / 2 - reach, 2 * reach, 2 * reach))
    transform = crops.crop_transform(wide, size=side, method="none")
    picture = np.ascontiguousarray(crops.warp(image, transform, size=side))
    corners = np.array([(x, y), (x + width, y + height)]) @ transform[:, :2].T + transform[:, 2]
    cv2.rectangle(picture, *(tuple(map(int, corner.round())) for corner in corners), (80, 160, 255), 1, cv2.LINE_AA)
    points = face.landmarks if face.landmarks is not None else face.eyes
    for point in [] if points is None else points @ transform[:, :2].T + transform[:, 2]:
        cv2.circle(picture, tuple(map(int, point.round())), 2, (90, 255, 90), -1, cv2.LINE_AA)
    return picture
