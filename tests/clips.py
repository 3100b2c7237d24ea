"""Clips for the tests: bright patches on black, which a detector of their own finds; files of frames."""

import struct
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.detect import Face


def patch(number: int, side: int) -> np.ndarray:
    """A face for `bright_patches`: uint8 [side, side, 3], coarse bright noise."""
    coarse = np.random.default_rng(number).integers(110, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_NEAREST)


def bright_patches(image: np.ndarray, sizes=None) -> list[Face]:
    """A detector of patches on a black ground, of any size."""
    mask = (image.min(-1) > 60).astype(np.uint8)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
    return [Face(tuple(map(float, box[:4]))) for box in boxes[1:] if box[4] > 300]


def frame_of(places, side=60, size=(240, 320)) -> np.ndarray:
    """A black frame with patch number i at places[i] (x, y)."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (x, y) in enumerate(places):
        image[y : y + side, x : x + side] = patch(number, side)
    return image


def moving(count: int) -> list[np.ndarray]:
    """Frames in which two patches pass each other."""
    return [frame_of([(10 + 5 * i, 20), (240 - 5 * i, 140)]) for i in range(count)]


def write_video(path: Path, frames, fps=20.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames, fps = [], capture.get(cv2.CAP_PROP_FPS)
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames, fps


def write_recording(path: Path, frames, milliseconds, *, seconds: float | None = None) -> Path:
    """Matroska as a browser's MediaRecorder writes it: a time for each frame, no rate, and no length unless given."""

    def element(name: str, content: bytes, *, size: bytes = b"") -> bytes:
        return bytes.fromhex(name) + (size or (len(content) | 1 << 56).to_bytes(8, "big")) + content

    def number(name: str, value: int) -> bytes:
        return element(name, value.to_bytes(4, "big"))

    unknown = b"\x01" + b"\xff" * 7
    height, width = frames[0].shape[:2]
    picture = element("E0", number("B0", width) + number("BA", height))
    track = number("D7", 1) + number("73C5", 1) + number("83", 1) + element("86", b"V_MJPEG") + picture
    blocks = [
        element(
            "A3", b"\x81" + int(time).to_bytes(2, "big") + b"\x80" + cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes()
        )
        for frame, time in zip(frames, milliseconds, strict=True)
    ]
    info = number("2AD7B1", 1_000_000)  # times in milliseconds
    if seconds is not None:
        info += element("4489", struct.pack(">d", 1000 * seconds))
    content = element("1549A966", info) + element("1654AE6B", element("AE", track))
    content += element("1F43B675", number("E7", 0) + b"".join(blocks), size=unknown)
    path.write_bytes(element("1A45DFA3", element("4282", b"matroska")) + element("18538067", content, size=unknown))
    return path
