"""Runners: threads, processes and a local Ray of two workers give the same results in the same order."""

import functools
import itertools
import os
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from fer_jax.data import align, prepare, runners, synthetic
from fer_jax.errors import UserError
from tests import miniatures


@pytest.fixture(scope="module")
def ray():
    """A local Ray of two workers."""
    ray = pytest.importorskip("ray", reason="Ray (the extra cluster) is not installed")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    yield ray
    ray.shutdown()


def start(base):
    """Made once in each worker: a function that tells which worker it is in."""
    where = (os.getpid(), threading.get_ident())

    def work(item):
        if item == 13:
            raise UserError("thirteen is wrong")
        time.sleep(0.002 * (item % 3))  # not in the order of submission
        return base + item, where

    return work


@pytest.fixture(params=["threads", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def runner(request):
    if request.param == "ray":
        request.getfixturevalue("ray")
    return request.param


def test_results_come_in_order_from_all_workers_and_errors_as_they_are(runner):
    results = list(runners.each(functools.partial(start, 100), range(12), runner=runner, workers=2))
    assert [result for result, _ in results] == list(range(100, 112))
    if runner != "threads":
        processes = {process for _, (process, _) in results}
        assert os.getpid() not in processes
        assert len(processes) == 2 or runner == "processes"  # of which one may be up before the other
    with pytest.raises(UserError, match=r"^thirteen is wrong$"):
        list(runners.each(functools.partial(start, 0), range(20), runner=runner, workers=2))


def test_no_more_is_taken_than_a_bounded_number_ahead():
    taken = []
    endless = (taken.append(i) or i % 3 for i in itertools.count())
    results = runners.each(functools.partial(start, 0), endless, runner="threads", workers=2)
    assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 0, 1]
    assert len(taken) <= 5 + 2 * runners.AHEAD + 1
    results.close()


def test_unknown_runners_and_no_workers_are_refused():
    with pytest.raises(UserError, match=r"unknown runner 'rya'\. Did you mean 'ray'"):
        list(runners.each(functools.partial(start, 0), [1], runner="rya", workers=1))
    with pytest.raises(UserError, match=r"--workers=0: at least 1"):
        list(runners.each(functools.partial(start, 0), [1], runner="threads", workers=0))


def test_ray_that_is_absent_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--runner=ray needs Ray: pip install 'fer_jax\[cluster\]'"):
        list(runners.each(functools.partial(start, 0), [1], runner="ray", workers=1))


@pytest.mark.slow
def test_alignment_on_ray_writes_the_same_files(ray, tmp_path):
    source, points = tmp_path / "photographs", tmp_path / "landmarks"
    for i in range(4):
        drawn = synthetic.example(0, i, i)
        path = source / f"{i % 2}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), drawn.image[..., ::-1])
        target = points / f"{i % 2}/{i}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(target, drawn.landmarks)
    (source / "0/broken.png").write_bytes(b"not a picture")
    outputs = {}
    for runner in ("processes", "ray"):
        settings = align.Settings(source, tmp_path / runner, landmarks=points)
        rows = align.align_tree(settings, runner=runner, workers=2)
        assert [row["status"] for row in rows].count("ok") == 4
        outputs[runner] = {
            path.relative_to(settings.output): path.read_bytes()
            for path in settings.output.rglob("*")
            if path.is_file()
        }
    assert outputs["ray"] == outputs["processes"]
    assert len(outputs["ray"]) == 7  # four crops, the table, the settings and the detections


@pytest.mark.slow
def test_preparation_on_ray_gives_the_same_data_set(ray, tmp_path, monkeypatch):
    root = miniatures.write_kdef(tmp_path / "raw")
    (root / "AF01/AF01ANS.JPG").write_bytes(b"not a picture")
    prepared = {}
    for runner in ("threads", "ray"):
        monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / runner))
        prepared[runner] = prepare.load("kdef", data_dir=root, runner=runner, workers=2)
    assert prepared["ray"].fingerprint == prepared["threads"].fingerprint
    records = [miniatures.record(dataset)["quarantined"] for dataset in prepared.values()]
    assert records[0] == records[1] == [[str(root / "AF01/AF01ANS.JPG"), "not a readable image"]]


def test_data_of_one_file_are_not_spread_over_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"synthetic is read in one go, .*leave --runner out"):
        prepare.load("synthetic", variant="small", runner="ray")
