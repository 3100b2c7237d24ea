"""The page in the browser: the faces of a webcam, a photo or a video, what a network sees in them, and Grad-CAM.

    python -m fer_jax.web --weights RUN [RUN...]

The page is for the person at this machine: it is served on 127.0.0.1 alone (`--share` makes a public tunnel to it),
asks for nothing from outside, and offers the networks that the command names. What is uploaded is read and removed at
once; results are part of the answer (web_html), not files. Needs the extra `web`.

In Colab the page is reached by google.colab.output.serve_kernel_port_as_window(PORT), or by --share. --align must be as
in the networks' training, see `python -m fer_jax.live --help`.
"""

import functools
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_jax import checkpoint, live, process, recognizer, web_analysis, web_html, web_server, web_uploads
from fer_jax.data.detect import make_detector
from fer_jax.errors import UserError, exits_with_message
from fer_jax.web_analysis import Networks, Seen, Session

if TYPE_CHECKING:
    import gradio as gr

PUBLIC = "This page is public: whoever has its link can use it, and all pictures pass through Gradio's servers."
STREAM_EVERY = 0.1  # seconds between the frames that the browser sends


def on_photo(networks: Networks, upload: str | None, name: str) -> tuple[str, list[Seen]]:
    """The answer to a photo: (HTML, the faces for the cards)."""
    if upload is None:
        return "", []
    try:
        image = web_server.receive(upload, web_uploads.read_photo)
        session = networks.session(name, smoothing=0)
        session.look(image, 0.0)
    except UserError as error:
        return web_html.error(str(error)), []
    faces = session.examine()
    drawn = web_html.picture(session.drawn(), f"the photo with {_faces(len(faces))}")
    return drawn + web_html.note(f"{Path(upload).name}: {_found(session, faces)}"), faces


def on_video(networks: Networks, upload: str | None, name: str) -> Iterator[tuple[str, list[Seen]]]:
    """The answers to a video: its frames as they are looked at, then curves; at last the people for the cards."""
    if upload is None:
        yield "", []
        return
    file = Path(upload).name
    try:
        clip = web_server.receive(upload, web_uploads.open_clip)
        session, people, frames, shown = networks.session(name), {}, 0, 0.0
        for frame in web_analysis.follow(session, clip, people):
            frames += 1
            if time.monotonic() - shown >= STREAM_EVERY:
                shown = time.monotonic()
                of = f" of {clip.seconds:.1f}" if clip.seconds else ""
                picture = web_html.picture(session.drawn(), "the frame with its faces", live=True)
                yield picture + web_html.note(f"{file}: {frame.time:.1f}{of} s"), []
    except UserError as error:
        yield web_html.error(str(error)), []
        return
    chosen = web_analysis.longest_seen(people)
    parts = [f"{file}: {frames} frames looked at, {clip.fps:.1f} a second; {_people(len(people))} (network {name})"]
    if len(people) > len(chosen):
        parts.append(f"shown are the {len(chosen)} seen longest")
    if session.unaligned:
        parts.append(f"{_faces(session.unaligned)} without usable landmarks left out")
    if clip.cut:
        parts.append(f"only the first {frame.time:.0f} s: what is after the limits was left out")
    notes = web_html.note("; ".join(parts))
    curves = web_html.curves(chosen, session.emotions, clip.seconds or frame.time) if chosen else ""
    yield notes + curves, web_analysis.strongest(chosen)


def on_frame(
    networks: Networks, image: np.ndarray | None, name: str, session: Session | None
) -> tuple[str, Session | None]:
    """The answer to a frame of the webcam: (HTML, the session, whose network is always the chosen one)."""
    if image is None:
        return "", session
    if session is None or session.name != name:
        session = networks.session(name)
    try:
        faces = session.look(web_uploads.shrink(image, web_uploads.LONGEST_FRAME), time.monotonic())
    except UserError as error:
        return web_html.error(str(error)), session
    answers = [(session.emotions[face.smoothed_probabilities.argmax()], face.smoothed_probabilities) for face in faces]
    said = ", ".join(f"{emotion} {values.max():.0%}" for emotion, values in answers)
    drawn = web_html.picture(session.drawn(), f"the webcam with {_faces(len(faces))}", live=True)
    return drawn + web_html.note(said or "no face is seen"), session


def on_examine(session: Session | None) -> tuple[str, list[Seen]]:
    """The faces of the webcam's last frame, for the cards."""
    if session is None:
        return web_html.error("There is no frame yet: start the webcam first"), []
    faces = session.examine()
    return web_html.note(f"Of the last frame: {_found(session, faces)}"), faces


def on_explain(networks: Networks, seen: Seen, emotion: str) -> str:
    """Grad-CAM of one face for one emotion."""
    try:
        heat = networks.grad_cam(seen, seen.emotions.index(emotion))
    except UserError as error:  # a network without maps
        return web_html.error(str(error))
    return web_html.grad_cam(web_analysis.veil(seen.view, heat), emotion)


def _faces(count: int) -> str:
    return f"{count or 'no'} face{'s' * (count != 1)}"


def _people(count: int) -> str:
    return {0: "nobody was seen", 1: "one person"}.get(count, f"{count} people")


def _found(session: Session, faces: Sequence[Seen]) -> str:
    left_out = f", {session.unaligned} without usable landmarks left out" if session.unaligned else ""
    return f"{_faces(len(faces))}{left_out} (network {session.name})"


