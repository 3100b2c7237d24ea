"""Whole runs on a tiny FER2013 file: the run directory, exact resume, interruption, refusals."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fer_jax import checkpoint, course, files, report, run, run_directory
from fer_jax.data import audit, pipeline, prepare
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]
OVERRIDES = (
    "--config.train.epochs=4",
    "--config.train.batch_size=16",
    "--config.eval.batch_size=16",
    "--config.train.log_every=3",
    "--config.train.saving_share=0",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_fer2013(tmp_path_factory.mktemp("raw"), train=140)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One CPU device, and prepared data kept apart from the user's."""
    environment = os.environ | {"XLA_FLAGS": "", "FER_JAX_CACHE": str(tmp_path_factory.mktemp("cache"))}
    return environment | {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}


def command(data_dir, workdir, *extra):
    config = "--config=tests/tiny_config.py"
    return [
        sys.executable,
        "-m",
        "fer_jax.main",
        config,
        f"--data_dir={data_dir}",
        f"--workdir={workdir}",
        *OVERRIDES,
        *extra,
    ]


def execute(environment, *arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def start(environment, *arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module", params=["device", "stream"])
def uninterrupted(request, data_dir, environment, tmp_path_factory):
    """A finished run in each residence."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    residence = f"--config.data.residence={request.param}"
    result = execute(environment, data_dir, workdir, residence)
    assert result.returncode == 0, result.stderr
    return workdir, residence, result


# Where the residence makes no difference.
RESIDENT = pytest.mark.parametrize("uninterrupted", ["device"], indirect=True)


def weights(workdir):
    return checkpoint.load_weights(workdir / "weights.safetensors")


def assert_same_run(first, second):
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    steps = [sorted(path.name for path in (run / "checkpoints/last").iterdir()) for run in (first, second)]
    assert steps[0][-1] == steps[1][-1] == "32"
    one, two = (
        ocp.StandardCheckpointer().restore(run.absolute() / "checkpoints/last/32/state") for run in (first, second)
    )
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()


def test_the_run_directory_holds_what_it_promises(uninterrupted):
    workdir, _, result = uninterrupted
    for name in ("config.json", "environment.json", "metrics.jsonl", "timing.jsonl", "results.json"):
        assert (workdir / name).stat().st_size > 0, name
    for name in ("confusion.png", "learning_curves.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (workdir / "checkpoints/last").iterdir()) == ["24", "32"]
    results = json.loads((workdir / "results.json").read_text())
    assert results["split"] == "test"
    assert results["selected_on"] == "validation"
    assert results["dtype"] == "float32"
    assert results["examples"] == np.sum(results["confusion"]) == 21
    assert results["metrics"]["accuracy"] == np.trace(results["confusion"]) / 21
    assert str(workdir) in result.stdout
    rows = files.read_rows(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "validation"] == [8, 16, 24, 32]
    assert [row["step"] for row in rows if row["split"] == "train"][:4] == [3, 6, 8, 11]
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["packages"]["jax"]
    assert environment["devices"] == ["cpu: cpu"]


def test_the_weights_carry_names_normalisation_and_input_shape(uninterrupted):
    variables, metadata = weights(uninterrupted[0])
    assert metadata["emotions"] == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert metadata["input_shape"] == [48, 48, 1]
    assert metadata["model"]["name"] == "shallow"
    assert set(variables) == {"params", "batch_stats", "normalizer"}
    assert variables["normalizer"]["mean"].shape == (48, 48, 1)


def test_tensorboard_reads_the_events(uninterrupted):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(uninterrupted[0] / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("validation/accuracy")) == 4


def test_killed_at_random_steps_a_run_ends_in_the_same_bits(uninterrupted, data_dir, environment, tmp_path):
    whole, residence, _ = uninterrupted
    workdir = tmp_path / "run"
    generator = random.Random(0)
    for attempt in range(2):
        process = start(environment, data_dir, workdir, residence)
        rows = generator.randrange(1 + 6 * attempt, 7 + 6 * attempt)
        while process.poll() is None and count_lines(workdir / "metrics.jsonl") < rows:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    result = execute(environment, data_dir, workdir, residence)
    assert result.returncode == 0, result.stderr
    assert_same_run(whole, workdir)


@RESIDENT
def test_sigterm_saves_in_mid_epoch_and_the_resumed_run_ends_in_the_same_bits(
    uninterrupted, data_dir, environment, tmp_path
):
    whole, residence, _ = uninterrupted
    workdir = tmp_path / "run"
    process = start(environment, data_dir, workdir, residence)
    while process.poll() is None and count_lines(workdir / "metrics.jsonl") < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "SIGTERM at step" in output
    assert f"--workdir={workdir}" in output
    saved = [int(path.name) for path in (workdir / "checkpoints/last").iterdir()]
    assert saved
    result = execute(environment, data_dir, workdir, residence)
    assert f"resuming {workdir} at step {max(saved)}" in result.stderr
    assert_same_run(whole, workdir)


def count_lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@RESIDENT
def test_checkpoints_far_between_change_nothing_else(uninterrupted, data_dir, environment, tmp_path):
    whole, residence, _ = uninterrupted
    result = execute(environment, data_dir, tmp_path / "run", residence, "--config.train.saving_share=1e-9")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "run/checkpoints/last").iterdir()) == ["32", "8"]
    for name in ("metrics.jsonl", "weights.safetensors"):  # of the best epoch, which may be one between
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_checkpoints_take_no_more_than_their_share_of_the_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(course.time, "perf_counter", lambda: now)
    pace, always = course.SavingPace(0.1), course.SavingPace(0.0)
    assert pace.due()
    for each in (always, pace):
        with each.saving():
            now += 2
    now += 19.9
    assert not pace.due()
    assert always.due()
    now += 0.2
    assert pace.due()


@RESIDENT
def test_running_a_finished_run_again_only_reports(uninterrupted, data_dir, environment):
    workdir, residence, first = uninterrupted
    before = (workdir / "metrics.jsonl").read_bytes()
    again = execute(environment, data_dir, workdir, residence)
    assert again.returncode == 0, again.stderr
    assert "is complete" in again.stderr
    assert again.stdout == first.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


@RESIDENT
def test_another_config_in_the_same_workdir_is_refused_with_the_difference(uninterrupted, data_dir, environment):
    workdir, residence, _ = uninterrupted
    result = execute(environment, data_dir, workdir, residence, "--config.optim.learning_rate=0.123")
    assert result.returncode == 1
    assert "optim.learning_rate: 0.05 -> 0.123" in result.stderr
    assert "Traceback" not in result.stderr


@RESIDENT
def test_other_data_in_the_same_workdir_is_refused(uninterrupted, environment, tmp_path):
    workdir, residence, _ = uninterrupted
    other = write_fer2013(tmp_path / "other", train=140, seed=5)
    result = execute(environment, other, workdir, residence)
    assert result.returncode == 1
    assert "was trained on other data" in result.stderr


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data_dir, environment, tmp_path):
    workdir = tmp_path / "run"
    explode = ("--config.optim.schedule=step", "--config.optim.decay_epochs=(2,)", "--config.optim.decay_factor=1e30")
    result = execute(environment, data_dir, workdir, *explode)
    assert result.returncode == 1
    assert "the loss became" in result.stderr
    step = int(re.search(r"at step (\d+)", result.stderr)[1])
    assert 16 < step <= 24  # in the third epoch, which begins with the explosion
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in (workdir / "checkpoints/last").iterdir()) == ["16", "8"]


def test_an_unwritable_workdir_is_refused(tmp_path):
    from tests import tiny_config

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to the run directory .*file/run"):
        run.run(tiny_config.get_config(), tmp_path / "file/run")


def test_a_run_that_never_began_does_not_keep_its_workdir(tmp_path, data_dir, monkeypatch, caplog):
    from tests import tiny_config

    config = tiny_config.get_config()
    config.optim.name = "adamm"
    config.optim.decay_epochs, config.head.class_weight_power = (1,), 0.5
    config.data.sampling = "balanced"
    monkeypatch.setattr(run.combine, "load", lambda *_: pytest.fail("data were prepared"))
    with pytest.raises(UserError, match=r"optim\.name = 'adamm' is unknown"):
        run.run(config, tmp_path / "run", data_dir=data_dir)
    assert "without effect: optim.decay_epochs, as optim.schedule is not step" in caplog.text
    assert "without effect: head.class_weight_power, as head.class_weights is none" in caplog.text
    assert "weighs them besides" not in caplog.text
    config.head.class_weights = "inverse"
    with pytest.raises(UserError, match=r"optim\.name = 'adamm' is unknown"):
        run.run(config, tmp_path / "run", data_dir=data_dir)
    assert "head.class_weights = inverse weighs them besides" in caplog.text
    run_directory.claim_workdir(tmp_path / "run", tiny_config.get_config())
    assert json.loads((tmp_path / "run/config.json").read_text())["optim"]["name"] != "adamm"
    (tmp_path / "run/checkpoints/last/8").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds a run of another config:\n(.*\n)+  optim\.name: \w+ -> adamm"):
        run_directory.claim_workdir(tmp_path / "run", config)


@pytest.mark.parametrize("name", ["runs [new]", "a\\b", "\udcff"])
def test_names_by_which_no_checkpoint_is_found_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"no checkpoint could be read in .*: choose a --workdir without \[\.\.\.\]"):
        run_directory.claim_workdir(tmp_path / name / "run", tiny_config.get_config())
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    with (
        run_directory.occupied(tmp_path / "run"),
        pytest.raises(UserError, match=r"another process trains in .*run, or still"),
    ):
        run.run(tiny_config.get_config(), tmp_path / "run")
    assert not (tmp_path / "run/.lock").exists()


def test_an_intensity_head_trains_on_eight_devices_and_reports_its_rmse(tmp_path, cache):
    from tests import tiny_config

    config = tiny_config.get_config("synthetic")
    config.data.variant = "small"
    config.head.name = "intensity"
    config.train.epochs = 2
    results = run.run(config, tmp_path / "run")
    assert jax.device_count() == 8
    assert results["examples"] == 80
    assert 0 < results["metrics"]["rmse"] < 0.5
    assert set(results["metrics"]) >= {"rmse/angry", "rmse/surprise", "accuracy/neutral"}
    assert "rmse/neutral" not in results["metrics"]
    rows = [row for row in files.read_rows(tmp_path / "run/metrics.jsonl") if row["split"] == "validation"]
    best = min(rows, key=lambda row: row["rmse"])  # selected by RMSE, not by accuracy
    assert results["step"] == best["step"]
    assert "SYNTHETIC" in run.format_results(results)
    assert "RMSE" in run.format_results(results)


@RESIDENT
def test_training_may_begin_with_the_weights_of_another_run(uninterrupted, data_dir, environment, tmp_path):
    workdir = uninterrupted[0]
    given = f"--config.model.pretrained={workdir / 'weights.safetensors'}"
    # One step at no learning rate: the accuracy is that of the weights given.
    still = ("--config.train.epochs=1", "--config.optim.learning_rate=1e-30")
    result = execute(environment, data_dir, tmp_path / "run", given, *still)
    assert "begins with pretrained weights" in result.stderr, result.stderr
    before, _ = weights(workdir)
    after, metadata = weights(tmp_path / "run")
    assert metadata["normalization"] == "pretrained"  # which is not that of the config
    for a, b in zip(jax.tree.leaves(before["params"]), jax.tree.leaves(after["params"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_array_equal(before["normalizer"]["mean"], after["normalizer"]["mean"])
    other = execute(environment, data_dir, tmp_path / "other", given, "--config.model.options.hidden=(8,)")
    assert other.returncode == 1
    assert f"{workdir / 'weights.safetensors'}: the weights are those of another model" in other.stderr
    assert "params/Dense_0/kernel has shape" in other.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_says_so_and_the_run_resumes_once_there_is_space(small_disk, data_dir, environment):
    (small_disk / "other").write_bytes(bytes(800_000))
    result = execute(environment, data_dir, small_disk / "run")
    assert result.returncode == 1
    assert f"no space left while writing to {small_disk}/run/checkpoints" in result.stderr
    assert f"--workdir={small_disk}/run" in result.stderr
    assert "Traceback" not in result.stderr
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert execute(environment, data_dir, small_disk / "run").returncode == 0


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_met_anywhere_is_a_message(tmp_path, monkeypatch, number):
    from tests import tiny_config

    def full(*_args, **_kwargs):
        raise OSError(number, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(run, "build", full)
    with pytest.raises(UserError, match=r"no space left while writing to metrics\.jsonl.*resumes"):
        run.run(tiny_config.get_config(), tmp_path / "run")


@pytest.mark.parametrize("residence", ["device", "stream"])
def test_what_an_audit_lists_is_left_out_of_training_and_scored_beside(residence, tmp_path, cache):
    raw = write_fer2013(tmp_path / "raw")
    rows = (raw / "fer2013.csv").read_text().splitlines()
    training = [row for row in rows if row.endswith("Training")]
    testing = [row for row in rows if row.endswith("PrivateTest")]
    # A training image in the test split, and a test image twice.
    copies = [testing[0].replace("PrivateTest", "Training"), training[3].replace("Training", "PrivateTest"), testing[5]]
    (raw / "fer2013.csv").write_text("\n".join([*rows, *copies]) + "\n")
    dataset = prepare.load("fer2013", data_dir=raw)
    assert dataset.splits == {"train": 71, "validation": 21, "test": 23}
    clean = tmp_path / "clean.json"
    audit.main(["fer2013", f"--data_dir={raw}", f"--output={tmp_path / 'audit'}", f"--write-clean={clean}"])
    config = tiny_config.get_config()
    with config.unlocked():
        config.data.update({"exclude": str(clean), "residence": residence})
        config.train.update({"epochs": 1, "batch_size": 8})
        config.eval.update({"batch_size": 8, "variants": 0.4})
    experiment = run.build(config, raw)
    assert experiment.order.length == experiment.splits["train"].length == 69
    assert experiment.dataset.splits == {"train": 69, "validation": 21, "test": 23}
    assert sum(experiment.dataset.class_counts["train"]) == 69
    seen = {image.tobytes() for image in experiment.dataset.arrays("train")["image"]}
    whole = dataset.arrays("train")["image"]
    assert seen == {image.tobytes() for image in whole} - {whole[3].tobytes(), whole[70].tobytes()}
    streamed = experiment.dataset.rows("train").take(np.arange(69))
    assert {image.tobytes() for image in streamed["image"]} == seen
    results = run.run(config, tmp_path / "run", data_dir=raw)
    assert results["examples"] == 23
    assert results["deduplicated"]["examples"] == results["deduplicated"]["metrics"]["count"] == 22
    assert "without copies and flat images, 22 images" in run.format_results(results)
    assert results["variants"]["metrics"]["count"] == 23 * 28
    assert "on all 28 variants" in run.format_results(results)
    # And a report of it is of its own data, though these were whole when they were read.
    assert not report.ask(tmp_path / "run", data_dir=raw).transfer
    with pytest.raises(UserError, match="was written for fer2013 with the fingerprint"):
        run.build(config, write_fer2013(tmp_path / "other", seed=1))


def test_balanced_sampling_is_that_of_the_order(tmp_path, cache):
    config = tiny_config.get_config()
    with config.unlocked():
        config.train.batch_size = config.eval.batch_size = 8
        config.data.sampling = "balanced"
    experiment = run.build(config, str(write_fer2013(tmp_path / "raw")))
    assert isinstance(experiment.order, pipeline.BalancedOrder)
    np.testing.assert_array_equal(np.frombuffer(experiment.order.labels, np.int32), experiment.dataset.labels("train"))


@pytest.mark.parametrize(
    ("split", "selected_on", "told"),
    [
        ("test", "validation", "(selected on validation)"),
        ("validation", "validation", "(selected on validation: optimistic, the split that selects also reports)"),
        ("test", None, "(last weights, nothing selected)"),
    ],
)
def test_results_say_what_the_weights_were_selected_on(split, selected_on, told):
    scores = {"accuracy": 0.5, "balanced_accuracy": 0.4, "macro_f1": 0.3, "loss": 1.0}
    about = {"model": "deep", "dataset": "fer2013", "synthetic": False, "split": split, "selected_on": selected_on}
    text = run.format_results(about | {"examples": 3, "step": 8, "metrics": scores, "emotions": []})
    assert told in text.splitlines()[0]
