"""What is uploaded to the page: wrong files are refused by their header, others are read as elsewhere."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax import web_uploads
from fer_jax.errors import UserError


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_video(path: Path, frames, fps: float = 10.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises that size."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(data or bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "photo.jpg is empty"),
        (b"This is a text, whatever its name says.\n" * 50, "photo.jpg is no photo"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "photo.jpg is no photo"),
        (b"GIF89a" + bytes(100), "photo.jpg is no photo"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "photo.jpg is no photo"),
        (png_of(30_000, 30_000), "more than 40 megapixels"),
        (png_of(10_000, 4_001), "more than 40 megapixels"),
        (png_of(0, 10), "photo.jpg is"),
    ],
)
def test_wrong_photos_are_refused_before_anything_is_decoded(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(web_uploads, "read_image", lambda path: pytest.fail("it was decoded"))
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(UserError, match=message):
        web_uploads.read_photo(tmp_path / "photo.jpg", "photo.jpg")


def test_a_damaged_photo_is_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(png_of(50, 50)[:45])
    with pytest.raises(UserError, match=r"photo\.png is damaged"):
        web_uploads.read_photo(tmp_path / "photo.png", "photo.png")


def test_a_photo_is_read_as_it_is_and_a_large_one_shrunk(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = write_image(tmp_path / "small.png", image)
    np.testing.assert_array_equal(web_uploads.read_photo(path, "small.png"), image)
    path = write_image(tmp_path / "large.png", np.full((1000, 3200, 3), (10, 20, 30), np.uint8))
    large = web_uploads.read_photo(path, "large.png")
    assert large.shape == (500, 1600, 3)
    assert (large == (10, 20, 30)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "clip.mp4 is empty"),
        (b"no video at all, only text", "clip.mp4 is no video"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "clip.mp4 is no video"),  # FFmpeg would follow it
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "clip.mp4 is no video"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "clip.mp4 cannot be opened"),
        (b"aaaaftypjp2 \nv=0\nm=video 5004 RTP/AVP 96\n", "clip.mp4 is no video"),  # it would look for a stream
        (b"\x00\x00\x00\x02ftypmp42" + bytes(500), "clip.mp4 is no video"),
    ],
)
def test_wrong_videos_are_refused(content, message, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UserError, match=message):
        web_uploads.open_clip(tmp_path / "clip.mp4", "clip.mp4")


def test_videos_beyond_the_limits_are_refused(tmp_path):
    long = write_video(tmp_path / "long.avi", [np.zeros((16, 16, 3), np.uint8)] * 62, fps=1)
    with pytest.raises(UserError, match=r"long\.avi takes 62 s in 62 frames: at most 60 s"):
        web_uploads.open_clip(long, "long.avi")
    wide = write_video(tmp_path / "wide.avi", [np.zeros((2176, 3872, 3), np.uint8)])
    with pytest.raises(UserError, match=r"wide\.avi is 3872 x 2176 pixels"):
        web_uploads.open_clip(wide, "wide.avi")


def test_a_clip_gives_ten_frames_a_second(tmp_path):
    frames = [np.full((48, 64, 3), 4 * i, np.uint8) for i in range(60)]
    clip = web_uploads.open_clip(write_video(tmp_path / "clip.avi", frames, fps=30), "clip.avi")
    assert (clip.seconds, clip.fps) == (2.0, 10.0)
    read = list(clip)
    np.testing.assert_allclose([frame.time for frame in read], np.arange(20) / 10, atol=1e-9)
    np.testing.assert_allclose([frame.image.mean() for frame in read], np.arange(20) * 12, atol=3)
    assert not clip.cut


def test_a_clip_longer_than_its_header_says_is_cut_and_says_so(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.avi", [np.zeros((48, 64, 3), np.uint8)] * 30)
    clip = web_uploads.open_clip(path, "clip.avi")
    monkeypatch.setattr(web_uploads, "MAX_SECONDS", 1)
    assert [frame.number for frame in clip] == list(range(11))
    assert clip.cut
