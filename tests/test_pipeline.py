"""The pipeline: the order is a function of (seed, epoch), and residence changes nothing that is trained on."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fer_jax import sharding
from fer_jax.data import normalization, pipeline
from fer_jax.data.dataset import Dataset
from fer_jax.data.rows import KeptRows
from fer_jax.errors import UserError
from tests.faces import noise_arrays


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


def both(arrays, mesh, folder, workers=0):
    """A split in device memory, and the same streamed from files."""
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for name, path in paths.items():
        np.save(path, arrays[name])
    resident = pipeline.ResidentSplit(arrays, mesh)
    return resident, pipeline.StreamedSplit(KeptRows(paths), mesh, workers=workers)


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert a[name].dtype == b[name].dtype
            assert a[name].sharding == b[name].sharding


def test_resident_and_streamed_give_the_same_batches_in_the_same_order_for_two_epochs(mesh, tmp_path):
    order = pipeline.TrainOrder(length=100, batch_size=16, seed=3)
    resident, streamed = both(noise_arrays(100), mesh, tmp_path)
    stop = 2 * order.steps_per_epoch
    assert stop == 12
    assert_same_batches(resident.batches(order, 0, stop), streamed.batches(order, 0, stop))
    assert_same_batches(resident.batches(order, 7, stop), streamed.batches(order, 7, stop))  # resumed


def test_resident_and_streamed_agree_in_evaluation_and_the_padding_is_masked(mesh, tmp_path):
    order = pipeline.EvalOrder(length=101, batch_size=16)
    resident, streamed = both(noise_arrays(101), mesh, tmp_path)
    assert_same_batches(resident.batches(order, 0, order.steps), streamed.batches(order, 0, order.steps))
    masks = [np.asarray(batch["mask"]) for batch in resident.batches(order, 0, order.steps)]
    assert sum(mask.sum() for mask in masks) == 101
    assert [mask.sum() for mask in masks] == [16] * 6 + [5]


def test_streaming_with_worker_processes_gives_the_same_batches(mesh, tmp_path):
    order = pipeline.TrainOrder(length=64, batch_size=16, seed=0)
    resident, streamed = both(noise_arrays(64), mesh, tmp_path, workers=1)
    assert_same_batches(resident.batches(order, 1, 6), streamed.batches(order, 1, 6))


def test_images_reach_the_devices_as_uint8_split_over_all_of_them(mesh):
    resident = pipeline.ResidentSplit(noise_arrays(32), mesh)
    batch = next(iter(resident.batches(pipeline.TrainOrder(32, 16, 0), 0, 1)))
    assert batch["image"].dtype == np.uint8
    assert len(batch["image"].sharding.device_set) == mesh.size == 8


def test_an_epoch_shows_every_example_at_most_once_and_leaves_out_an_incomplete_batch_others_each_time():
    order = pipeline.TrainOrder(length=103, batch_size=10, seed=0)
    shown = order.epoch(0).ravel()
    assert len(shown) == 100
    assert len(set(shown.tolist())) == 100
    assert set(np.concatenate([order.epoch(epoch) for epoch in range(9)]).ravel()) == set(range(103))


def test_the_order_is_a_function_of_seed_and_epoch():
    order = pipeline.TrainOrder(length=50, batch_size=10, seed=1)
    np.testing.assert_array_equal(order.epoch(4), pipeline.TrainOrder(50, 10, 1).epoch(4))
    assert (order.epoch(0) != order.epoch(1)).any()
    assert (order.epoch(0) != pipeline.TrainOrder(50, 10, 2).epoch(0)).any()
    np.testing.assert_array_equal(order.step(7)[0], order.epoch(1)[2])  # five steps an epoch


@pytest.mark.parametrize("labels", [None, np.arange(50) % 3])
def test_the_order_of_a_seed_is_not_that_of_another_an_epoch_later(labels):
    one, other = (pipeline.train_order(50, 10, seed, labels=labels) for seed in (1, 2))
    assert (one.epoch(1) != other.epoch(0)).any()


def test_a_balanced_order_shows_each_class_as_often_and_all_members_before_one_recurs():
    labels = np.array([0] * 80 + [1] * 15 + [4] * 5)
    order = pipeline.train_order(100, 10, 0, labels=labels)
    assert order.steps_per_epoch == 10
    for epoch in (0, 1):
        shown = order.epoch(epoch).ravel()
        counts = np.bincount(labels[shown], minlength=5)
        assert set(counts[[0, 1, 4]].tolist()) <= {33, 34}
        times = np.bincount(shown, minlength=100)
        for label in (0, 1, 4):
            assert np.ptp(times[labels == label]) <= 1
        np.testing.assert_array_equal(pipeline.train_order(100, 10, 0, labels=labels).epoch(epoch), order.epoch(epoch))
    assert (order.epoch(0) != order.epoch(1)).any()
    assert set(np.concatenate([order.epoch(epoch) for epoch in range(20)]).ravel()) == set(range(100))
    np.testing.assert_array_equal(order.step(13)[0], order.epoch(1)[3])


def test_a_split_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"7 examples, fewer than one batch of 64.*train\.batch_size"):
        pipeline.train_order(7, 64, 0)


def dataset(counts):
    return Dataset(
        name="x",
        variant="",
        emotions=("happy", "neutral"),
        image_shape=(48, 48, 1),
        has_intensity=False,
        synthetic=False,
        directory=None,
        splits=counts,
        class_counts={},
        fingerprint="",
    )


def test_an_accelerator_that_does_not_tell_its_memory_is_not_taken_to_have_that_of_its_host():
    silent = SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    assert pipeline.device_memory(silent) == 0
    assert pipeline.device_memory(SimpleNamespace(platform="tpu", memory_stats=lambda: {"bytes_limit": 5})) == 5
    assert pipeline.device_memory(jax.devices()[0]) > 1e8


def test_residence_is_chosen_by_size_unless_it_is_asked_for(mesh, monkeypatch):
    monkeypatch.setattr(pipeline, "device_memory", lambda device: 10_000_000)
    assert pipeline.choose_residence("auto", dataset({"train": 1000}), mesh) == "device"
    assert pipeline.choose_residence("auto", dataset({"train": 1000, "test": 1000}), mesh) == "stream"
    assert pipeline.choose_residence("device", dataset({"train": 9000}), mesh) == "device"
    assert pipeline.choose_residence("stream", dataset({"train": 10}), mesh) == "stream"
    tpu = SimpleNamespace(local_devices=[SimpleNamespace(platform="tpu")])
    assert pipeline.choose_residence("auto", dataset({"train": 600}), tpu) == "device"
    assert pipeline.choose_residence("auto", dataset({"train": 1000}), tpu) == "stream"


@pytest.mark.parametrize("residence", [0, 1])
def test_normalisation_equals_numpy_over_the_training_split_alone(mesh, residence, tmp_path):
    arrays = noise_arrays(75, shape=(24, 24, 3))
    split = both(arrays, mesh, tmp_path)[residence]
    images = arrays["image"].astype(np.float64)
    per_channel = normalization.compute("per_channel", split, (24, 24, 3), devices=mesh.size)
    np.testing.assert_allclose(per_channel["mean"], images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(1 / per_channel["scale"], images.std((0, 1, 2)), rtol=1e-5)
    mean_image = normalization.compute("mean_image", split, (24, 24, 3), devices=mesh.size)
    np.testing.assert_allclose(mean_image["mean"], images.mean(0), rtol=1e-6)
    np.testing.assert_allclose(mean_image["scale"], 1 / 255)
    normalized = np.asarray(normalization.apply(images.astype(np.float32), per_channel), np.float64)
    np.testing.assert_allclose(np.mean(normalized, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(normalized, (0, 1, 2)), 1, atol=1e-5)


def test_fixed_normalisations_map_to_their_ranges(mesh):
    extremes = np.array([0, 255], np.float32)
    unit = normalization.compute("unit", None, (24, 24, 1), devices=1)
    symmetric = normalization.compute("symmetric", None, (24, 24, 1), devices=1)
    np.testing.assert_allclose(normalization.apply(extremes, unit), [0, 1], atol=1e-6)
    np.testing.assert_allclose(normalization.apply(extremes, symmetric), [-1, 1], atol=1e-6)


def test_each_image_is_standardised_by_itself_whatever_its_light_and_contrast():
    images = np.random.default_rng(0).uniform(40, 120, (3, 24, 24, 3)) + [0, 40, 90]  # the channels differ
    images = images.astype(np.float32)
    images[1] = 0.5 * images[0] + 100
    images[2] = 7
    normalizer = normalization.compute("per_image", None, (24, 24, 3), devices=1)
    normalized = np.asarray(normalization.apply(images, normalizer), np.float64)
    np.testing.assert_allclose(normalized[:2].mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized[:2].std((1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(normalized[1], normalized[0], atol=1e-4)
    assert np.ptp(normalized[0].mean((0, 1))) > 1
    np.testing.assert_array_equal(normalized[2], 0)  # a flat one is not divided by zero
    np.testing.assert_allclose(normalization.apply(images[0], normalizer), normalized[0], atol=1e-6)  # without a batch
    np.testing.assert_allclose(normalization.of_levels(np.array([0, 255]), normalizer), [-2.5, 2.5], atol=1e-6)


def test_the_noise_of_a_face_without_contrast_is_not_enlarged_to_a_face():
    dark = np.random.default_rng(0).integers(0, 3, (1, 24, 24, 1)).astype(np.float32)
    normalizer = normalization.compute("per_image", None, (24, 24, 1), devices=1)
    np.testing.assert_allclose(np.std(normalization.apply(dark, normalizer)), dark.std() / 8, rtol=1e-5)


def test_a_flat_channel_is_not_divided_by_zero(mesh):
    arrays = noise_arrays(16)
    arrays["image"][:] = 7
    split = pipeline.ResidentSplit(arrays, mesh)
    normalizer = normalization.compute("per_channel", split, (48, 48, 1), devices=mesh.size)
    assert np.isfinite(normalizer["scale"]).all()


@pytest.mark.parametrize("kind", ["per_channel", "mean_image"])
def test_normalisation_is_that_of_all_batches_together(mesh, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(normalization, "STATISTICS_BATCH", 2)  # five batches, the last of them incomplete
    arrays = noise_arrays(75, shape=(24, 24, 3))
    arrays["image"] = (arrays["image"] // (1 + np.arange(75) % 3)[:, None, None, None]).astype(np.uint8)
    split, _ = both(arrays, mesh, tmp_path)
    images = arrays["image"].astype(np.float64)
    found = normalization.compute(kind, split, (24, 24, 3), devices=mesh.size)
    np.testing.assert_allclose(found["mean"], images.mean((0, 1, 2) if kind == "per_channel" else 0), rtol=1e-6)
    if kind == "per_channel":
        np.testing.assert_allclose(1 / found["scale"], images.std((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("before", "after", "grey"), [(100, 48, 45), (96, 42, 171), (128, 37, 249), (256, 299, 254)])
def test_a_flat_channel_stays_at_its_own_scale_however_it_is_resized(mesh, before, after, grey):
    arrays = noise_arrays(40, shape=(before, before, 3))
    arrays["image"][..., 0] = grey
    split = pipeline.ResidentSplit(arrays, mesh)
    found = normalization.compute("per_channel", split, (after, after, 3), devices=mesh.size)
    assert found["scale"][0] == pytest.approx(1 / 255)
