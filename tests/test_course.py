"""What a run keeps beside its state: killed at the worst moments it loses nothing and tells the same."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import checkpoint, course, files, logs, run, sharding
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013


class Killed(Exception):
    """In place of kill -9: nothing after it is done."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw data of eight steps an epoch, prepared beside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(write_fer2013(tmp_path_factory.mktemp("raw"), train=140))


def config(**overrides):
    config = tiny_config.get_config()
    config.train.epochs, config.train.batch_size, config.eval.batch_size, config.train.log_every = 4, 16, 16, 3
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return config


def killed(config, workdir, data):
    with pytest.raises(Killed):
        run.run(config, workdir, data_dir=data)


def test_programs_of_many_steps_leave_each_row_once_though_killed_epochs_after_the_last_checkpoint(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: False)
    rare = config(**{"train.saving_share": 1e-9})  # a checkpoint after the first epoch, and one at the end
    run.run(rare, tmp_path / "whole", data_dir=data)

    def keep_weights(self, state):
        if self.step == 24:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(course.Course, "keep_weights", keep_weights)
        killed(rare, tmp_path / "run", data)
    assert files.read_rows(tmp_path / "run/metrics.jsonl")[-1]["step"] == 24
    run.run(rare, tmp_path / "run", data_dir=data)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    epochs = [row["step"] for row in files.read_rows(tmp_path / "run/timing.jsonl") if "train_seconds" in row]
    assert epochs == sorted(set(epochs))  # those of the epochs that were lost are gone


def test_killed_between_its_two_checkpoints_a_run_keeps_its_best(data, tmp_path, monkeypatch):
    """The epochs that are taken again may be worse, on a GPU whose sums have no fixed order."""
    whole_evaluate, whole_save = run.Experiment.evaluate, checkpoint.Checkpoints.save
    accuracies = iter([0.3, 0.5, 0.29, 0.28, 0.27])

    def evaluate(self, variables, split):
        summary, sums = whole_evaluate(self, variables, split)
        return (summary | {"accuracy": next(accuracies)} if split == "validation" else summary), sums

    def save(self, state, meta):
        if self.directory.name == "last" and int(state.step) == 16:
            raise Killed
        whole_save(self, state, meta)

    always = config(**{"train.saving_share": 0.0})
    monkeypatch.setattr(run.Experiment, "evaluate", evaluate)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save)
        killed(always, tmp_path / "run", data)
    results = run.run(always, tmp_path / "run", data_dir=data)
    assert results["step"] == 8


@pytest.fixture(scope="module")
def experiment(data):
    return run.build(config(), data)


def test_seeds_differ_in_their_initial_weights_and_keys(experiment):
    (one, key), (other, its_key) = (course.fresh_state(experiment.sibling(config(seed=seed))) for seed in (0, 1))
    assert (one.params["Conv_0"]["kernel"] != other.params["Conv_0"]["kernel"]).any()
    assert (jax.random.key_data(key) != jax.random.key_data(its_key)).any()


def test_class_weights_are_those_of_the_training_images(experiment):
    counts = {"train": (1, 2, 3, 4, 5, 6, 7), "validation": (3,) * 7, "test": (3,) * 7}
    weighted = dataclasses.replace(
        experiment,
        dataset=dataclasses.replace(experiment.dataset, class_counts=counts),
        config=config(**{"head.class_weights": "inverse"}),
    )
    weights = weighted.hyperparameters["class_weights"]
    np.testing.assert_allclose(weights[0] / weights, range(1, 8), rtol=1e-5)


def test_where_a_run_goes_on_elsewhere_both_places_are_told(tmp_path, monkeypatch):
    path = tmp_path / "environment.json"
    for step, devices in ((0, ["gpu: A100"]), (8, ["gpu: A100"]), (16, ["gpu: T4"]), (24, ["gpu: T4"])):
        monkeypatch.setattr(logs, "environment", lambda devices=devices: {"devices": devices, "git": "abc"})
        logs.record_environment(path, step=step)
    written = json.loads(path.read_text())
    assert written == {
        "devices": ["gpu: A100"],
        "git": "abc",
        "resumed": [{"step": 16, "devices": ["gpu: T4"], "git": "abc"}],
    }


def test_a_finished_run_keeps_its_environment(data, tmp_path):
    run.run(config(**{"train.epochs": 1}), tmp_path, data_dir=data)
    (tmp_path / "environment.json").write_text('{"devices": ["gpu: A100"]}')
    run.run(config(**{"train.epochs": 1}), tmp_path, data_dir=data)
    assert (tmp_path / "environment.json").read_text() == '{"devices": ["gpu: A100"]}'


