"""Knowledge distillation: what the teachers see is in the targets, the same in each residence, and asked once."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import checkpoint, distill, heads, recognizer, report, report_compare, run
from fer_jax.data import prepare
from fer_jax.errors import UserError
from tests import tiny_config
from tests.finished import finished_runs


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """(directories of two finished runs, raw data); their cache is in use."""
    with finished_runs(tmp_path_factory.mktemp("teachers"), epochs=2, seeds=(0, 1)) as found:
        yield found


def student(teachers, **fields):
    config = tiny_config.get_config()
    given = {"train.epochs": 1, "train.batch_size": 16, "eval.batch_size": 16, "head.loss": "soft"}
    with config.unlocked():
        config.update_from_flattened_dict(given | {"head.teachers": tuple(map(str, teachers))} | fields)
    return config


def test_the_targets_are_the_mean_of_what_the_teachers_see_in_the_image_and_its_mirror_image(teachers):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    arrays = dataset.arrays("train")
    seen = []
    for net in map(recognizer.load, workdirs):
        for images in (arrays["image"], arrays["image"][:, :, ::-1]):
            seen.append(net.predict(images).probabilities)
    mean, own = np.mean(seen, 0), np.eye(7)[arrays["label"]]
    for share in (0.0, 0.25, 1.0):
        intensity = distill.intensities(dataset, [str(workdir) for workdir in workdirs], share)
        assert intensity.shape == (112, 6)
        assert intensity.dtype == np.float32
        targets = heads.soft_labels(jnp.asarray(intensity), dataset.emotions)
        np.testing.assert_allclose(targets, (1 - share) * own + share * mean, atol=1e-5)


def test_a_student_learns_from_teachers_alike_in_each_residence_and_asks_them_once(teachers, tmp_path, monkeypatch):
    workdirs, raw = teachers
    rows = []
    for residence in ("device", "stream"):
        run.run(student(workdirs, **{"data.residence": residence}), tmp_path / residence, data_dir=str(raw))
        rows.append((tmp_path / residence / "metrics.jsonl").read_bytes())
        # Now their answers are in the cache.
        monkeypatch.setattr(distill.recognizer, "load", lambda teacher: pytest.fail(f"{teacher} is asked again"))
    run.run(student(()), tmp_path / "alone", data_dir=str(raw))
    assert rows[0] == rows[1]
    assert rows[0] != (tmp_path / "alone/metrics.jsonl").read_bytes()


def test_teachers_are_asked_again_when_their_weights_or_the_images_change(teachers, tmp_path):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    variables, metadata = checkpoint.load_weights(workdirs[0])
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, variables, metadata)
    before = distill.intensities(dataset, [str(path)], 1.0)
    fewer = dataset.without({"train": np.arange(30)})
    np.testing.assert_array_equal(distill.intensities(fewer, [str(path)], 1.0), before[30:])
    checkpoint.save_weights(path, jax.tree.map(np.zeros_like, variables), metadata)
    np.testing.assert_allclose(distill.intensities(dataset, [str(path)], 1.0), 1 / 7, rtol=1e-6)


def test_teachers_that_cannot_teach_are_refused_with_a_reason(teachers, tmp_path):
    workdirs, raw = teachers
    with pytest.raises(UserError, match="there are no weights at nowhere"):  # before the data are looked for
        run.build(student(["nowhere"]), str(tmp_path / "nor data"))
    with pytest.raises(UserError, match=r"head\.teachers is of .* head\.loss = 'soft' alone: set it to \(\)"):
        run.build(student(workdirs, **{"head.loss": "softmax"}), str(raw))
    few = student(workdirs, **{"data.emotions": ("happy", "sad")})
    with pytest.raises(UserError, match=rf"network of {workdirs[0]} knows angry, .*, the images show happy, sad"):
        run.build(few, str(raw))


def test_a_teacher_that_was_trained_on_what_the_student_is_scored_on_is_told(teachers, tmp_path, caplog):
    workdirs, raw = teachers
    folds = {"data.folds": 2, "data.fold_by": "image"}
    other = student((), **folds, **{"data.fold": 1, "head.loss": "softmax"})
    run.run(other, tmp_path / "other", data_dir=str(raw))
    with caplog.at_level(logging.WARNING):
        run.build(student(workdirs), str(raw))
        assert "teachers" not in caplog.text  # on the same images as the student
        run.build(student([tmp_path / "other"], **folds), str(raw))
        assert f"{tmp_path}/other was trained on 56 of the 56 images of validation" in caplog.text
        caplog.clear()
        run.build(student(["mini_xception_fer2013"]), str(raw))
        assert "whether mini_xception_fer2013 was trained on held-out images is not known" in caplog.text


def test_a_report_names_the_teachers(teachers, tmp_path):
    workdirs, raw = teachers
    run.run(student(workdirs), tmp_path / "student", data_dir=str(raw))
    asked = report.ask(tmp_path / "student", data_dir=raw)
    found = report.findings(asked)
    assert found["teachers"] == [str(workdir) for workdir in workdirs]
    (header, rows), *_ = report_compare.compare([asked], [found])
    assert f"(taught by {workdirs[0]}, {workdirs[1]})" in rows[0][header.index("selected on")]
