"""Knowledge distillation: what the teachers see is in the targets, for the right images, and what they know is told."""

import dataclasses
import json
import logging
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import checkpoint, distill, heads, recognizer, run
from fer_jax.data import combine, prepare
from fer_jax.data.dataset import Pick, select
from fer_jax.data.emotions import BASIC7, CANONICAL
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


def targets(dataset, names, share=1.0):
    found = distill.find_teachers(list(map(str, names)), dataset, align="")
    intensity = distill.intensities(dataset, found, share)
    assert intensity.dtype == np.float32
    return np.asarray(heads.soft_labels(jnp.asarray(intensity), dataset.emotions))


def test_the_targets_are_the_mean_of_what_the_teachers_see_in_the_image_and_its_mirror_image(teachers, monkeypatch):
    workdirs, raw = teachers
    monkeypatch.setattr(distill, "_AT_ONCE", 50)  # of 112
    dataset = prepare.load("fer2013", data_dir=raw)
    arrays = dataset.arrays("train")
    seen = [
        net.predict(images).probabilities
        for net in map(recognizer.load, workdirs)
        for images in (arrays["image"], arrays["image"][:, :, ::-1])
    ]
    mean, own = np.mean(seen, 0), np.eye(7)[arrays["label"]]
    for share in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(targets(dataset, workdirs, share), (1 - share) * own + share * mean, atol=1e-5)


def test_emotions_are_matched_by_name(teachers, tmp_path):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    names = ("happy", "neutral", "sad", "angry", "disgust", "fear", "surprise")
    variables, metadata = checkpoint.load_weights(workdirs[0])
    checkpoint.save_weights(tmp_path / "other.safetensors", variables, metadata | {"emotions": names})
    plain, other = (targets(dataset, [path]) for path in (workdirs[0], tmp_path / "other.safetensors"))
    for place, name in enumerate(names):  # the teacher's outputs are the same, under other names
        np.testing.assert_allclose(other[:, dataset.emotions.index(name)], plain[:, place], atol=1e-5)


@pytest.mark.parametrize("emotions", [CANONICAL, BASIC7, ("happy", "sad")])
def test_teachers_and_votes_share_the_target_for_any_emotions(emotions, monkeypatch):
    """Neutral may be none of them, or not the last; a face without votes for any has its label in their place."""
    count = len(emotions)
    rng = np.random.default_rng(0)
    votes, answers = rng.dirichlet(np.ones(count), (2, 5)).astype(np.float32)
    votes[4] = 0
    labels = np.array([0, 1, 0, 1, 1])
    shown = [i for i, name in enumerate(emotions) if name != "neutral"]
    own = {"intensities": lambda split: votes[:, shown], "labels": lambda split: labels}
    monkeypatch.setattr(distill, "_answers", lambda dataset, teacher: answers)
    dataset = SimpleNamespace(emotions=emotions, **own)
    intensity = distill.intensities(dataset, [None], 0.25)
    votes[4, emotions.index("neutral") if "neutral" in emotions else labels[4]] = 1
    soft = heads.soft_labels(jnp.asarray(intensity), emotions)
    np.testing.assert_allclose(soft, 0.75 * votes + 0.25 * answers, atol=1e-6)


@pytest.mark.parametrize("selection", ["exclude", "limit", "folds"])
def test_each_image_has_its_own_target_whatever_is_left_out(teachers, tmp_path, selection):
    workdirs, raw = teachers
    fields = {"limit": {"data.limit": 50}, "folds": {"data.folds": 2, "data.fold_by": "image"}}.get(selection)
    dataset = prepare.load("fer2013", data_dir=raw)
    if selection == "exclude":
        exclude = {"train": [3, 5, 40], "validation": [0], "test": []}
        clean = {"dataset": "fer2013", "fingerprint": dataset.fingerprint, "exclude": exclude}
        (tmp_path / "clean.json").write_text(json.dumps(clean))
        fields = {"data.exclude": str(tmp_path / "clean.json")}
    experiment = run.build(student(workdirs[:1], **fields, **{"head.teacher_share": 1.0}), str(raw))
    arrays = jax.device_get(experiment.splits["train"].arrays)
    assert len(arrays["label"]) < 112
    net = recognizer.load(workdirs[0])
    both = (net.predict(images).probabilities for images in (arrays["image"], arrays["image"][:, :, ::-1]))
    np.testing.assert_allclose(arrays["intensity"], np.mean(list(both), 0)[:, :6], atol=1e-5)
    held_out = jax.device_get(experiment.splits["validation"].arrays)
    np.testing.assert_array_equal(held_out["intensity"], np.eye(7)[held_out["label"]][:, :6])  # nothing is taught there


