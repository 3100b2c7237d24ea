"""Rows of a split: decoded once and kept in files, whole or not at all; from the records where these find no place."""

import dataclasses
import errno
import fcntl
import os
import pickle
import re
import shutil
import tempfile
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data import dataset as dataset_module
from fer_jax.data import prepare
from fer_jax.data.rows import KeptRows, RecordRows
from fer_jax.errors import UserError
from tests.faces import write_fer2013

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def raw(tmp_path):
    return write_fer2013(tmp_path / "raw")


def test_records_rows_and_arrays_agree(raw, monkeypatch):
    dataset = prepare.load("fer2013", data_dir=raw)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", disk_of(0))
        of_records = dataset.rows("train")
    assert isinstance(of_records, RecordRows)
    arrays, source, kept = dataset.arrays("train"), dataset.source("train"), dataset.rows("train")
    assert isinstance(kept, KeptRows)
    index = np.array([3, 69, 0, 3])
    taken = [rows.take(index) for rows in (of_records, kept)]
    assert len(source) == len(of_records) == len(kept) == 70
    for place, example in enumerate(source.__getitems__(index.tolist())):
        for name, array in arrays.items():
            for rows in taken:
                np.testing.assert_array_equal(rows[name][place], array[index[place]])
                np.testing.assert_array_equal(rows[name][place], example[name])
                assert rows[name].dtype == array.dtype


def disk_of(free):
    return lambda _path: types.SimpleNamespace(free=free)


def kept_files(dataset):
    folder = dataset.directory / "arrays"
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else None


def test_records_are_read_where_the_decoded_rows_find_no_place(raw, monkeypatch, caplog):
    caplog.set_level("INFO", "fer_jax")
    dataset = prepare.load("fer2013", data_dir=raw)
    size = 70 * 48 * 48
    monkeypatch.setattr(shutil, "disk_usage", disk_of(2 * size - 1))
    assert isinstance(dataset.rows("train"), RecordRows)
    assert kept_files(dataset) == []
    assert "the records of fer2013 are decoded as they are read, which takes time: the image, label, intensity of" in (
        caplog.text
    )
    assert (
        f"the train split of fer2013, 0.2 MB, take more than 50% of the 0.3 MB that are free in {dataset.directory}"
        in (caplog.text)
    )
    monkeypatch.setattr(shutil, "disk_usage", disk_of(2 * size))
    for number in (errno.EACCES, errno.EDQUOT):  # somebody else's cache, a quota that is used up
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkdtemp", failing(OSError(number, os.strerror(number))))
            assert isinstance(dataset.rows("train"), RecordRows)
            with pytest.raises(UserError, match=f"0.0 MB, cannot be written .*{os.strerror(number)}.*enough$"):
                dataset.labels("train")
        assert os.strerror(number) in caplog.text
    caplog.clear()
    assert isinstance(dataset.rows("train"), KeptRows)
    assert "data: decoding the image, label, intensity of the train split of fer2013, 0.2 MB, into" in caplog.text
    caplog.clear()
    monkeypatch.setattr(shutil, "disk_usage", disk_of(0))
    assert isinstance(dataset.rows("train"), KeptRows)  # what is there is used
    assert not caplog.records


def failing(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


def test_without_file_locks_two_may_decode_the_same_split_at_once(raw, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", failing(OSError(errno.ENOLCK, "no locks")))
    test_two_may_decode_the_same_split_at_once(raw)
    assert "has no file locks" in caplog.text


def test_pickled_rows_are_small_and_read_the_same(raw):
    rows = prepare.load("fer2013", data_dir=raw).rows("train")
    expected = rows.take(np.arange(70))
    pickled = pickle.dumps(rows)
    assert len(pickled) < 10_000 < expected["image"].nbytes
    again = pickle.loads(pickled)
    assert len(again) == 70
    for name, array in again.take(np.arange(70)).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_decoding_cut_short_leaves_no_array(raw, monkeypatch, stop):
    dataset = prepare.load("fer2013", data_dir=raw)
    monkeypatch.setattr(dataset_module, "_READ_AT_ONCE", 16)  # several parts
    stack, parts = dataset_module.stacked, []

    def stopped(examples, names):
        parts.append(len(examples))
        if sum(parts) > 40:
            raise stop
        return stack(examples, names)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "stacked", stopped)
        with pytest.raises(stop):
            dataset.rows("train")
    assert kept_files(dataset) == []
    killed = dataset.directory / "arrays/train.x1y2.partial"  # as kill -9 leaves it
    killed.mkdir()
    (killed / "train-image.npy").write_bytes(b"half")
    np.testing.assert_array_equal(dataset.rows("train").take(np.arange(70))["label"], np.arange(70) % 7)
    assert kept_files(dataset) == ["train-image.npy", "train-intensity.npy", "train-label.npy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file that is always full")
def test_a_full_disk_is_told_and_leaves_no_array(raw, monkeypatch):
    dataset = prepare.load("fer2013", data_dir=raw)
    path_open = Path.open
    with monkeypatch.context() as patch:
        full = re.compile(r"train-image\.npy")
        patch.setattr(
            Path,
            "open",
            lambda path, *mode: path_open(Path("/dev/full") if full.search(path.name) else path, *mode),
        )
        with pytest.raises(
            UserError, match=r"train split of fer2013, 0\.2 MB, cannot be written to .*No space left.*'stream'"
        ):
            dataset.arrays("train")
    assert kept_files(dataset) == []
    assert len(dataset.arrays("train")["image"]) == 70


def test_two_may_decode_the_same_split_at_once(raw):
    dataset = prepare.load("fer2013", data_dir=raw)
    both = [dataclasses.replace(dataset) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda own: own.rows("train").take(np.arange(70)), both)
    for name, array in dataset.arrays("train").items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(second[name], array)
    assert kept_files(dataset) == ["train-image.npy", "train-intensity.npy", "train-label.npy"]