def test_the_second_best_does_not_stand_in_for_a_damaged_best(data, tmp_path, monkeypatch):
    accuracies = iter([0.3, 0.5])
    evaluate = run.Experiment.evaluate

    def rising(self, variables, split):
        summary, sums = evaluate(self, variables, split)
        return (summary | {"accuracy": next(accuracies)} if split == "validation" else summary), sums

    def damaged(*_):
        for path in (tmp_path / "checkpoints/best/16/state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        raise Killed

    always = config(**{"train.saving_share": 0.0, "train.epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(run.Experiment, "evaluate", rising)
        patch.setattr(run, "finish", damaged)
        killed(always, tmp_path, data)
    with pytest.raises(UserError, match=r"no checkpoint in .*best can be read; they are left as they are.*\n  16: "):
        run.run(always, tmp_path, data_dir=data)
    assert sorted(path.name for path in (tmp_path / "checkpoints/best").iterdir()) == ["16", "8"]


def test_scores_that_are_not_finite_end_the_run(experiment, tmp_path):
    under_way = course.Course(experiment, tmp_path)
    with pytest.raises(UserError, match=r"loss on validation is not finite at step 0: .* in another --workdir"):
        under_way.judge({"count": 3, "loss": None, "accuracy": 1 / 3})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_results_that_are_not_finite_are_told():
    scores = {"accuracy": 1.0, "balanced_accuracy": 1.0, "macro_f1": 1.0, "loss": None}
    about = {"model": "deep", "dataset": "fer2013", "synthetic": False, "split": "test", "selected_on": None}
    text = run.format_results(about | {"examples": 3, "step": 8, "metrics": scores, "emotions": []})
    assert "loss not finite" in text


@pytest.mark.parametrize(
    ("weights", "head"),
    [("mini_xception_fer2013", "intensity"), ("mini_xception_ferplus_intensity", "classification")],
)
def test_pretrained_weights_of_the_other_head_get_a_new_output_layer(data, weights, head):
    fields = {"model.name": "mini_xception", "model.pretrained": weights, "head.name": head}
    fields |= {"data.normalization": "symmetric"}
    other = config(**fields)
    with other.unlocked():
        other.model.options = {}
    state, _ = course.fresh_state(run.build(other, data))
    given, _ = checkpoint.load_weights(weights)
    kept = state.params["Conv_0"]["kernel"]
    np.testing.assert_array_equal(kept, given["params"]["Conv_0"]["kernel"])
    assert not np.array_equal(state.params["Conv_14"]["kernel"], given["params"]["Conv_14"]["kernel"])


def test_pretrained_outputs_are_kept_where_they_mean_the_same_emotions_in_the_same_order(data, tmp_path):
    given, metadata = checkpoint.load_weights("mini_xception_fer2013")
    for name, emotions in (("same", metadata["emotions"]), ("turned", metadata["emotions"][::-1])):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save_weights(path, given, metadata | {"emotions": emotions})
        fields = {"model.name": "mini_xception", "model.options": {}, "model.pretrained": str(path)}
        state, _ = course.fresh_state(run.build(config(**fields), data))
        kept = np.array_equal(state.params["Conv_14"]["kernel"], given["params"]["Conv_14"]["kernel"])
        assert kept == (name == "same")


def test_the_images_of_an_epochs_later_steps_are_timed(monkeypatch):
    """The first ones compile as well, and their time is another row."""
    now = iter([100.0, 103.0, 104.0])
    monkeypatch.setattr(course.time, "perf_counter", lambda: next(now))
    clock = course.Clock(started=90.0)
    assert clock.step(1, 16, {}) == {"step": 1, "seconds_to_first_step": 10.0}
    for step in (2, 3):
        assert clock.step(step, 16, {}) is None
    clock.trained()
    row = clock.epoch(3)
    assert (row["train_seconds"], row["other_seconds"]) == (3.0, 1.0)
    assert row["images_per_second"] == pytest.approx(32 / 3)


def saved(experiment, path):
    """The weights that a run of it begins with, as a file."""
    state, _ = course.fresh_state(experiment)
    checkpoint.save_weights(path, state.variables, course.weights_metadata(experiment))
    return state


def test_a_network_without_batchnorm_begins_with_pretrained_weights(data, tmp_path):
    fields = {"model.name": "l2svm", "model.options": {}}
    path = tmp_path / "weights.safetensors"
    state = saved(run.build(config(**fields), data), path)
    assert not state.batch_stats
    begun, _ = course.fresh_state(run.build(config(**fields, seed=1, **{"model.pretrained": str(path)}), data))
    assert jax.tree.structure(begun) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(begun.variables), jax.tree.leaves(state.variables), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pretrained_weights_of_half_the_bits_are_trained_in_float32(data, tmp_path):
    given, metadata = checkpoint.load_weights("mini_xception_fer2013")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf, given)
    path = tmp_path / "half.safetensors"
    checkpoint.save_weights(path, half, metadata)
    fields = {"model.name": "mini_xception", "model.options": {}, "model.pretrained": str(path)}
    state, _ = course.fresh_state(run.build(config(**fields), data))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.variables, state.ema))} == {"float32"}
    kernel = half["params"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(state.params["Conv_0"]["kernel"], kernel.astype(np.float32))


def test_a_run_does_not_go_on_with_other_weights_than_it_began_with(data, tmp_path):
    given, metadata = checkpoint.load_weights("mini_xception_fer2013")
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, given, metadata)
    fields = {"model.name": "mini_xception", "model.options": {}, "train.epochs": 1, "model.pretrained": str(path)}
    run.fit(run.build(config(**fields), data), tmp_path / "run", started=0.0)
    course.Course(run.build(config(**fields), data), tmp_path / "run")
    checkpoint.save_weights(path, jax.tree.map(np.zeros_like, given), metadata)
    with pytest.raises(UserError, match=r"began with other weights than those of .*weights\.safetensors now: choose"):
        course.Course(run.build(config(**fields), data), tmp_path / "run")


