"""Metrics against scikit-learn, and their exactness under padding and merging."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from fer_jax import augment, evaluate, heads, metrics, sharding, train
from fer_jax.data import pipeline
from fer_jax.data.emotions import BASIC7
from fer_jax.data.normalization import compute
from tests.faces import noise_arrays

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def batch_of(labels, rng, mask=None):
    count = len(labels)
    return {
        "label": np.asarray(labels, np.int32),
        "intensity": rng.uniform(0, 1, (count, 6)).astype(np.float32),
        "mask": np.ones(count, bool) if mask is None else mask,
    }


def summary_of(logits, batch, *, head=None, has_intensity=True):
    head = head or heads.make_head("classification", SEVEN)
    sums = metrics.batch_sums(head, jnp.asarray(logits), batch, head.loss(jnp.asarray(logits), batch))
    return metrics.summarize(sums, SEVEN, has_intensity=has_intensity), sums


@pytest.mark.parametrize("classes", [range(7), [0, 3, 4], [2]], ids=["all", "some absent", "one"])
def test_scores_equal_scikit_learn(classes):
    rng = np.random.default_rng(len(classes))
    labels = rng.choice(list(classes), 200)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    logits[np.arange(200), labels] += 1
    summary, sums = summary_of(logits, batch_of(labels, rng))
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about absent classes
        assert summary["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
        assert summary["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
        assert summary["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(sums["confusion"], reference.confusion_matrix(labels, predicted, labels=range(7)))
    for i, emotion in enumerate(SEVEN):
        recall = summary[f"accuracy/{emotion}"]
        assert (recall is None) == (i not in classes)
    if len(classes) == 7:
        for name, score in (("accuracy", reference.recall_score), ("f1", reference.f1_score)):
            found = [summary[f"{name}/{emotion}"] for emotion in SEVEN]
            np.testing.assert_allclose(found, score(labels, predicted, average=None))
    assert summary["count"] == 200


def test_the_rmse_is_that_of_the_intensities_and_absent_without_them():
    rng = np.random.default_rng(0)
    head = heads.make_head("intensity", SEVEN)
    logits = rng.normal(size=(50, 6)).astype(np.float32)
    batch = batch_of(rng.integers(0, 7, 50), rng)
    summary, _ = summary_of(logits, batch, head=head)
    error = 1 / (1 + np.exp(-logits)) - batch["intensity"]
    assert summary["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert summary["rmse/happy"] == pytest.approx(np.sqrt((error[:, 3] ** 2).mean()), rel=1e-5)
    assert summary["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert "rmse" not in summary_of(logits, batch, head=head, has_intensity=False)[0]


def test_masked_rows_count_nowhere_even_if_they_hold_rubbish():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 20)
    batch = batch_of(labels, rng)
    mask = np.arange(30) < 20
    padded = {
        "label": np.concatenate([labels, np.full(10, 99)]).astype(np.int32),
        "intensity": np.concatenate([batch["intensity"], np.full((10, 6), np.nan, np.float32)]),
        "mask": mask,
    }
    with_rubbish = np.concatenate([logits, np.full((10, 7), np.nan, np.float32)])
    assert summary_of(with_rubbish, padded)[0] == summary_of(logits, batch)[0]


def test_ignored_labels_count_nowhere():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 7)).astype(np.float32), rng.integers(0, 7, 20)
    batch = batch_of(labels, rng)
    kept = labels != labels[0]
    ignored = batch | {"label": np.where(kept, labels, heads.IGNORE).astype(np.int32)}
    only = {name: value[kept] for name, value in batch.items()}
    for name, value in summary_of(logits, ignored)[0].items():
        expected = summary_of(logits[kept], only)[0][name]
        assert value is expected is None or value == pytest.approx(expected, rel=1e-6), name


def test_nothing_at_all_is_undefined_not_zero():
    rng = np.random.default_rng(0)
    summary, _ = summary_of(np.zeros((4, 7), np.float32), batch_of([0] * 4, rng, mask=np.zeros(4, bool)))
    assert summary["count"] == 0
    assert summary["accuracy"] is None
    assert summary["macro_f1"] is None
    assert summary["rmse"] is None


def test_calibration_of_a_known_case():
    # Ten predictions at confidence 0.75 (bin 11 of 15), of which five are right: off by 0.25.
    logits = np.tile(np.log(np.array([0.75] + [0.25 / 6] * 6, np.float32)), (10, 1))
    summary, _ = summary_of(logits, batch_of([0] * 5 + [1] * 5, np.random.default_rng(0)))
    assert summary["ece"] == pytest.approx(0.25, abs=1e-6)


class Lookup:
    """A stand-in for a network: logits that depend on the image alone."""

    def apply(self, _variables, inputs, *, train):
        assert not train
        return jnp.stack([inputs[:, row, :4].sum((1, 2)) for row in range(7)], -1)


def lookup() -> train.Recipe:
    head = heads.make_head("classification", SEVEN)
    return train.Recipe(Lookup(), head, optimizer=None, schedule=None, input_shape=(48, 48, 1))


@pytest.mark.parametrize("batch_size", [8, 64, 104, 512])
def test_an_evaluation_is_exact_at_any_batch_size_and_device_count(batch_size):
    arrays = noise_arrays(101)
    variables = {"normalizer": compute("unit", None, (48, 48, 1), devices=1)}
    results = []
    for mesh in (sharding.make_mesh(), sharding.make_mesh(jax.devices()[:1])):
        evaluator = evaluate.Evaluator(lookup(), mesh, batch_size=batch_size)
        results.append(evaluator.sums(variables, pipeline.ResidentSplit(arrays, mesh)))
    logits = arrays["image"][:, :7, :4, 0].astype(np.float32).sum(2) / 255
    expected = reference.confusion_matrix(arrays["label"], logits.argmax(1), labels=range(7))
    for sums in results:
        assert sums["count"] == 101
        np.testing.assert_array_equal(sums["confusion"], expected)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_every_image_counts_as_each_of_its_28_variants(batch_size):
    arrays = noise_arrays(19)
    variables = {"normalizer": compute("unit", None, (48, 48, 1), devices=1)}
    evaluator = evaluate.Evaluator(lookup(), sharding.make_mesh(), batch_size=batch_size, variants=0.6)
    sums = evaluator.sums(variables, pipeline.ResidentSplit(arrays, sharding.make_mesh()))
    variants = np.stack([augment.variants(image, strength=0.6) for image in arrays["image"]]).reshape(-1, 48, 48, 1)
    predicted = variants[:, :7, :4, 0].sum(2).argmax(1)
    expected = reference.confusion_matrix(np.repeat(arrays["label"], 28), predicted, labels=range(7))
    assert sums["count"] == 19 * 28
    assert np.abs(sums["confusion"] - expected).sum() <= 2  # a tie that rounding decides


def test_the_loss_of_an_evaluation_is_the_mean_over_what_counts():
    rng = np.random.default_rng(0)
    head, logits = heads.make_head("classification", BASIC7), rng.normal(size=(20, 7)).astype(np.float32)
    labels, mask = rng.integers(0, 7, 20).astype(np.int32), np.arange(20) < 13
    batch = {"label": labels, "mask": mask, "intensity": np.zeros((20, 6), np.float32)}
    losses = head.loss(logits, batch)
    sums = metrics.batch_sums(head, jnp.asarray(logits), batch, losses)
    assert metrics.summarize(sums, BASIC7, has_intensity=False)["loss"] == pytest.approx(float(losses[:13].mean()))
