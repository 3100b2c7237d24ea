"""Faces a second of the alignment on one core, and how much of the time with dlib is dlib's.

    python -m tests.benchmarks.alignment [--image=PHOTO]

Warps synthetic faces with known landmarks, from 256x256 pictures as large as a detector likes them. With a
photograph and the extra `align` it also detects, aligns and encodes that photograph again and again.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data import crops, synthetic
from fer_jax.data.detect import Face, make_detector


def seconds(work, count: int) -> float:
    """Median over 5 rounds of the time of one of `count` calls."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for i in range(count):
            work(i)
        rounds.append((time.perf_counter() - start) / count)
    return statistics.median(rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="a photograph with a face, for dlib")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    examples = [synthetic.example(0, i, i) for i in range(64)]
    images = [cv2.resize(example.image, (256, 256)) for example in examples]
    faces = [Face.from_landmarks(example.landmarks * 2 + 0.5) for example in examples]
    each = seconds(lambda i: crops.align(images[i % 64], faces[i % 64]), 500)
    print(f"warp and crop: {1 / each:,.0f} faces/s on one core")
    if options.image:
        detector = make_detector("dlib")
        image = np.ascontiguousarray(cv2.imread(str(options.image))[..., ::-1])
        (face, *_) = detector(image)
        detect = seconds(lambda _: detector(image), 5)

        def rest(_):
            cv2.imread(str(options.image))
            cv2.imencode(".png", crops.align(image, face))

        others = seconds(rest, 20)
        print(f"dlib {1e3 * detect:.1f} ms, reading, aligning and encoding {1e3 * others:.1f} ms an image: ", end="")
        print(f"{detect / (detect + others):.0%} of the time is dlib's")


if __name__ == "__main__":
    main()
