"""The page in headless Chromium with a fake camera: photo, video, webcam, Grad-CAM, wrong files, at two widths.

Slow, since each width starts the command; skipped where Gradio, Chromium or chromedriver is absent.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax import checkpoint
from fer_jax.data import synthetic
from fer_jax.data.emotions import BASIC7
from tests import test_report_browser
from tests.test_web import MODEL, SHAPE, small_variables
from tests.test_web_uploads import png_of, write_image

SUBJECT = 1  # one that OpenCV's Haar cascade finds
WAIT = 60.0  # seconds, on a loaded machine


class BrowserWithCamera(test_report_browser.Browser):
    """One whose camera plays `clip`."""

    clip: Path

    def __init__(self, port: int):
        self._server = f"http://127.0.0.1:{port}"
        camera = ["device-for-media-stream", "ui-for-media-stream"]
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        arguments += [f"--use-fake-{each}" for each in camera] + [f"--use-file-for-fake-video-capture={self.clip}"]
        logs = {"browser": "ALL", "performance": "ALL"}
        capabilities = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": logs}
        opened = self._ask("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{opened['sessionId']}"

    def wait(self, expression: str):
        """The expression's value once it is true."""
        end = time.monotonic() + WAIT
        while not (value := self.run(f"return {expression}")):
            assert time.monotonic() < end, f"{expression} stays {value}:\n{self.run('return document.body.innerText')}"
            time.sleep(0.2)
        return value

    def click(self, text: str) -> None:
        """Clicks the visible button whose text contains this."""
        buttons = "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
        button = f"{buttons}.findLast(b => b.innerText.includes('{text}'))"  # Gradio's tabs have a hidden copy before
        self.wait(f"Boolean({button})")
        self.run(f"{button}.click()")

    def give(self, kind: str, path: Path) -> None:
        """Chooses a file in the drop area for that kind, once it is empty."""
        area = f"input[type=file][accept*={kind}]"
        self.wait(f"Boolean(document.querySelector('{area}'))")
        root = self.tell("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        node = self.tell("DOM.querySelector", {"nodeId": root, "selector": area})["nodeId"]
        self.tell("DOM.setFileInputFiles", {"files": [str(path)], "nodeId": node})

    def message(self, text: str) -> None:
        """Waits for a message about a wrong file."""
        self.wait(f"[...document.querySelectorAll('[role=alert]')].some(e => e.innerText.includes('{text}'))")


def frames() -> list[np.ndarray]:
    """A smiling synthetic face that drifts to the right: 20 times uint8 [480, 640, 3]."""
    face, _ = synthetic.draw(synthetic.make_subject(0, SUBJECT), "happy", 1.0, np.random.default_rng(SUBJECT))
    face = cv2.resize(face, (240, 240), interpolation=cv2.INTER_CUBIC)
    drifting = []
    for i in range(20):
        image = np.full((480, 640, 3), 90, np.uint8)
        image[120:360, 200 + 2 * i : 440 + 2 * i] = face
        drifting.append(image)
    return drifting


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The clip as the camera's file and as a video, a photo, a small network, and wrong files."""
    folder = tmp_path_factory.mktemp("web")
    images = frames()
    with (folder / "camera.y4m").open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420jpeg\n")
        for image in images:
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes())
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 480))
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    write_image(folder / "photo.png", images[0])
    metadata = {"emotions": BASIC7, "input_shape": SHAPE, "model": MODEL, "results": {"dataset": "fer2013"}}
    checkpoint.save_weights(folder / "small.safetensors", small_variables(), metadata)
    (folder / "text.jpg").write_text("a text")
    (folder / "huge.png").write_bytes(png_of(30_000, 30_000))
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def served(files, tmp_path):
    """(the address that the command serves, its folder for temporary files, a function that ends it)."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "fer_jax.web", "--weights", str(files / "small.safetensors")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        found = re.match(r"(http://127\.0\.0\.1:\d+/) - ", process.stdout.readline())
        assert found

        def end() -> int:
            process.send_signal(signal.SIGTERM)
            return process.wait(30)

        yield found[1], tmp_path, end
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def browser(files, monkeypatch):
    pytest.importorskip("gradio", reason="Gradio is absent (extra web)")
    if not (shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome"))):
        pytest.skip("chromedriver or Chromium is absent")
    monkeypatch.setattr(BrowserWithCamera, "clip", files / "camera.y4m", raising=False)
    monkeypatch.setattr(test_report_browser, "Browser", BrowserWithCamera)
    with test_report_browser.chromium() as opened:
        yield opened


def kept(folder: Path) -> list[Path]:
    """The files with content that the server has on disk, but for XLA's."""
    places = folder.glob("fer_jax_web_*")
    return [file for place in places for file in place.rglob("*") if file.is_file() and file.stat().st_size]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_a_visit(browser, served, files, width):
    address, folder, end = served
    browser.open(address, width=width)
    browser.tell("DOM.enable", {})
    browser.wait("document.body.innerText.includes('an expression is not a feeling')")

    def picture_of(name: str) -> np.ndarray:
        wide, inner = browser.run("return [document.scrollingElement.scrollWidth, innerWidth]")
        assert wide <= inner == width
        (folder / f"{name}.jpg").write_bytes(browser.screenshot())
        shown = cv2.imread(str(folder / f"{name}.jpg"))
        assert shown.shape[1] == width
        assert shown.std() > 10
        return shown

    faces = "document.querySelectorAll('[role=tabpanel]:not([style*=\"display: none\"]) .fer-scores').length"
    browser.give("image", files / "photo.png")
    browser.wait(f"{faces} == 1")
    browser.wait("document.querySelectorAll('.fer-picture').length == 1")
    browser.click("Show Grad-CAM")
    browser.wait("document.querySelectorAll('img[alt^=\"Grad-CAM\"]').length == 1")
    picture_of("photo")
    browser.give("image", files / "text.jpg")
    browser.message("text.jpg is no photo")
    browser.wait(f"{faces} == 0")
    picture_of("wrong")
    browser.give("image", files / "huge.png")
    browser.message("huge.png has more than 40 megapixels")

    browser.click("Video")
    browser.give("video", files / "clip.mp4")
    browser.wait("document.body.innerText.includes('20 frames looked at, 10.0 a second; one person')")
    browser.wait(f"{faces} == 1")
    assert browser.run("return document.querySelectorAll('.fer-curve polygon').length") == 7
    picture_of("video")
    browser.give("video", files / "empty.mp4")
    browser.message("empty.mp4 is empty")

    browser.click("Webcam")
    browser.click("Access Webcam")
    browser.click("Record")
    drawn = "document.querySelector('img[alt=\"the webcam with 1 face\"]')"
    first = browser.wait(f"{drawn}?.src")
    browser.wait(f"{drawn} && {drawn}.src != '{first[:4000]}' && {drawn}.src.slice(0, 4000) != '{first[:4000]}'")
    browser.click("Examine this frame")
    browser.wait(f"{faces} == 1")
    picture_of("webcam")

    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert address in asked  # the log works
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not [entry for entry in browser.log("browser") if "Content Security Policy" in entry["message"]]
    assert kept(folder) == []
    assert list(folder.glob("fer_jax_web_*"))
    assert end() == 128 + signal.SIGTERM
    assert not list(folder.glob("fer_jax_web_*"))