def page(networks: Networks, *, public: bool = False) -> "gr.Blocks":
    """The page, not yet served; a public one says that it is."""
    import gradio as gr

    private = {"api_visibility": "private", "show_progress": "minimal"}
    megabytes = f"at most {web_uploads.MAX_BYTES // 2**20} MB"

    def cards(faces: gr.State) -> None:
        @gr.render(inputs=faces)
        def show(seen_faces: list[Seen]):
            for seen in seen_faces:
                with gr.Row(elem_classes="fer-card"):
                    with gr.Column(scale=3, min_width=300):
                        gr.HTML(web_html.face(seen, rates_intensity=networks.rates_intensity(seen.network)))
                    with gr.Column(scale=2, min_width=260):
                        names = list(seen.emotions)
                        emotion = gr.Dropdown(names, value=names[seen.emotion], label="What speaks for")
                        button = gr.Button("Show Grad-CAM", size="sm")
                        heat = gr.HTML()
                        button.click(functools.partial(on_explain, networks, seen), emotion, heat, **private)

    def uploads(kind: str, label: str, answer: Callable) -> None:
        upload = gr.File(label=label, file_types=[kind], height=150)
        result, faces = gr.HTML(), gr.State([])
        given, shown = [upload, network], [result, faces]
        answered = upload.upload(functools.partial(answer, networks), given, shown, trigger_mode="multiple", **private)
        # The drop area is emptied for the next file: the one that it shows is gone from the disk.
        answered.then(lambda: None, None, upload, **private)
        cards(faces)

    old = (web_server.LOOK_EVERY, web_server.FORGOTTEN)  # then an upload that nobody took is deleted
    with gr.Blocks(title="fer_jax", analytics_enabled=False, delete_cache=old) as blocks:
        gr.HTML(web_html.HEADER + (web_html.note(PUBLIC) if public else ""))
        network = gr.Dropdown(networks.names, value=networks.names[0], label="Network", interactive=True)
        with gr.Tab("Photo"):
            uploads("image", f"A photo, {megabytes} and {web_uploads.MAX_PIXELS // 10**6} megapixels", on_photo)
        with gr.Tab("Video"):
            uploads("video", f"A video, {megabytes} and {web_uploads.MAX_SECONDS} s", on_video)
        with gr.Tab("Webcam"):
            session, faces = gr.State(None), gr.State([])
            with gr.Row():
                with gr.Column(min_width=280):
                    camera = gr.Image(sources=["webcam"], streaming=True, type="numpy", label="Webcam")
                with gr.Column(min_width=280):
                    seen = gr.HTML()
                    button = gr.Button("Examine this frame")
            found = gr.HTML()
            given, shown = [camera, network, session], [seen, session]
            # A webcam's stream lasts as long as it runs: with a limit it would keep the others from theirs.
            quiet = private | {"show_progress": "hidden", "concurrency_limit": None}
            camera.stream(functools.partial(on_frame, networks), given, shown, stream_every=STREAM_EVERY, **quiet)
            button.click(on_examine, session, [found, faces], **private)
            cards(faces)
    return blocks


def load_networks(weights: Sequence[str], **options) -> Networks:
    """The networks of run directories and weights files, or by the names of packaged ones; none: all of these.

    Raises:
      UserError: one cannot be loaded, or there is none.
    """
    sources = list(weights) or sorted(file.stem for file in checkpoint.PRETRAINED.glob("*.safetensors"))
    if not sources:
        raise UserError(
            "no network comes with this version of the package: name a run or a weights file, --weights RUN"
        )
    names = web_analysis.short_names(sources)
    networks = dict(zip(names, map(recognizer.load, sources), strict=True))
    for name, network in networks.items():
        live.warn_of_alignment(network, name, options["align"])
    return Networks(networks, **options)


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend, 128 + signal when ended by one."""
    parser = process.argument_parser("fer_jax.web", __doc__)
    parser.add_argument("--weights", nargs="+", default=[], metavar="RUN_OR_FILE", help="default: those of the package")
    parser.add_argument("--port", type=int, help=f"default: {web_server.PORT}, or the next that is free")
    parser.add_argument(
        "--share",
        action="store_true",
        help="makes the page PUBLIC for up to a week: whoever has the link can use it, and all pictures pass through "
        "Gradio's servers; downloads Gradio's tunnel program",
    )
    live.add_face_options(parser)
    options = parser.parse_args(arguments)
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port={options.port} must lie in 1..65535")
    live.set_up()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported
    try:
        with live.stoppable():
            if importlib.util.find_spec("gradio") is None:
                raise UserError("the page needs Gradio: pip install 'fer_jax[web]'")
            live.check(options.align, detector=options.detector, smallest=options.min_face)
            settings = {"landmarks": options.align != "box", "smallest": options.min_face, "equalize": False}
            new_detector = functools.partial(make_detector, options.detector, options.model, **settings)
            new_detector()  # fails here, not on the page
            networks = load_networks(options.weights, make_detector=new_detector, align=options.align)
            with live.undisturbed():
                networks.warm_up()
            served = {"port": options.port, "share": options.share}
            folder = web_server.private_folder()
            with folder, web_server.serving(page(networks, public=options.share), **served) as address:
                print(f"{address} - Ctrl-C ends it", flush=True)
                if options.share:
                    print(PUBLIC, flush=True)
                threading.Event().wait()
    except live.Stopped as stopped:
        sys.exit(128 + stopped.signum)


if __name__ == "__main__":
    main()
