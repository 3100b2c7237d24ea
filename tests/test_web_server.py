"""What keeps the page to its own visitors: the guard of its requests, and the folder of their files."""

import asyncio
import os
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

from fer_jax import web_server, web_uploads


def test_the_guard_caps_requests_and_forbids_outside_content():
    called = []

    async def app(scope, receive, send):
        called.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})

    def ask(length):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost:7860"), (b"content-length", str(length).encode())]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        asyncio.run(web_server.Guard(app)(scope, None, send))
        return sent

    answer = ask(10)[0]
    assert (answer["status"], dict(answer["headers"])[b"x"]) == (200, b"y")
    assert b"default-src 'self'" in dict(answer["headers"])[b"content-security-policy"]
    assert ask(web_uploads.MAX_BYTES * 2)[0]["status"] == 413
    assert len(called) == 1


def test_the_guard_counts_what_comes_without_a_stated_length():
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(parts):
        sent, left = [], [{"type": "http.request", "body": bytes(2**20), "more_body": True}] * parts

        async def receive():
            return left.pop() if left else {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1:7860")]}
        asyncio.run(web_server.Guard(app)(scope, receive, send))
        return sent[0]["status"], len(left)

    assert ask(100) == (200, 0)
    assert ask(200) == (413, 200 - 102)  # the rest is not even taken


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {"host": "localhost:7860"}, 200),
        ("GET", "/", {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site"}, 200),  # a link to the page
        ("POST", "/upload", {"host": "localhost", "sec-fetch-site": "same-origin"}, 200),
        ("POST", "/upload", {"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ("POST", "/upload", {"host": "x1-colab.googleusercontent.com", "sec-fetch-site": "same-origin"}, 200),
        ("GET", "/", {"host": "7860-m-s-1.us-west1-0.prod.colab.dev"}, 200),
        ("GET", "/gradio_api/file=/tmp/fer_jax_web_1/vibe_deep_link.jpg", {"host": "localhost"}, 200),  # its name
        ("POST", "/upload", {"host": "localhost:1", "sec-fetch-site": "cross-site"}, 403),
        ("POST", "/upload", {"host": "localhost:1", "sec-fetch-site": "same-site"}, 403),  # of another port
        ("POST", "/upload", {"host": "localhost:1", "origin": "http://evil.example"}, 403),
        ("POST", "/upload", {"host": "localhost:1", "origin": "null"}, 403),
        ("GET", "/", {"host": "evil.example:7860"}, 403),
        ("GET", "/", {"host": "localhost.evil.example"}, 403),
        ("POST", "/gradio_api/process_recording", {"host": "localhost"}, 403),
        ("GET", "/gradio_api/deep_link", {"host": "localhost"}, 403),
    ],
)
def test_the_guard_lets_only_the_page_itself_in(method, path, headers, status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def send(message):
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded}
    asyncio.run(web_server.Guard(app)(scope, None, send))
    assert sent[0]["status"] == status


def test_no_giant_picture_is_decoded(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("L", (9000, 5000)).save(tmp_path / "giant.png")
    Image.new("L", (6000, 5000)).save(tmp_path / "large.png")
    with web_server.decoding_no_giants(), warnings.catch_warnings(record=True) as warned:
        with pytest.raises(Image.DecompressionBombError):
            Image.open(tmp_path / "giant.png")
        Image.open(tmp_path / "large.png").close()
    assert not warned
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_upload_that_was_cut_short_is_deleted_after_a_while(monkeypatch):
    monkeypatch.setattr(web_server, "LOOK_EVERY", 0.01)
    with web_server.private_folder() as folder:
        (folder / "some").mkdir()
        old, new = folder / "some" / "old.jpg", folder / "new.jpg"
        for path in (old, new):
            path.write_bytes(b"x")
        os.utime(old, (time.time() - web_server.FORGOTTEN - 1,) * 2)
        deadline = time.monotonic() + 20
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (old.exists(), new.exists()) == (False, True)


def test_settings_of_gradio_in_the_environment_are_away_while_the_page_is_served(monkeypatch):
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.delenv("no_proxy", raising=False)
    with web_server.private_folder():
        assert "GRADIO_ALLOWED_PATHS" not in os.environ
        assert os.environ["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"
    assert "no_proxy" not in os.environ


def test_the_private_folder_is_private_and_goes():
    before = dict(os.environ)
    with web_server.private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "some").mkdir()
        (folder / "some" / "face.jpg").write_bytes(b"x")
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert Path(tempfile.gettempdir()) == folder  # where uploads that are cut short stay
    assert not folder.exists()
    assert Path(tempfile.gettempdir()) != folder
    assert dict(os.environ) == before
