"""What a live frame costs: detection, recognition after it, and the whole; against the PyPI package `fer`.

    python -m tests.benchmarks.live --weights=RUN [--against=PYTHON] [--output FILE.json]

A clip of 640x480 with one moving face, which is drawn, unless `--image` is a photograph of one. Detection is OpenCV's
Haar cascade, of faces of at least 50 pixels, as `fer` has it. In each round come in turn: the detector alone on the
frames; the frames analysed one by one; the clip through the command's pipeline, read, drawn and written; and, with
`--against` the Python of an environment with `fer` in it, the clip through `fer` and through our pipeline without
drawing. What is ours comes twice: with the whole of every frame searched, and (`following`) of every few, which is the
command's default. Ratios are taken round by round. Run it on a machine that does nothing else.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from fer_jax import following, live, logs, process, recording, video
from fer_jax.data import synthetic
from fer_jax.data.detect import make_detector
from fer_jax.files import read_image

SMALLEST = 50  # pixels: the default of FER(min_face_size=)
SIZE = 640, 480
FACE = 200  # pixels

# Of the other environment: a line in, the seconds for the clip and the faces found out.
FER = """
import sys, time
import cv2
from fer.fer import FER
detector = FER(mtcnn=False)
for line in sys.stdin:
    capture = cv2.VideoCapture(line.strip())
    start, faces = time.perf_counter(), 0
    while True:
        read, frame = capture.read()
        if not read:
            break
        faces += len(detector.detect_emotions(frame))
    print("seconds", time.perf_counter() - start, faces, flush=True)
"""


def write_clip(path: Path, frames: int, photo: Path | None) -> None:
    """One face on its way over a smooth background."""
    face = synthetic.example(0, 1, 1).image if photo is None else read_image(photo)
    face = cv2.resize(np.ascontiguousarray(face[..., ::-1]), (FACE, FACE), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    background = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 25), None, 40, 200, cv2.NORM_MINMAX)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE)
    for i in range(frames):
        frame = background.copy()
        x = int((SIZE[0] - FACE) * (0.5 + 0.5 * np.sin(i / 25)))
        y = int((SIZE[1] - FACE) * (0.5 + 0.5 * np.cos(i / 40)))
        frame[y : y + FACE, x : x + FACE] = face
        writer.write(frame)
    writer.release()


@contextlib.contextmanager
def fer_of(python: Path):
    """A function of a clip that has `fer` go through it: (seconds, faces found)."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(python), "-c", FER]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=environment, **streams) as child:

        def clip(path: Path) -> tuple[float, int]:
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.startswith("seconds"):
                    _, seconds, faces = line.split()
                    return float(seconds), int(faces)
            raise SystemExit(f"error: {python} cannot run fer: try {python} -c 'from fer.fer import FER'")

        yield clip
        child.stdin.close()


def timed(work, frames) -> list[float]:
    """The milliseconds of each frame."""
    times = []
    for frame in frames:
        start = time.perf_counter()
        work(frame)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="a run directory, a weights file or a pretrained network")
    parser.add_argument("--image", type=Path, help="a square photograph of a face")
    parser.add_argument("--against", type=Path, metavar="PYTHON", help="of an environment with fer in it")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    process.keep_freed_memory()
    detector = make_detector("haar", landmarks=False, smallest=SMALLEST, equalize=False)
    detecting = []

    def timed_detector(image):
        start = time.perf_counter()
        faces = detector(image)
        detecting.append(1e3 * (time.perf_counter() - start))
        return faces

    network = live.load(options.weights)
    watched = live.Analyzer(network, timed_detector)
    analyzers = {
        "": live.Analyzer(network, detector),
        "_following": live.Analyzer(network, detector, detect_every=following.EVERY),
    }
    watched.warm_up(1)
    rounds = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clip = folder / "clip.mp4"
        write_clip(clip, options.frames, options.image)
        frames = list(video.open_source(str(clip)))
        fer = stack.enter_context(fer_of(options.against)) if options.against else None
        if fer:
            fer(clip)  # compiles
        for _ in range(options.rounds):
            for analyzer in (watched, *analyzers.values()):
                analyzer.forget()
            alone = timed(lambda frame: detector(frame.image), frames)
            detecting.clear()
            whole = timed(lambda frame: watched.faces(frame.image, frame.time), frames)
            row = {
                "detector_ms": statistics.median(alone),
                "recognition_ms": statistics.median(np.subtract(whole, detecting)),
                "analysis_to_detector": statistics.median(np.divide(whole, detecting)),
            }
            followed = timed(lambda frame: analyzers["_following"].faces(frame.image, frame.time), frames)
            row["analysis_to_detector_following"] = statistics.mean(followed) / statistics.mean(alone)
            if fer:
                seconds, found = fer(clip)
                row |= {"fer_fps": options.frames / seconds, "fer_faces_a_frame": found / options.frames}
            for name, analyzer in analyzers.items():
                analyzer.forget()
                source = video.open_source(str(clip))
                tally = live.run(source, analyzer, [recording.open_output(folder / "out.mp4", source)])
                row[f"faces_a_frame{name}"] = tally.faces / tally.frames
                row[f"pipeline_ms{name}"] = 1e3 * tally.seconds / tally.frames
                row[f"pipeline_to_detector{name}"] = row[f"pipeline_ms{name}"] / statistics.mean(alone)
                if fer:
                    analyzer.forget()
                    ours = live.run(video.open_source(str(clip)), analyzer)
                    row[f"our_fps{name}"] = ours.frames / ours.seconds
                    row[f"our_fps_to_fer{name}"] = seconds / ours.seconds
            rounds.append(row)
            print({name: round(value, 2) for name, value in row.items()}, flush=True)
    print(f"{'median of ' + str(options.rounds):31}{'':4}{'least':>9}{'most':>9}")
    for name in rounds[0]:
        values = [row[name] for row in rounds]
        print(f"{name:31}{statistics.median(values):9.2f} {min(values):8.2f} {max(values):8.2f}")
    if options.output:
        environment = logs.environment() | {"size": SIZE, "frames": options.frames}
        environment["detect_every_following"] = following.EVERY
        environment["model"] = type(network.model).__name__
        options.output.write_text(json.dumps({"environment": environment, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
