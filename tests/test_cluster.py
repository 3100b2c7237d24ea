"""A sweep on a local Ray of two workers ends as it does without, whoever is killed; and what of it needs no Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from fer_jax import cluster_work, files, sweep, sweep_members, train
from fer_jax import config as config_lib
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]


def plan(epochs, *rates, seeds=2):
    sizes = {"train.epochs": epochs, "train.batch_size": 16, "eval.batch_size": 16}
    config = config_lib.overridden(tiny_config.get_config(), sizes)
    return sweep_members.members(config, [config_lib.product(optim__learning_rate=rates), config_lib.seeds(seeds)])


@pytest.mark.parametrize(
    ("sizes", "at_once", "parts"),
    [
        ([4], 2, [2, 2]),
        ([4], 1, [4]),
        ([4], 16, [1, 1, 1, 1]),
        ([30], 4, [8, 8, 7, 7]),
        ([5] * 12, 4, [5] * 12),
        ([1, 30, 1], 4, [8, 8, 7, 7, 1, 1]),
        ([], 4, []),
    ],
)
def test_groups_are_cut_so_that_the_whole_cluster_works(sizes, at_once, parts):
    groups = [[(group, k) for k in range(size)] for group, size in enumerate(sizes)]
    found = cluster_work.cut(groups, at_once)
    assert sorted(map(len, found), reverse=True) == [len(part) for part in found] == parts
    assert sorted(member for part in found for member in part) == [member for group in groups for member in group]
    assert all(len({group for group, _ in part}) == 1 for part in found)  # of one structure


def test_a_trial_takes_a_gpu_where_there_is_any_else_some_cpus():
    share, head = cluster_work.share, {"CPU": 0.0}
    assert share([head, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}]) == cluster_work.Share(cpus=1, gpus=1, at_once=4)
    assert share([{"CPU": 16.0, "GPU": 4.0}] * 2, cpus=8) == cluster_work.Share(cpus=8, gpus=1, at_once=4)
    assert share([head, {"CPU": 16.0}, {"CPU": 9.0}]) == cluster_work.Share(cpus=4, gpus=0, at_once=6)
    assert share([{"CPU": 2.0}]) == cluster_work.Share(cpus=2, gpus=0, at_once=1)
    with pytest.raises(UserError, match=r"--cluster_cpus=3: no machine has so many, the largest has 2"):
        share([{"CPU": 2.0}] * 2, cpus=3)
    with pytest.raises(UserError, match=r"these machines have TPUs: run the sweep without --cluster"):
        share([{"CPU": 96.0, "TPU": 4.0}])
    with pytest.raises(UserError, match=r"--cluster_cpus=9: no machine with a GPU .* 8"):
        share([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}], cpus=9)


def test_a_part_is_plain_data_that_gives_the_same_members(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path))
    planned = plan(1, 0.05)
    part = cluster_work.describe(1, planned, Path("x"), form="auto", data_dir="y", rungs=[])
    json.dumps(part)
    assert [part[name] for name in ("workdir", "data_dir")] == [str(Path.cwd() / name) for name in ("x", "y")]
    assert part["environment"] == {"FER_JAX_CACHE": str(tmp_path)}
    again = [
        sweep_members.Member(member["overrides"], ConfigDict(member["config"]).lock()) for member in part["members"]
    ]
    assert again == planned
    assert [member["name"] for member in part["members"]] == [member.name for member in planned]


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "fer_jax.cluster", raising=False)
    with pytest.raises(UserError, match=r"--cluster=ray needs Ray Tune: pip install 'fer_jax\[cluster\]'"):
        sweep.run_members_on_cluster(plan(1, 0.05), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_a_machine_does_not_find_is_the_users_to_mend(tmp_path, capsys):
    part = cluster_work.describe(1, plan(1, 0.05), tmp_path / "x", form="auto", data_dir=None, rungs=[])
    told = cluster_work.Work(part).step()
    assert told["done"]
    assert list(told["failed"]) == [member["name"] for member in part["members"]]
    assert all("must lie on a file system that all machines share" in reason for reason in told["failed"].values())


def test_a_file_that_appears_is_a_signal_to_what_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_work, "_LOOK_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGTERM)
    with cluster_work._interrupted_by(tmp_path / "stop"):
        with train.Interruption() as interruption:
            time.sleep(0.1)
            assert not interruption.signum
            (tmp_path / "stop").touch()
            deadline = time.monotonic() + 10
            while not interruption.signum and time.monotonic() < deadline:
                time.sleep(0.01)
        assert interruption.signum == signal.SIGTERM
        time.sleep(0.1)  # told again, while nobody listens
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture(scope="module")
def cluster():
    """The module, where Ray Tune is installed."""
    for name in ("ray", "pandas", "pyarrow"):
        pytest.importorskip(name, reason="Ray Tune (the extra cluster) is not installed")
    from fer_jax import cluster

    return cluster


def test_decisions_of_asha_are_kept(cluster, tmp_path):
    def trial(name):
        return SimpleNamespace(trial_id=f"id of {name}", config={"part": {"number": 1, "members": [{"name": name}]}})

    def judge(halving, name, rung, epoch, score):
        return halving.on_trial_result(None, trial(name), {"rung": rung, "epoch": epoch, "score": score})

    path = tmp_path / "halving.json"
    first = cluster.Halving(3, [3, 11], path)  # of 33 epochs
    for name in "abc":
        first.on_trial_add(None, trial(name))
    # The first at a rung goes on; the others if none but a third of those before them is better.
    assert [judge(first, name, 1, 3, score) for name, score in (("a", 0.5), ("b", 0.4), ("c", 0.6))] == [
        "CONTINUE",
        "STOP",
        "CONTINUE",
    ]
    assert judge(first, "a", 3, 11, 0.7) == "CONTINUE"
    assert judge(first, "a", 1, 3, 0.5) == "CONTINUE"  # begun again, it is not judged again
    again = cluster.Halving(3, [3, 11], path)
    assert again.stopped == first.stopped == {"b": (3, 0.4)}
    assert [again.left(name) for name in "acd"] == [[], [(3, 11)], [(1, 3), (3, 11)]]
    for name in "cd":
        again.on_trial_add(None, trial(name))
    assert judge(again, "c", 3, 11, 0.6) == "STOP"  # a was better, before
    assert judge(again, "d", 1, 3, 0.55) == "CONTINUE"
    assert set(again.stopped) == {"b", "c"}
    assert cluster.Halving(3, [4], path).stopped == {}  # other rungs: judged anew


def test_a_cluster_that_does_not_answer_is_the_users_to_mend(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=ray://somewhere:10001: run the command on a machine of the clus"):
        cluster.run_members([plan(1, 0.05)], tmp_path)
    with socket.socket() as taken:  # bound, yet nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1"):
            cluster.run_members([plan(1, 0.05)], tmp_path)


@pytest.fixture
def two_workers(cluster, tmp_path, cache):
    """A local Ray of two workers; returns a folder with data."""
    import ray

    write_fer2013(tmp_path / "raw")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    yield tmp_path
    ray.shutdown()


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def epochs_of(folder):
    path = folder / "metrics.jsonl"
    return {row["epoch"] for row in files.read_rows(path) if row["split"] == "validation"} if path.exists() else set()


def same_runs(planned, folder, other):
    for member in planned:
        for name in ("config.json", "metrics.jsonl", "weights.safetensors", "results.json"):
            ours, theirs = (each / member.name / name for each in (folder, other))
            assert ours.exists() == theirs.exists(), theirs
            if ours.exists():
                assert ours.read_bytes() == theirs.read_bytes(), theirs


FORK = pytest.mark.filterwarnings("ignore:os.fork")  # JAX's warning; Ray calls exec at once


@FORK
@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_changes_nothing(two_workers, capfd):
    planned, data = plan(8, 0.05, 1e30), str(two_workers / "raw")
    alone = sweep.run_members(planned, two_workers / "alone", data_dir=data)
    workdir = two_workers / "cluster"
    victim = workdir / planned[0].name

    def kill():
        wait_for(lambda: len(epochs_of(victim)) >= 2)
        log = (workdir / ".ray/trial-1.log").read_text()
        os.kill(int(log.split("process ")[1].split()[0]), signal.SIGKILL)
        killed.append(len(epochs_of(victim)))

    killed = []
    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = sweep.run_members_on_cluster(planned, workdir, data_dir=data, cpus=1)
    thread.join()
    assert killed[0] < 8
    log = (workdir / ".ray/trial-1.log").read_text()
    assert log.count("process ") == 2
    assert f"resuming {victim} at step" in log
    told = capfd.readouterr().err
    assert "2 trials on 1 machine of Ray, 2 at once, each with 1 CPU" in told
    assert "[trial 1] broke off, see" in told
    assert "[trial 1] begins again" in told
    assert "[trial 2] broke off" not in told  # its members fail, and are not tried again
    assert outcomes == alone
    assert [type(outcome) for outcome in outcomes.values()].count(sweep.Failed) == 2
    same_runs(planned, two_workers / "alone", workdir)
    # Given again: what is finished stays untouched, and needs no cluster.
    before = {path: path.stat().st_mtime_ns for path in victim.rglob("*")}
    assert sweep.run_members_on_cluster(planned[:2], workdir, data_dir=data) == {
        member.name: alone[member.name] for member in planned[:2]
    }
    assert {path: path.stat().st_mtime_ns for path in victim.rglob("*")} == before


def test_asha_takes_no_repetitions(tmp_path):
    with pytest.raises(UserError, match=r"--halving on a cluster compares single members .* choose with one seed"):
        sweep.run_members_on_cluster(plan(4, 0.05, 0.04), tmp_path, halving=2)


@FORK
@pytest.mark.slow
def test_members_stopped_by_asha_stay_stopped(two_workers):
    planned, data = plan(4, 0.05, 0.04, 1e-9, 2e-9, seeds=1), str(two_workers / "raw")
    workdir = two_workers / "cluster"
    outcomes = sweep.run_members_on_cluster(planned, workdir, halving=2, data_dir=data, cpus=1)
    stopped = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, sweep.Stopped)}
    assert set(outcomes) == {member.name for member in planned}
    assert {member.name for member in planned[2:]} <= set(stopped)  # they come last to the first rung, and are worse
    for member in planned:
        trained = epochs_of(workdir / member.name)
        if outcome := stopped.get(member.name):
            assert outcome.epoch == max(trained) in (1, 2)
            assert outcome.score == sweep.best_until(workdir / member.name, member.config, outcome.epoch)
        else:
            assert max(trained) == 4
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*/metrics.jsonl")}
    assert sweep.run_members_on_cluster(planned, workdir, halving=2, data_dir=data, cpus=1) == outcomes
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("*/metrics.jsonl")} == before


@pytest.mark.slow
def test_a_command_killed_or_interrupted_goes_on(cluster, tmp_path, cache):
    planned, data, workdir = plan(8, 0.05), write_fer2013(tmp_path / "raw"), tmp_path / "cluster"
    command = [sys.executable, "-m", "fer_jax.sweep", "--config=tests/tiny_config.py", f"--data_dir={data}"]
    command += ["--config.train.epochs=8", "--config.train.batch_size=16", "--config.eval.batch_size=16"]
    command += ["--config.train.saving_share=0"]  # after every epoch, so that the run has gone on when epochs are added
    command += ["--set=optim.learning_rate=0.05", "--seeds=2", f"--workdir={workdir}", "--cluster=ray"]
    environment = os.environ | {"XLA_FLAGS": ""}
    environment.pop("RAY_ADDRESS", None)

    def start():
        return subprocess.Popen(
            [*command, "--cluster_cpus=1"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )

    def reached():
        return sum(len(epochs_of(workdir / member.name)) for member in planned)

    killed = start()
    wait_for(lambda: reached() >= 2)
    killed.kill()
    killed.communicate()
    interrupted = start()
    while "begins" not in interrupted.stderr.readline():  # until then the killed one's workers may still be about
        assert interrupted.poll() is None
    before = reached()
    wait_for(lambda: reached() > before)
    interrupted.terminate()
    _, told = interrupted.communicate(timeout=300)
    assert interrupted.returncode == 128 + signal.SIGTERM, told
    assert f"SIGTERM: the trials saved and ended; the same command with --workdir={workdir} goes on" in told
    last = start()
    _, told = last.communicate(timeout=600)
    assert last.returncode == 0, told
    assert (workdir / "table.md").exists()
    alone = [part for part in command if not part.startswith(("--cluster", "--workdir"))]
    alone = subprocess.run(
        [*alone, f"--workdir={tmp_path / 'alone'}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    same_runs(planned, tmp_path / "alone", workdir)
    assert (workdir / "table.md").read_bytes() == (tmp_path / "alone/table.md").read_bytes()