def test_a_student_learns_alike_in_each_residence_and_its_teachers_are_asked_once(teachers, tmp_path, monkeypatch):
    workdirs, raw = teachers
    rows = []
    for residence, workers in (("device", 0), ("stream", 0), ("stream", 1)):
        workdir = tmp_path / f"{residence}{workers}"
        fields = {"data.residence": residence, "data.workers": workers}
        run.run(student(workdirs, **fields), workdir, data_dir=str(raw))
        rows.append((workdir / "metrics.jsonl").read_bytes())
        # Now their answers are in the cache.
        monkeypatch.setattr(distill, "_ask", lambda dataset, teacher: pytest.fail(f"{teacher.name} is asked again"))
    run.run(student(()), tmp_path / "alone", data_dir=str(raw))
    assert rows[0] == rows[1] == rows[2]
    assert rows[0] != (tmp_path / "alone/metrics.jsonl").read_bytes()


def test_teachers_are_asked_again_when_their_weights_or_the_images_change(teachers, tmp_path):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    variables, metadata = checkpoint.load_weights(workdirs[0])
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, variables, metadata)
    before = targets(dataset, [path])
    # Not to the last bit: the images have moved to other rows of the batches, which XLA may add up in another order.
    fewer = targets(dataset.without({"train": np.arange(30)}), [path])
    np.testing.assert_allclose(fewer, before[30:], rtol=1e-5)
    checkpoint.save_weights(path, jax.tree.map(np.zeros_like, variables), metadata)
    np.testing.assert_allclose(targets(dataset, [path]), 1 / 7, rtol=1e-6)


def test_a_run_does_not_go_on_with_teachers_that_have_changed(teachers, tmp_path):
    workdirs, raw = teachers
    variables, metadata = checkpoint.load_weights(workdirs[0])
    path = tmp_path / "weights.safetensors"
    checkpoint.save_weights(path, variables, metadata)
    run.fit(run.build(student([path]), str(raw)), tmp_path / "run", started=0.0)
    run.fit(run.build(student([path]), str(raw)), tmp_path / "run", started=0.0)
    checkpoint.save_weights(path, jax.tree.map(np.zeros_like, variables), metadata)
    with pytest.raises(UserError, match="choose another --workdir, or the data and teachers it was trained with"):
        run.fit(run.build(student([path]), str(raw)), tmp_path / "run", started=0.0)


def test_teachers_that_cannot_teach_are_refused_with_a_reason(teachers, tmp_path, monkeypatch):
    workdirs, raw = teachers
    with pytest.raises(UserError, match="there are no weights at nowhere"):  # before the data are looked for
        run.build(student(["nowhere"]), str(tmp_path / "nor data"))
    with pytest.raises(UserError, match=r"head\.teachers is of .* head\.loss = 'soft' alone: set it to \(\)"):
        run.build(student(workdirs, **{"head.loss": "softmax"}), str(raw))
    for wrong in ((1,), ("",)):
        with pytest.raises(UserError, match=r"head\.teachers = .* must be names of runs or weights files"):
            run.build(student((), **{"head.teachers": wrong}), str(raw))
    few = student(workdirs, **{"data.emotions": ("happy", "sad")})
    with pytest.raises(UserError, match=rf"network of {workdirs[0]} knows angry, .*, the images show happy, sad"):
        run.build(few, str(raw))
    with monkeypatch.context() as patch:
        (tmp_path / "file").write_text("")
        patch.setattr(distill, "cache_directory", lambda: tmp_path / "file")
        with pytest.raises(UserError, match=r"cannot write to .*teachers .*set FER_JAX_CACHE"):
            run.build(student(workdirs), str(raw))


def edit(run, copy, results=None, **config):
    """A copy of a run with other results and fields of its config."""
    shutil.copytree(run, copy)
    before = json.loads((copy / "config.json").read_text())
    for part, fields in config.items():
        before[part] |= fields
    (copy / "config.json").write_text(json.dumps(before))
    (copy / "results.json").write_text(json.dumps(json.loads((copy / "results.json").read_text()) | (results or {})))
    return copy


def doubts(name, dataset):
    (teacher,) = distill.find_teachers([str(name)], dataset, align="")
    return list(teacher.doubts)


