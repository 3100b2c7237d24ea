"""The report in headless Chromium: no console error, no request, no overflow at a phone's and a desk's width.

Drives chromedriver over plain HTTP (W3C WebDriver), so that no Python package is needed; skipped where Chromium or
chromedriver is absent.
"""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from fer_jax import evaluate
from tests.finished import finished_runs


class Browser:
    """A headless Chromium behind chromedriver."""

    def __init__(self, port: int):
        self._server = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        logs = {"browser": "ALL", "performance": "ALL"}
        capabilities = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": logs}
        opened = self._ask("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{opened['sessionId']}"

    def _ask(self, path: str, body: dict | None = None, method: str | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def tell(self, command: str, parameters: dict):
        """A command of the DevTools protocol."""
        return self._ask(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str, *, width: int, height: int = 900) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.tell("Emulation.setDeviceMetricsOverride", screen)
        self._ask(f"{self._session}/url", {"url": url})

    def run(self, script: str):
        """What a script returns."""
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def log(self, kind: str) -> list[dict]:
        """The entries since the last call: `browser`, the console; `performance`, what DevTools reports."""
        return self._ask(f"{self._session}/se/log", {"type": kind})

    def screenshot(self, *, quality: int = 80) -> bytes:
        """The whole page as JPEG."""
        shown = {"format": "jpeg", "quality": quality, "captureBeyondViewport": True}
        return base64.b64decode(self.tell("Page.captureScreenshot", shown)["data"])

    def close(self) -> None:
        self._ask(self._session, method="DELETE")


@contextlib.contextmanager
def chromium():
    """A Browser, ended with its driver."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in driver.stdout:
            lines.append(line)
            if started := re.search(r"started successfully on port (\d+)", line):
                break
        else:
            raise RuntimeError("chromedriver did not start: " + "".join(lines))
        browser = Browser(int(started[1]))
        try:
            yield browser
        finally:
            with contextlib.suppress(urllib.error.URLError):
                browser.close()
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()


@pytest.fixture(scope="module")
def browser():
    if not (shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome"))):
        pytest.skip("chromedriver or Chromium is absent")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a tiny run, and the one of the split that selected it with a row of two views."""
    with finished_runs(tmp_path_factory.mktemp("browser"), epochs=1) as ((workdir,), raw):
        more = [f"--workdir={workdir}", f"--data_dir={raw}", "--split=validation", "--tta", "flip"]
        evaluate.main(more)
    return workdir / "report_validation/index.html"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_opens_without_error_request_or_overflow(browser, pages, width):
    url = pages.as_uri()
    browser.open(url, width=width)
    assert browser.log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent]
    assert url in asked  # the log works
    assert {each.partition(":")[0] for each in asked if each != url} <= {"data"}
    wide, inner = browser.run("return [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= inner == width
    shown = browser.run(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(shown) > 5
    assert all(complete and natural > 0 and seen > 0 for complete, natural, seen in shown)
    assert browser.run("return document.querySelectorAll('p.warning').length") == 1
    fonts = browser.run(
        "return [...document.querySelectorAll('p, td, th, figcaption')]"
        ".map(text => parseFloat(getComputedStyle(text).fontSize))"
    )
    assert min(fonts) >= 10


def test_the_browser_tells_errors_and_requests(browser, tmp_path):
    """What the test above would see on a page that is not self-contained."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='missing.png'><script>console.error('broken')</script><div style='width:2000px'>wide</div>"
    )
    browser.open(page.as_uri(), width=390)
    said = " ".join(entry["message"] for entry in browser.log("browser"))
    assert "broken" in said
    assert "missing.png" in " ".join(entry["message"] for entry in browser.log("performance"))
    wide, inner = browser.run("return [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide > inner
    image = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] >= 390
