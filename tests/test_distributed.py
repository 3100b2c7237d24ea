"""Two processes train together: the losses of one, each reading its share; stopping, resuming, refusals."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fer_jax import checkpoint, config, files, process, run, sharding
from fer_jax.data import pipeline
from tests import tiny_config
from tests.faces import noise_arrays, write_fer2013

ROOT = Path(__file__).parents[1]
OVERRIDES = {
    "train.epochs": 2,
    "train.batch_size": 16,
    "eval.batch_size": 16,
    "train.log_every": 3,
    "head.loss": "soft",
    "head.teachers": ("mini_xception_fer2013",),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_fer2013(tmp_path_factory.mktemp("raw"), train=140)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Four CPU devices a process, no other launcher, and prepared data kept apart from the user's."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    launchers = ("SLURM_", "OMPI_", "PMI", "CUDA_VISIBLE_DEVICES")  # as of the job that the tests run in
    alone = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    return alone | flags | {"FER_JAX_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The run directory of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        run.run(config.overridden(tiny_config.get_config(), OVERRIDES), workdir, data_dir=str(data_dir))
    return workdir


def free_port(lowest: int = 1024) -> int:
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):  # another's
            probe.bind(("localhost", 0 if lowest < 2048 else lowest + time.monotonic_ns() % 4000))
            port = probe.getsockname()[1]
            if port >= lowest:
                return port


def start(data_dir, workdir, environment, *extra, number):
    overrides = [f"--config.{field}={value}" for field, value in OVERRIDES.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "fer_jax.main", "--config=tests/tiny_config.py", f"--data_dir={data_dir}"),
            *(f"--workdir={workdir}", "--distributed", *overrides, *extra),
        ],
        cwd=ROOT,
        env=environment | number,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_both(data_dir, workdir, environment, *extra):
    port = free_port()
    flags = [f"--coordinator=localhost:{port}", "--processes=2", *extra]
    return [start(data_dir, workdir, environment, *flags, f"--process={k}", number={}) for k in range(2)]


def finish(processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def assert_same_run(one, other):
    rows, others = (files.read_rows(folder / "metrics.jsonl") for folder in (one, other))
    assert [(row["step"], row["split"]) for row in rows] == [(row["step"], row["split"]) for row in others]
    for row, another in zip(rows, others, strict=True):
        assert row["loss"] == pytest.approx(another["loss"], abs=2e-5)
    (weights, _), (others, _) = (checkpoint.load_weights(folder / "weights.safetensors") for folder in (one, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), weights, others)


def test_two_processes_of_a_slurm_job_train_as_one_does_each_reading_its_share(data_dir, environment, alone, tmp_path):
    workdir = tmp_path / "run"
    port = free_port(61440)  # JAX takes it from the number of the job
    environment = {name: value for name, value in environment.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    job = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        start(
            *(data_dir, workdir, environment | job, "--config.data.residence=stream"),
            number={"SLURM_PROCID": str(k), "SLURM_LOCALID": "0"},
        )
        for k in range(2)
    ]
    codes, (first, second) = finish(processes)
    assert codes == [0, 0], first + second
    # The first process alone would keep programs, and find them again, for which the others would wait.
    assert not (Path(environment["FER_JAX_CACHE"]) / "xla").exists()
    assert "test split, 21 images" in first
    assert "test split" not in second  # the first process speaks for all
    assert_same_run(alone, workdir)
    results = json.loads((workdir / "results.json").read_text())
    assert np.sum(results["confusion"]) == 21
    assert json.loads((workdir / "environment.json").read_text())["processes"] == 2


def test_of_a_batch_a_process_reads_its_own_rows_alone():
    class Rows:
        def take(self, index):
            self.read = index.tolist()
            return {name: array[index] for name, array in arrays.items()}

    arrays, rows = noise_arrays(40), Rows()
    order = pipeline.train_order(40, 8, 0)
    batch = pipeline.load_rows(rows, order, np.array([2, 3]), 1)
    assert rows.read == list(order.step(1)[0][2:4])
    np.testing.assert_array_equal(batch["image"], arrays["image"][rows.read])
    assert batch["mask"].shape == (2,)
    np.testing.assert_array_equal(sharding.rows_here(16, sharding.make_mesh()), np.arange(16))


def test_the_gpus_of_several_machines_make_one_mesh():
    """JAX counts each machine's as a slice of their own, of which its own `make_mesh` makes none."""

    @dataclasses.dataclass(frozen=True)
    class Gpu:
        id: int
        process_index: int
        slice_index: int
        platform: str = "gpu"

    gpus = [Gpu(i, i // 2, i // 2) for i in range(4)]
    mesh = sharding.make_mesh(gpus)
    assert dict(mesh.shape) == {sharding.AXIS: 4}
    assert mesh.devices.tolist() == gpus


@pytest.mark.slow
def test_all_stop_when_one_is_told_to_and_resume_to_the_same_end(data_dir, environment, alone, tmp_path):
    workdir = tmp_path / "run"
    processes = start_both(data_dir, workdir, environment)
    while not (workdir / "metrics.jsonl").exists():
        assert processes[0].poll() is None, processes[0].communicate()[0]
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [143, 143], outputs
    assert all("SIGTERM at step" in output for output in outputs)
    codes, outputs = finish(start_both(data_dir, workdir, environment))
    assert codes == [0, 0], outputs
    assert "resuming" in outputs[0]
    assert_same_run(alone, workdir)
    (workdir / "results.json").unlink()  # as if killed in the last evaluation
    codes, outputs = finish(start_both(data_dir, workdir, environment))
    assert codes == [0, 0], outputs
    assert (workdir / "results.json").exists()


@pytest.mark.slow
def test_what_the_processes_do_not_share_is_refused_by_each(data_dir, environment, tmp_path):
    port = free_port()
    flags = [f"--coordinator=localhost:{port}", "--processes=2"]
    different = [
        start(data_dir, tmp_path / "run", environment, *flags, f"--process={k}", f"--config.seed={k}", number={})
        for k in range(2)
    ]
    codes, outputs = finish(different)
    assert codes == [1, 1]
    assert all("the processes differ in their configs" in output for output in outputs)
    assert not (tmp_path / "run").exists()

    port = free_port()
    flags[0] = f"--coordinator=localhost:{port}"
    apart = [start(data_dir, tmp_path / f"run{k}", environment, *flags, f"--process={k}", number={}) for k in range(2)]
    codes, outputs = finish(apart)
    assert codes == [1, 1]
    assert "on a disk that they share" in outputs[1]
    assert "process 1 failed" in outputs[0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--distributed"], "needs --workdir"),
        (["--distributed", "--workdir=run"], "--coordinator=HOST:PORT --processes=COUNT --process=NUMBER"),
        (["--coordinator=localhost:1", "--workdir=run"], "with --distributed"),
        (["--process=0", "--workdir=run"], "with --distributed"),
    ],
)
def test_incomplete_flags_are_refused_in_a_line(flags, told, environment):
    command = [sys.executable, "-m", "fer_jax.main", "--config=tests/tiny_config.py", *flags]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("shown", "local"), [("3", [0]), ("0,1", None), ("", None), (None, None)])
def test_a_process_that_is_shown_one_gpu_takes_it(monkeypatch, shown, local):
    """As by `srun --gpus-per-task=1`, where each process sees its own GPU as the first."""
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: asked.append(options))
    monkeypatch.setenv("JAX_ENABLE_PREEMPTION_SERVICE", "false")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    process.join("localhost:1", 2, 1)
    assert asked == [{"local_device_ids": local} if local else {}]