def test_a_run_that_goes_on_in_another_type_says_so(data, tmp_path, caplog):
    run.fit(run.build(config(), data), tmp_path, started=0.0)
    for dtype, told in (("float32", False), ("bfloat16", True)):
        course.Course(run.build(config(**{"model.dtype": dtype}), data), tmp_path)
        assert (f"{tmp_path} computed in float32 and goes on in bfloat16" in caplog.text) == told


def test_pretrained_weights_with_a_mean_image_take_images_of_its_size_alone(data, tmp_path):
    path = tmp_path / "weights.safetensors"
    fields = {"model.name": "mini_xception", "model.options": {}, "data.normalization": "mean_image"}
    saved(run.build(config(**fields), data), path)
    larger = config(**fields, **{"model.input_shape": (64, 64, 1), "model.pretrained": str(path)})
    with pytest.raises(UserError, match=r"model\.input_shape = \(64, 64, 1\): .* a mean image of \(48, 48, 1\), so it"):
        course.fresh_state(run.build(larger, data))
    fields |= {"data.normalization": "unit", "model.pretrained": str(path)}
    smaller = config(**fields, **{"train.smaller_first": ((1, 32),)})
    with pytest.raises(UserError, match=r"train\.smaller_first: .* subtracts a mean image, which has one size"):
        course.fresh_state(run.build(smaller, data))


def test_pretrained_weights_that_are_not_there_are_told_before_the_data_are(tmp_path):
    with pytest.raises(UserError, match="there are no weights at nowhere"):
        run.build(config(**{"model.pretrained": "nowhere"}), str(tmp_path / "nor data"))


def test_a_run_that_ends_in_an_error_closes_its_log(data, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(course.Course, "close", lambda self: closed.append(self.workdir))
    diverges = config(**{"optim.name": "sgd", "optim.learning_rate": 1e30})
    with pytest.raises(UserError, match="the loss became"):
        run.run(diverges, tmp_path / "run", data_dir=data)
    assert closed == [tmp_path / "run"]


def test_the_normaliser_of_a_run_is_that_of_its_training_images(experiment):
    images = experiment.dataset.arrays("train")["image"].astype(np.float64)
    np.testing.assert_allclose(experiment.normalizer["mean"], images.mean(0), rtol=1e-5)  # of the tiny config


def test_weights_tell_how_their_faces_were_aligned(experiment):
    aligned = dataclasses.replace(experiment, config=config(**{"data.align": "landmarks"}))
    assert course.weights_metadata(aligned)["align"] == "landmarks"


def test_a_best_of_later_steps_than_a_run_goes_on_from_is_dropped(experiment, tmp_path):
    state, _ = course.fresh_state(experiment)
    first = course.Course(experiment, tmp_path)
    for step, kept in ((8, (first.best, first.last)), (16, (first.best,))):
        for checkpoints in kept:
            checkpoints.save(state.replace(step=jnp.full_like(state.step, step)), first._meta | {"window": []})
    assert course.Course(experiment, tmp_path).step == 8
    assert [path.name for path in (tmp_path / "checkpoints/best").iterdir()] == ["8"]


def test_of_equal_scores_the_first_is_the_best(experiment, tmp_path):
    under_way = course.Course(experiment, tmp_path)
    scores = [0.5, 0.5, 0.4]
    assert [under_way.judge({"count": 3, "loss": 1.0, "accuracy": score}) for score in scores] == [True, False, False]
