"""Serving the page safely: on 127.0.0.1, from a private folder, with limits, and with nothing asked from outside."""

import contextlib
import os
import re
import tempfile
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from unittest import mock

from PIL import Image

from fer_jax import web_html
from fer_jax.errors import UserError
from fer_jax.web_uploads import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    import gradio as gr

T = TypeVar("T")
PORT = 7860
LOOK_EVERY, FORGOTTEN = 60, 600  # seconds: how often it is looked for what is so old, to delete it
# Where Gradio puts uploads, and what else it keeps, by default in ./.gradio.
FOLDER_VARIABLES = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")
# They would serve other folders, serve elsewhere, and never come back from the launch.
OTHERWISE = ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_DEBUG")

# The last resort should Gradio's page ask for something from outside: the browser refuses.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def receive(upload: str, read: Callable[[Path, str], T]) -> T:
    """What `read(path, name)` makes of an uploaded file, which is removed; an open one goes on being readable.

    Raises:
      UserError: what `read` raises, or the file lies elsewhere than uploads do, or was removed meanwhile.
    """
    path = Path(upload).resolve()
    if Path(os.environ[FOLDER_VARIABLES[0]]).resolve() not in path.parents:
        raise UserError(f"{path.name} was not uploaded here")
    try:
        return read(path, path.name)
    except FileNotFoundError:
        raise UserError(f"{path.name} is no longer there: upload it again") from None
    finally:
        path.unlink(missing_ok=True)


class TooLarge(Exception):
    """A request went on after as much as it may hold."""


class Guard:
    """ASGI middleware: our Content-Security-Policy on every answer, and what the page itself never asks is refused.

    That is a request larger than an upload may be, one for a file elsewhere, which Gradio would fetch and hand on, one
    for what Gradio does beside our page (recordings, which it leaves on the disk, links that keep answers), one that
    another page had its visitor's browser send, and one to another name than this machine's (DNS rebinding).
    """

    ROOM = 2**20  # bytes of a request beyond the file in it
    UNUSED = re.compile(r"https?:|^(/gradio_api)?/(process_recording|deep_link|vibe)", re.IGNORECASE)
    # Colab shows a page of its machine under names of the last two kinds.
    OURS = re.compile(
        r"(localhost|127\.0\.0\.1|\[::1\]|[\w.-]+\.googleusercontent\.com|[\w.-]+\.prod\.colab\.dev)(:\d+)?"
    )

    def __init__(self, app, *, public: bool = False):
        """`public`: the page is reached under another name, that of Gradio's tunnel."""
        self._app, self._public = app, public

    async def __call__(self, scope, receive, send):
        answered, received = False, 0

        async def send_guarded(message):
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = [("content-security-policy", POLICY), ("referrer-policy", "no-referrer")]
                encoded = [(name.encode(), value.encode()) for name, value in headers]
                message = message | {"headers": [*message.get("headers", []), *encoded]}
            await send(message)

        async def refuse(status, why):
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": why})

        async def receive_guarded():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES + self.ROOM:
                raise TooLarge
            return message

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.UNUSED.search(scope["path"]):
            await refuse(403, b"the page asks for no such thing")
            return
        if not self._public and not self.OURS.fullmatch(headers.get("host", "")):
            await refuse(403, b"this page is reached as localhost alone")
            return
        if scope["method"] not in ("GET", "HEAD") and self._sent_by_another_page(headers):
            await refuse(403, b"another page may not use this one")
            return
        length = headers.get("content-length", "0")
        try:
            if length.isdecimal() and int(length) > MAX_BYTES + self.ROOM:
                raise TooLarge
            # Counted too, as the length need not be stated.
            await self._app(scope, receive_guarded, send_guarded)
        except TooLarge:
            if not answered:
                await refuse(413, b"larger than an upload may be")

    @staticmethod
    def _sent_by_another_page(headers: dict[str, str]) -> bool:
        if site := headers.get("sec-fetch-site"):
            return site not in ("same-origin", "none")
        origin = headers.get("origin")  # of browsers that are older
        return bool(origin) and urllib.parse.urlsplit(origin).netloc != headers.get("host")


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, for all that Gradio writes; removed with its content at the end.

    Temporary files, such as uploads that are cut short leave, fall into it too; what is FORGOTTEN seconds old goes
    before. Meanwhile what the environment would have Gradio do otherwise is out of it.
    """
    # Gradio asks its own page whether it is there, which the network's proxy cannot know.
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    here = ",".join(filter(None, (known, "127.0.0.1", "localhost")))
    with tempfile.TemporaryDirectory(prefix="fer_jax_web_", ignore_cleanup_errors=True) as folder:
        ours = dict.fromkeys(FOLDER_VARIABLES, folder) | dict.fromkeys(OTHERWISE) | {"no_proxy": here}
        with _environment(ours), mock.patch.object(tempfile, "tempdir", folder), _forgetting(Path(folder)):
            yield Path(folder)


@contextlib.contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Sets variables of the environment, or takes them out of it (None), for a while."""

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in variables}
    put(variables)
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def _forgetting(folder: Path) -> Iterator[None]:
    """Deletes files in a folder that are older than FORGOTTEN, of which Gradio deletes only what arrived whole."""
    ended = threading.Event()

    def forget() -> None:
        while not ended.wait(LOOK_EVERY):
            with contextlib.suppress(OSError):  # somebody else deletes, too: the rest goes the next time
                for path in folder.rglob("*"):
                    if path.is_file() and time.time() - path.stat().st_mtime > FORGOTTEN:
                        path.unlink()

    thread = threading.Thread(target=forget, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def _refuse_download(url: str, *_, **__):
    """For Gradio, which would download a file whose path, as a browser gives it, is an address, of any size."""
    raise ValueError("files are uploaded here, not asked for elsewhere")


@contextlib.contextmanager
def decoding_no_giants() -> Iterator[None]:
    """No picture of more than MAX_PIXELS is decoded: Gradio decodes a webcam's frame before it is looked at."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # above half of what is refused
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def serving(blocks: "gr.Blocks", *, port: int | None = None, share: bool = False) -> Iterator[str]:
    """Serves a page on 127.0.0.1; gives its address. Within `private_folder`.

    Args:
      port: None is PORT, or one of the hundred after it that is free.

    Raises:
      UserError: the port is taken, or the page cannot be made public.
    """
    import gradio as gr
    from gradio import processing_utils
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # the visitor's own
    refused = mock.patch.object(processing_utils, "async_ssrf_protected_download", _refuse_download)
    with refused, decoding_no_giants():
        try:
            _, local, public = blocks.queue(max_size=32, default_concurrency_limit=2).launch(
                server_name="127.0.0.1",
                server_port=port,
                share=share,
                max_file_size=MAX_BYTES,
                allowed_paths=[],
                theme=gr.themes.Default(**fonts),
                css=web_html.STYLE,
                footer_links=[],
                run_history=False,  # would keep the answers, with the faces in them, in the browser's storage
                enable_monitoring=False,
                mcp_server=False,
                ssr_mode=False,
                prevent_thread_lock=True,
                quiet=True,
                app_kwargs={"middleware": [Middleware(Guard, public=share)]},
            )
        except OSError as error:
            raise UserError(f"--port={port or PORT} is taken: choose another, or none for a free one") from error
        try:
            if share and not public:
                raise UserError("--share: Gradio's tunnel cannot be made, as is said above: leave --share out")
            yield public or local
        finally:
            blocks.close(verbose=False)