def test_a_teacher_that_was_trained_on_what_the_student_is_scored_on_is_told(teachers, tmp_path, monkeypatch, caplog):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    assert doubts(workdirs[0], dataset) == []  # on the same images as the student
    moved = {
        "train": (Pick(dataset, "train", np.arange(1, 112)),),
        # Of these the teacher was trained on the last two, and the student is trained on the last one itself.
        "validation": (Pick(dataset, "validation"), Pick(dataset, "train", np.arange(2))),
    }
    with caplog.at_level(logging.WARNING):
        told = f"{workdirs[0]} was trained on 1 of the 23 images of validation"
        assert doubts(workdirs[0], select(dataset, moved)) == [told]
    assert f"scores may be too high: {told}" in caplog.text
    unknown = "was trained on held-out images is not known"
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / "empty"))
    assert doubts(workdirs[0], select(dataset, moved)) == [f"whether {workdirs[0]} {unknown}, its data are not at hand"]
    monkeypatch.undo()
    for change, count in (({"synthetic": True}, 0), ({"fingerprint": "of other data"}, 1)):
        edited = edit(workdirs[0], tmp_path / next(iter(change)), results=change)
        found = doubts(edited, select(dataset, moved))
        assert [doubt.partition(unknown)[2] for doubt in found] == [", its data are not at hand"] * count
    bundled = "mini_xception_fer2013"
    assert doubts(bundled, dataset) == [f"whether {bundled} {unknown}, it is no finished run"]


def test_a_teacher_that_left_images_out_is_not_said_to_know_them(teachers, tmp_path):
    _, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    exclude = {"train": [0], "validation": [], "test": []}
    clean = {"dataset": "fer2013", "fingerprint": dataset.fingerprint, "exclude": exclude}
    (tmp_path / "clean.json").write_text(json.dumps(clean))
    run.run(student((), **{"data.exclude": str(tmp_path / "clean.json")}), tmp_path / "teacher", data_dir=str(raw))
    images = {"train": (Pick(dataset, "train", np.arange(2, 112)),)}
    for held_out, told in (([0], 0), ([0, 1], 1)):
        picks = images | {"validation": (Pick(dataset, "train", np.array(held_out)),)}
        assert len(doubts(tmp_path / "teacher", select(dataset, picks))) == told


def test_what_a_teacher_has_learnt_from_itself_is_told_too(teachers, tmp_path):
    _, raw = teachers
    run.run(student(["mini_xception_fer2013"]), tmp_path / "pupil", data_dir=str(raw))
    dataset = prepare.load("fer2013", data_dir=raw)
    found = doubts(tmp_path / "pupil", dataset)
    assert [doubt.split(" was ")[0] for doubt in found] == ["whether mini_xception_fer2013"]
    (teacher,) = json.loads((tmp_path / "pupil/results.json").read_text())["teachers"]
    assert (teacher["name"], teacher["doubts"]) == ("mini_xception_fer2013", found)
    began = edit(tmp_path / "pupil", tmp_path / "began", model={"pretrained": "mini_xception_ferplus_intensity"})
    assert len(doubts(began, dataset)) == 2
    given, metadata = checkpoint.load_weights("mini_xception_fer2013")
    elsewhere = tmp_path / "imagenet.safetensors"  # trained on no faces: they name no emotions
    checkpoint.save_weights(elsewhere, given, metadata | {"emotions": None})
    began = edit(tmp_path / "pupil", tmp_path / "began_elsewhere", model={"pretrained": str(elsewhere)})
    assert doubts(began, dataset) == found
    again = edit(tmp_path / "pupil", tmp_path / "again", head={"teachers": [str(tmp_path / "again")]})
    assert [doubt.rpartition(", ")[2] for doubt in doubts(again, dataset)] == ["it is gone"]


def test_what_a_run_begins_with_is_told_as_a_teacher_is(teachers, tmp_path, caplog):
    """A network trained on all images, and then folds of them, of which it holds none out."""
    workdirs, raw = teachers
    fields = {"data.folds": 2, "data.fold_by": "image", "model.pretrained": str(workdirs[0])}
    found = run.run(student((), **fields), tmp_path / "run", data_dir=str(raw))["began_with"]
    (doubt,) = found["doubts"]
    assert doubt.startswith(f"{workdirs[0]} was trained on ")
    assert doubt.endswith("images of validation")
    assert f"model.pretrained: scores may be too high: {doubt}" in caplog.text
    assert found["weights"] == checkpoint.digest_of_weights(workdirs[0])


def test_a_teacher_of_faces_that_were_aligned_otherwise_is_told(teachers, caplog):
    workdirs, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    with caplog.at_level(logging.WARNING):
        distill.find_teachers([str(workdirs[0])], dataset, align="")
        assert not caplog.text
        distill.find_teachers([str(workdirs[0])], dataset, align="landmarks")
    assert "was trained on faces that were not aligned, these are aligned by the method landmarks" in caplog.text


def test_intensities_are_read_without_their_images(teachers):
    _, raw = teachers
    dataset = prepare.load("fer2013", data_dir=raw)
    few = combine.restrict(dataset, ("happy", "sad"))
    scored = dataclasses.replace(few, name="scored", fingerprint="another", has_intensity=True)
    joined = combine.combine("joined", {"train": [(dataset, ("train",))], "test": [(scored, ("validation",))]})
    for each in (dataset, combine.limit(dataset, 30), few, joined):
        for split in each.splits:
            np.testing.assert_array_equal(each.intensities(split), each.arrays(split)["intensity"])
