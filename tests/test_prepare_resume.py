"""A preparation that was cut short, or killed, goes on where it was, and ends with the same data set."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data import prepare
from fer_jax.data.datasets import base
from fer_jax.data.datasets.readings import Reading, Readings, StoredFace
from fer_jax.errors import UserError
from fer_jax.lock import alone
from tests import miniatures

ROOT = Path(__file__).parents[1]
KILLED = """
import sys, time
from fer_jax.data import prepare
from fer_jax.data.datasets import base

read, count = base.read_image, 0

def slow(path, **options):
    global count
    count += 1
    if count > 20:
        print("reading", file=sys.__stdout__, flush=True)  # standard output is TFDS's now
        time.sleep(30)
    return read(path, **options)

base.read_image, base.KEPT_TOGETHER = slow, 4
prepare.load("kdef", data_dir=sys.argv[1], workers=1)
"""


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def kept_four_at_a_time(monkeypatch):
    monkeypatch.setattr(base, "KEPT_TOGETHER", 4)


@pytest.fixture
def raw(tmp_path):
    """KDEF with 24 straight pictures, 16 of them for training, two of them damaged."""
    root = miniatures.write_kdef(tmp_path / "raw")
    for name in ("AF01ANS", "BM03AFS"):
        (root / name[:4] / f"{name}.JPG").write_bytes(b"not a picture")
    return root


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read; reading is cut short by what `reads.stop(count, error)` says."""

    class Reads(Counter):
        limit, error = np.inf, None

        def stop(self, count, error):
            self.limit, self.error = count, error

    reads, read = Reads(), base.read_image

    def counted(path, **options):
        if reads.total() >= reads.limit:
            raise reads.error
        reads[path.name] += 1
        return read(path, **options)

    monkeypatch.setattr(base, "read_image", counted)
    return reads


def contents(dataset):
    found = miniatures.record(dataset)
    examples = [
        (split, emotion, example["image"].tobytes(), example["source"], example["subject"])
        for split, emotion, example in miniatures.examples(dataset)
    ]
    return found, examples


@pytest.mark.parametrize("stop", [3, 9, 19])
def test_what_was_read_before_an_interruption_is_not_read_again(raw, cache, reads, stop):
    whole = contents(prepare.load("kdef", data_dir=raw, workers=1))
    shutil.rmtree(cache)
    reads.clear()
    reads.stop(stop, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare.load("kdef", data_dir=raw, workers=1)
    assert not list(cache.glob("*/prepared.json"))
    assert not list(cache.rglob("records"))
    before = reads.copy()
    reads.clear()
    reads.stop(np.inf, None)
    dataset = prepare.load("kdef", data_dir=raw, workers=1)
    assert contents(dataset) == whole
    assert [path.name for path in cache.iterdir()] == [dataset.directory.name]
    # In fours within a split; a split's last, incomplete four is not kept.
    kept = min(stop, 16) // 4 * 4 + max(stop - 16, 0) // 4 * 4
    assert sum((before + reads).values()) - 24 == stop - kept
    assert reads.total() == 24 - kept


def test_a_killed_preparation_goes_on(raw, cache, reads):
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(raw)], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout.readline() == "reading\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert not list(cache.glob("*/prepared.json"))
    dataset = prepare.load("kdef", data_dir=raw, workers=1)
    assert reads.total() == 24 - 20
    assert [path.name for path in cache.iterdir()] == [dataset.directory.name]
    assert dataset.splits == {"train": 14, "validation": 4, "test": 4}
    reads.clear()
    shutil.rmtree(cache)
    assert contents(prepare.load("kdef", data_dir=raw)) == contents(dataset)


def test_nothing_stays_of_data_that_must_be_mended(raw, cache):
    for path in sorted(raw.glob("*/*S.JPG"))[:12]:
        path.write_bytes(b"not a picture")
    with pytest.raises(UserError, match="11 of 24 images cannot be used"):
        prepare.load("kdef", data_dir=raw)
    assert not list(cache.iterdir())


def test_what_another_opencv_or_other_raw_data_left_is_not_taken(raw, cache, reads, monkeypatch):
    reads.stop(9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare.load("kdef", data_dir=raw, workers=1)
    reads.clear()
    reads.stop(np.inf, None)
    monkeypatch.setattr(prepare.cv2, "__version__", "4.0.0")
    prepare.load("kdef", data_dir=raw, workers=1)
    assert reads.total() == 24


HOLDS = """
import sys, time
from pathlib import Path
from fer_jax.lock import alone

with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(lock, seconds):
    """Another process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(lock), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_do_not_prepare_the_same_data_at_once(tmp_path, caplog):
    caplog.set_level("INFO", "fer_jax")
    lock = tmp_path / "x.lock"
    with holder(lock, 30) as other:
        other.kill()  # a lock does not outlive its process
    with alone(lock) as held:
        assert held
        assert lock.exists()
    assert not lock.exists()
    assert "waiting" not in caplog.text
    with holder(lock, 0.5) as other:
        with alone(lock):
            assert f"another process is writing the same into {tmp_path}: waiting" in caplog.text
        assert other.wait(30) == 0


def test_readings_come_back_as_they_were(tmp_path):
    kept = Readings(tmp_path / "kept")
    assert list(kept.load("train")) == []
    first = [
        Reading([StoredFace(b"\x89PNG\0one", bytes(range(32)), "a/ü.jpg")]),
        Reading([], "not a readable image"),
        Reading([StoredFace(b"\0two\0", bytes(32), "film.avi#0"), StoredFace(b"3", b"\xff" * 32, "film.avi#5")]),
    ]
    second = [Reading([], "does not exist")]
    kept.add("train", first)
    kept.add("train", second)
    kept.add("test", first)
    (tmp_path / "kept/train-00002.npz.1.tmp").write_bytes(b"cut short")
    again = Readings(tmp_path / "kept")
    assert list(again.load("train")) == first + second
    assert list(again.load("test")) == first
