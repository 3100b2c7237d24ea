"""A stream over the network, RTSP: read, and ended in the middle. The server is a small one of our own."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from fer_jax import video
from fer_jax.errors import UserError

pytestmark = pytest.mark.skipif(
    cv2.CAP_FFMPEG not in cv2.videoio_registry.getBackends(), reason="this OpenCV reads no streams: it lacks FFmpeg"
)

DESCRIPTION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:trackID=0\r\n"
    "a=framerate:25\r\n"
)


def scan_of(jpeg: bytes) -> tuple[bytes, bytes]:
    """(the two quantisation tables, the compressed pixels) of a JPEG file."""
    tables, at = {}, 2
    while True:
        marker, length = jpeg[at + 1], struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        body = jpeg[at + 4 : at + 2 + length]
        at += 2 + length
        while marker == 0xDB and body:
            tables[body[0] & 15], body = body[1:65], body[65:]
        if marker == 0xDA:
            return tables[0] + tables[1], jpeg[at:-2]


def packets(image: np.ndarray, number: int, sequence: Iterator[int]) -> Iterator[bytes]:
    """A picture as RTP packets of motion JPEG (RFC 2435), each framed for a TCP connection (RFC 2326, 10.12)."""
    height, width = image.shape[:2]
    tables, data = scan_of(cv2.imencode(".jpg", image)[1].tobytes())
    for at in range(0, len(data), 1300):
        part = data[at : at + 1300]
        last = 0x80 * (at + len(part) == len(data))
        header = struct.pack(">BBHII", 0x80, 26 | last, next(sequence), 3600 * number, 7)
        header += struct.pack(">I", at) + bytes([1, 255, width // 8, height // 8])
        header += struct.pack(">BBH", 0, 0, len(tables)) + tables if at == 0 else b""
        yield b"$\0" + struct.pack(">H", len(header + part)) + header + part


def serve(listener: socket.socket, frames: int, *, silent: bool) -> None:
    """Answers one client, sends it so many frames, and hangs up, or says nothing until the client does."""
    with listener, contextlib.suppress(OSError), listener.accept()[0] as client:
        received, method = b"", ""
        while method != "PLAY":
            while b"\r\n\r\n" not in received:
                received += client.recv(4096)
            request, received = received.decode().split("\r\n\r\n", 1)
            received = received.encode()
            method, url = request.split()[:2]
            answer = [line for line in request.splitlines() if line.startswith("CSeq")] + ["Session: 1"]
            if method == "DESCRIBE":
                answer += [f"Content-Base: {url}/", "Content-Type: application/sdp"]
                answer += [f"Content-Length: {len(DESCRIPTION)}"]
            elif method == "SETUP":
                answer += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
            body = DESCRIPTION if method == "DESCRIBE" else ""
            client.sendall("\r\n".join(["RTSP/1.0 200 OK", *answer, "", body]).encode())
        sequence = itertools.count()
        for number in range(frames):
            for packet in packets(np.full((96, 128, 3), 4 * number, np.uint8), number, sequence):
                client.sendall(packet)
            time.sleep(0.02)
        while silent and client.recv(4096):
            pass


@contextlib.contextmanager
def stream(frames: int, *, silent: bool) -> Iterator[str]:
    """The URL of a stream that ends after so many frames."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener, frames), kwargs={"silent": silent}, daemon=True)
    thread.start()
    yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/test"
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("silent", [False, True])
def test_a_stream_that_ends_gives_its_frames_and_then_says_so(silent, monkeypatch):
    monkeypatch.setattr(video, "SILENCE", 1500)
    frames = []
    with stream(50, silent=silent) as url:
        source = video.open_source(url)
        assert source.live
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"{url} gave no more frames after \d+: unplugged, or the stream ended"):
            frames.extend(source)  # which hangs up
        assert time.monotonic() - started < 15  # OpenCV's own limit is 30
    assert 40 <= len(frames) <= 50
    assert frames[-1].image.shape == (96, 128, 3)
    shades = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(np.diff(shades), 4, atol=1.5)  # in their order, none left out
    assert [frame.number for frame in frames] == list(range(len(frames)))


def test_a_stream_that_nobody_serves_is_named_at_once():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(UserError, match=rf"rtsp://127.0.0.1:{port}/x cannot be opened: is it there"):
        video.open_source(f"rtsp://127.0.0.1:{port}/x")
