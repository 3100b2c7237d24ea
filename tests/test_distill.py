"""Distillation: what a student is to answer, by name, with its teachers asked once."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fer_jax import checkpoint, config, distill, ensemble, heads, recognizer, run
from fer_jax.data import prepare
from fer_jax.data.pipeline import EvalOrder
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013

TEACHER = "mini_xception_fer2013"


@pytest.fixture
def data(tmp_path, cache):
    return write_fer2013(tmp_path / "raw")


def student(**fields) -> ConfigDict:
    taught = {"head.loss": "soft", "distill.teachers": (TEACHER,), "distill.share": 0.75, "train.epochs": 2}
    return config.overridden(tiny_config.get_config(), taught | fields)


def labels_of(asked: ConfigDict, data) -> np.ndarray:
    return distill.soft_labels(prepare.load_configured(asked.data, data), asked)[0]


def altered(path, outputs: list[int], scale: float = 1.0, head: str = "classification") -> str:
    """The teacher with these of its outputs, the whole less sure of itself."""
    weights, metadata = checkpoint.load_weights(TEACHER)
    params = weights["params"]
    weights["params"] = jax.tree.map(lambda leaf: leaf[..., outputs] if leaf.shape[-1] == 7 else leaf, params)
    weights["normalizer"] = jax.tree.map(lambda leaf: leaf * scale, weights["normalizer"])
    if head == "classification":
        metadata["emotions"] = [metadata["emotions"][i] for i in outputs]
    metadata["head"] |= {"name": head}
    checkpoint.save_weights(path, weights, metadata)
    return str(path)


def asked_one_by_one(teacher: str, dataset, kind: str) -> np.ndarray:
    """What it answers on the training images and on their mirror images, the mean of both."""
    net, images = recognizer.load(teacher), np.asarray(dataset.arrays("train")["image"])
    return np.mean([getattr(net.predict(each), kind) for each in (images, images[:, :, ::-1])], axis=0)


def test_a_label_is_the_teachers_mean_answer_and_its_own_in_their_shares(data, tmp_path):
    order = [3, 0, 6, 1, 5, 2, 4]
    other = altered(tmp_path / "other.safetensors", order, scale=0.5)
    asked = student(**{"distill.teachers": (TEACHER, other)})
    dataset = prepare.load_configured(asked.data, data)
    assert dataset.emotions == tuple(recognizer.load(TEACHER).emotions)
    first, second = (asked_one_by_one(each, dataset, "probabilities") for each in (TEACHER, other))
    assert np.abs(first[:, order] - second).max() > 0.05
    mean = (first + second[:, np.argsort(order)]) / 2
    labels = 0.75 * mean + 0.25 * np.eye(7)[dataset.labels("train")]
    shown = [i for i, name in enumerate(dataset.emotions) if name != "neutral"]
    taught = labels_of(asked, data)
    np.testing.assert_allclose(taught, labels[:, shown], atol=1e-6)
    np.testing.assert_allclose(heads.soft_labels(taught, dataset.emotions), labels, atol=1e-6)


def test_the_share_is_that_of_the_label_though_intensities_do_not_sum_to_one(data, tmp_path, monkeypatch):
    """As those of expressed emotions alone, without neutral to take the rest."""
    names = recognizer.load(TEACHER).emotions
    teacher = altered(tmp_path / "teacher.safetensors", [names.index("happy"), names.index("sad")])
    asked = student(**{"data.emotions": ("happy", "sad"), "distill.teachers": (teacher,), "distill.share": 0.5})
    dataset = prepare.load_configured(asked.data, data)
    own = np.tile(np.float32([0.3, 0.0]), (dataset.splits["train"], 1))
    monkeypatch.setattr(type(dataset), "intensities", lambda _self, _split: own)
    mean = (asked_one_by_one(teacher, dataset, "probabilities") + [1, 0]) / 2
    np.testing.assert_allclose(heads.soft_labels(labels_of(asked, data), dataset.emotions), mean, atol=1e-6)


def test_an_intensity_head_is_taught_intensities(data, tmp_path):
    shown = [i for i, name in enumerate(recognizer.load(TEACHER).emotions) if name != "neutral"]
    teacher = altered(tmp_path / "teacher.safetensors", shown, head="intensity")
    asked = student(**{"head.name": "intensity", "distill.teachers": (teacher,), "distill.share": 1.0})
    dataset = prepare.load_configured(asked.data, data)
    expected = asked_one_by_one(teacher, dataset, "intensities")
    np.testing.assert_allclose(labels_of(asked, data), expected, atol=1e-6)


@pytest.mark.parametrize("residence", ["device", "stream"])
def test_only_training_images_are_taught_and_a_teacher_is_asked_once(data, monkeypatch, residence):
    asked = student(**{"data.residence": residence})
    dataset = prepare.load_configured(asked.data, data)
    taught = labels_of(asked, data)

    def again(*_args, **_fields):
        raise AssertionError("asked again")

    monkeypatch.setattr(ensemble, "predict_views", again)
    experiment = run.build(asked, data)
    for name, expected in (("train", taught), ("validation", dataset.intensities("validation"))):
        split = experiment.splits[name]
        order = EvalOrder(split.length, 8)
        batches = list(split.batches(order, 0, order.steps))
        seen = np.concatenate([np.asarray(batch["intensity"])[np.asarray(batch["mask"])] for batch in batches])
        np.testing.assert_array_equal(seen, expected)


def test_without_a_share_the_labels_are_those_of_the_data(data):
    asked = student(**{"distill.share": 0.0, "data.folds": 2, "data.fold_by": "image"})
    dataset = prepare.load_configured(asked.data, data)
    np.testing.assert_array_equal(labels_of(asked, data), dataset.arrays("train")["intensity"])


def test_a_run_does_not_go_on_with_other_teachers_under_the_same_name(data, tmp_path):
    teacher = altered(tmp_path / "teacher.safetensors", list(range(7)))
    asked = student(**{"distill.teachers": (teacher,), "train.epochs": 1})
    results = run.run(asked, tmp_path / "run", data_dir=data)
    assert run.run(asked, tmp_path / "run", data_dir=data)["metrics"] == results["metrics"]
    altered(tmp_path / "teacher.safetensors", list(range(7)), scale=0.5)
    with pytest.raises(UserError, match=r"was trained on other data .*-taught-.* or the data and teachers it was"):
        run.run(asked, tmp_path / "run", data_dir=data)


def test_a_teacher_of_the_same_data_is_known_and_another_is_told(data, tmp_path, caplog):
    alone = config.overridden(tiny_config.get_config(), {"train.epochs": 1})
    run.run(alone, tmp_path / "teacher", data_dir=data)
    told = "was trained on other data, or does not say on which"
    for teacher, expected in ((str(tmp_path / "teacher"), 0), (TEACHER, 1)):
        caplog.clear()
        asked = student(**{"distill.teachers": (teacher,)})
        labels_of(asked, data)
        assert caplog.text.count(told) == expected


def test_what_cannot_teach_is_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"set head.loss = 'soft'"):
        config.validate(student(**{"head.loss": "softmax"}))
    with pytest.raises(UserError, match=r"distill.share = 1.5 must lie in 0..1"):
        config.validate(student(**{"distill.share": 1.5}))
    with pytest.raises(UserError, match="there are no weights at nowhere"):
        run.build(student(**{"distill.teachers": ("nowhere",)}), data)
    with pytest.raises(UserError, match=r"distill.teachers = \(1,\) must be names, e.g. \('runs/a', 'runs/b'\)"):
        config.validate(student(**{"distill.teachers": (1,)}))
    few = student(**{"data.emotions": ("happy", "sad"), "train.batch_size": 16})
    with pytest.raises(UserError, match="the data happy, sad: a teacher must know the same emotions"):
        run.build(few, data)
    weights, metadata = checkpoint.load_weights(TEACHER)
    weights["params"] = jax.tree.map(lambda leaf: leaf * np.nan, weights["params"])
    checkpoint.save_weights(tmp_path / "broken.safetensors", weights, metadata)
    with pytest.raises(UserError, match=r"outputs of .*broken.safetensors are not finite for 70 images"):
        run.build(student(**{"distill.teachers": (str(tmp_path / "broken.safetensors"),)}), data)
