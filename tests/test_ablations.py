"""The papers' ablations: their configs, their quick sizes, and what they ask of the data: limits, folds, alignment."""

import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import models, run, run_directory, sweep_members
from fer_jax.data import align, align_dataset, combine, crops, detect, prepare
from fer_jax.data.datasets.kdef import CODES
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import photograph, write_fer2013

ROOT = Path(__file__).parents[1]
ABLATIONS = sorted((ROOT / "configs/ablations").glob("*.py"))


# --- The configs.


@functools.cache
def planned(path, *, quick=False):
    config = importlib.import_module(f"configs.ablations.{path.stem}").get_config()
    overrides, members = sweep_members.declared(path, quick=quick)
    return sweep_members.members(config_lib.overridden(config, overrides), [members])


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_member_is_a_valid_config_whose_model_can_be_made(path, quick):
    found = planned(path, quick=quick)
    assert len({member.cell for member in found}) >= 2
    for config in {json.dumps(member.config.model.to_dict()): member.config for member in found}.values():
        options = config_lib.model_options(config)
        model = models.create(config.model.name, num_outputs=7, dtype=jnp.float32, **options)
        images = jax.ShapeDtypeStruct((2, *config.model.input_shape), jnp.float32)
        init = functools.partial(model.init_with_output, train=False)
        logits, _ = jax.eval_shape(init, jax.random.key(0), images)
        assert logits.shape == (2, 7)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_the_quick_members_are_those_of_the_sweep_made_smaller(path):
    full, quick = planned(path), planned(path, quick=True)
    assert len(quick) <= len(full)
    assert {field for member in quick for field in member.overrides} == {
        field for member in full for field in member.overrides
    }
    for member in quick:
        assert 0 < member.config.data.limit <= 2000
        assert member.config.train.epochs <= 3
        assert member.config.model.input_shape[0] <= 64


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_says_where_it_comes_from_and_how_to_run_it(path):
    docstring = importlib.import_module(f"configs.ablations.{path.stem}").__doc__
    assert "Paper: " in docstring
    assert f"--config=configs/ablations/{path.name}" in docstring
    assert "--quick" in docstring


def test_the_ablations_of_the_issue_are_there():
    def values(name, field):
        found = [member.overrides for member in planned(ROOT / f"configs/ablations/{name}.py")]
        return {overrides[field] for overrides in found if field in overrides}

    assert values("xu_alignment", "data.align") == {"none", "rotation", "landmarks"}
    assert values("xu_networks", "model.name") == {"vggs", "vggs_small"}
    assert values("xu", "augment.variant") and values("xu", "augment.blur") and values("xu", "augment.brightness")
    assert values("lviv", "model.options.global_pool") == values("lviv", "model.options.separable") == {False, True}
    assert values("lviv", "optim.name") == {"sgd", "rmsprop", "adagrad"}  # beside the config's adam
    assert values("cmu", "model.name") == {"baseline5", "resnet18"}
    assert values("cmu", "head.class_weights") == {"none", "inverse"}
    assert values("cmu", "data.sampling") == {"balanced"}
    assert values("stanford", "model.name") == {"shallow", "deep", "deep5", "deep6", "shallow_hog", "deep_hog"}
    # Each hybrid beside the same net on the same input.
    others = [member.overrides for member in planned(ROOT / "configs/ablations/stanford.py")]
    others = {each["model.name"] for each in others if each.get("data.normalization") == "per_channel"}
    assert others == {"shallow", "shallow_hog", "deep", "deep_hog"}
    assert values("stanford", "optim.weight_decay") == {0.0}
    for name in ("stanford_table1", "stanford_table2"):
        for field in ("optim.learning_rate", "optim.weight_decay", "model.options.hidden"):
            assert len(values(name, field)) >= 3
        assert values(name, "data.fold") == {0, 1, 2}


# --- A part of the training images.


@pytest.fixture
def fer2013(tmp_path, cache):
    """140 training images with few of one emotion, 21 for validation and for testing each; where the raw file lies."""
    path = write_fer2013(tmp_path / "raw", train=140) / "fer2013.csv"
    rows = path.read_text().splitlines()
    rare = [row for row in rows if row.startswith("1,") and row.endswith(",Training")]
    path.write_text("\n".join(row for row in rows if row not in rare[5:]) + "\n")
    return path.parent


def asked(fer2013, **fields):
    data = config_lib.default_config().data
    data.update({"name": "fer2013", **fields})
    return combine.load(data, fer2013)


def index(dataset, split="train"):
    return set(dataset.picks[split][0].index.tolist())


def test_a_limit_keeps_the_shares_of_the_emotions_and_the_other_splits(fer2013):
    whole, part = asked(fer2013), asked(fer2013, limit=50)
    assert whole.class_counts["train"] == (20, 5, 20, 20, 20, 20, 20)
    assert part.splits == {"train": 50, "validation": 21, "test": 21}
    assert part.class_counts["train"] == (8, 2, 8, 8, 8, 8, 8)
    np.testing.assert_array_equal(part.arrays("train")["image"], whole.arrays("train")["image"][sorted(index(part))])
    np.testing.assert_array_equal(part.arrays("validation")["image"], whole.arrays("validation")["image"])


def test_a_limit_is_the_same_choice_each_time_and_grows_by_adding(fer2013):
    first, again = asked(fer2013, limit=50), asked(fer2013, limit=50)
    assert index(first) == index(again)
    assert first.fingerprint == again.fingerprint
    nested = [asked(fer2013, limit=most) for most in (10, 20, 50, 124)]
    for smaller, larger in itertools.pairwise(nested):
        assert index(smaller) < index(larger)
    assert len({dataset.fingerprint for dataset in nested}) == 4
    assert asked(fer2013, limit=125).fingerprint == asked(fer2013).fingerprint  # all there are


def test_a_limit_belongs_to_what_a_run_is_claimed_for_and_resumes(fer2013, tmp_path):
    config = config_lib.overridden(
        tiny_config.get_config(),
        {"data.limit": 50, "train.epochs": 2, "train.batch_size": 16, "eval.batch_size": 16},
    )
    experiment = run.build(config, str(fer2013))
    assert experiment.order.length == 50
    run_directory.claim_workdir(tmp_path / "run", config)
    run.fit(experiment, tmp_path / "run", started=0, until=experiment.order.steps_per_epoch)
    state, course = run.fit(experiment, tmp_path / "run", started=0)
    assert course.step == experiment.total_steps
    run_directory.claim_workdir(tmp_path / "whole", config)
    whole, _ = run.fit(experiment, tmp_path / "whole", started=0)
    jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)
    with pytest.raises(UserError, match=r"data\.limit: 50 -> 60"):
        run_directory.claim_workdir(tmp_path / "run", config_lib.overridden(config, {"data.limit": 60}))


# --- Folds of data that do not tell who is shown.


def test_folds_by_image_divide_the_training_split_alone_each_emotion_alike(fer2013):
    folds = [asked(fer2013, folds=4, fold=number, fold_by="image") for number in range(4)]
    for dataset in folds:
        assert list(dataset.splits) == ["train", "validation"]  # no test: it stays for what is chosen
        assert index(dataset) | index(dataset, "validation") == set(range(125))
        assert not index(dataset) & index(dataset, "validation")
        assert dataset.class_counts["validation"][0] == 5
        assert 1 <= dataset.class_counts["validation"][1] <= 2
    assert set.union(*(index(dataset, "validation") for dataset in folds)) == set(range(125))
    assert len({dataset.fingerprint for dataset in folds}) == 4
    limited = asked(fer2013, folds=2, fold=1, fold_by="image", limit=50)
    assert sum(limited.splits.values()) == 50


def test_folds_by_image_need_enough_images(fer2013):
    with pytest.raises(UserError, match=r"6 folds of the 5 training images of disgust in fer2013: lower data\.folds"):
        asked(fer2013, folds=6, fold_by="image")
    with pytest.raises(UserError, match=r"data\.fold_by = 'image'"):
        asked(fer2013, folds=2)


# --- Alignment.


@pytest.fixture
def kdef(tmp_path, cache):
    """Photographs of turned faces in KDEF's layout; one whose landmarks are of no face, one damaged."""
    root = tmp_path / "kdef"
    for subject in range(5):
        folder = root / f"AF{subject + 1:02}"
        folder.mkdir(parents=True)
        for number, code in enumerate(CODES):
            image, landmarks = photograph(subject, 8 * number - 24)
            name = folder / f"{folder.name}{code}S"
            cv2.imwrite(f"{name}.JPG", image[..., ::-1])
            (folder / f"{name.name}.pts").write_text("".join(f"{x} {y}\n" for x, y in landmarks + 1))
    (root / "AF05/AF05SAS.pts").write_text("7 7\n" * 68)
    (root / "AF04/AF04SAS.JPG").write_bytes(b"\xff\xd8 damaged")
    return root


def by_source(dataset):
    found = (example for split in dataset.splits for example in dataset.source(split))
    return {example["source"].decode(): example["image"] for example in found}


def test_one_sweep_prepares_every_alignment_and_drops_no_image_in_silence(kdef, tmp_path, caplog):
    caplog.set_level("INFO", logger="fer_jax")
    config = config_lib.overridden(tiny_config.get_config("kdef"), {"train.batch_size": 8})
    found = sweep_members.members(config, [config_lib.product(data__align=("", *crops.METHODS))])
    sweep_members.check(found, str(kdef))
    plain, *aligned = (combine.load(member.config.data, kdef) for member in found)
    images = {method: by_source(dataset) for method, dataset in zip(crops.METHODS, aligned, strict=True)}
    assert len({dataset.fingerprint for dataset in [plain, *aligned]}) == 4
    assert {dataset.name for dataset in aligned} == {"kdef"}
    for method, of_method in images.items():
        assert of_method.keys() == by_source(plain).keys()
        assert len(of_method) == 34  # the damaged one cannot be read, aligned or not
        face = detect.Face.from_landmarks(detect.Supplied(kdef)(Path("AF01/AF01AFS.JPG"))[0].landmarks)
        photo = cv2.imread(str(kdef / "AF01/AF01AFS.JPG"))[..., ::-1]
        expected = crops.align(photo, face, method=method).astype(int)
        # Detections keep places to a thousandth of a pixel.
        assert np.abs(of_method["AF01/AF01AFS.JPG"] - expected).mean() < 0.5
        # No crop can be had of this one by any method: it stays as it is without alignment.
        np.testing.assert_array_equal(of_method["AF05/AF05SAS.JPG"], by_source(plain)["AF05/AF05SAS.JPG"])
    record = json.loads((aligned[0].directory / "prepared.json").read_text())
    assert sorted(path for path, _ in record["unaligned"]) == ["AF04/AF04SAS.JPG", "AF05/AF05SAS.JPG"]
    assert "data: not aligned: AF05/AF05SAS.JPG: no crop, the landmarks span no rectangle" in caplog.text
    assert [Path(path).name for path, _ in record["quarantined"]] == ["AF04SAS.JPG"]
    assert "2 photographs stay unaligned" in caplog.text
    # All methods share the detections.
    assert len(list((tmp_path / "cache/aligned").glob("*/detections.jsonl"))) == 1


def test_an_alignment_cut_short_goes_on(kdef, tmp_path, monkeypatch):
    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.load("kdef", align="rotation", data_dir=kdef)
    detections = next((tmp_path / "cache/aligned").glob("*/detections.jsonl"))
    content = detections.read_text()
    assert len(content.splitlines()) == 35
    dataset = prepare.load("kdef", align="rotation", data_dir=kdef)
    assert sum(dataset.splits.values()) == 34
    assert detections.read_text().splitlines()[:34] == content.splitlines()[:34]


def test_a_face_that_is_not_the_annotated_one_is_not_taken(kdef, tmp_path):
    from fer_jax.data.datasets.base import Picture

    path = kdef / "AF01/AF01HAS.JPG"
    there, elsewhere = (60.0, 60.0, 200.0, 200.0), (0.0, 0.0, 30.0, 30.0)
    pictures = [Picture(path, "happy", "a", box=there), Picture(path, "happy", "b", box=elsewhere)]
    aligned, reasons = align_dataset.align_pictures(pictures, kdef, tmp_path / "out", "none", landmarks=True, workers=1)
    assert aligned[0].path.name == "AF01HAS.png"
    assert aligned[0].box is None
    assert aligned[1] == pictures[1]
    assert reasons == [("AF01/AF01HAS.JPG", "the face found is not the annotated one")]


def test_what_cannot_be_aligned_is_refused_with_the_reason(fer2013, kdef):
    with pytest.raises(UserError, match=r"fer2013 cannot be aligned: its images are crops .* use one of ckplus"):
        asked(fer2013, align="landmarks")
    with pytest.raises(UserError, match=r"unknown method of alignment 'landmark'\. Did you mean 'landmarks'"):
        prepare.load("kdef", align="landmark", data_dir=kdef)
    with pytest.raises(UserError, match=r"data\.align = 'eyes' is unknown: use one of"):
        config_lib.validate(config_lib.overridden(config_lib.default_config(), {"data.align": "eyes"}))
    for folder, emotion in zip(sorted(kdef.iterdir()), ("happy", "sad", "angry", "fear", "neutral"), strict=True):
        folder.rename(kdef / emotion)
    (kdef / "sad/film.mp4").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"sad/film\.mp4 cannot be aligned, only images can"):
        prepare.load("folder", align="none", data_dir=kdef)


def test_dlib_finds_the_faces_where_no_landmarks_are_given(kdef):
    pytest.importorskip("dlib", reason="dlib is not installed: pip install 'fer_jax[align]'")
    truth = align.Supplied(kdef)(Path("AF02/AF02DIS.JPG"))[0]
    for path in kdef.glob("*/*.pts"):
        path.unlink()
    for path in kdef.glob("AF0[345]"):
        for file in path.iterdir():
            file.unlink()
    dataset = prepare.load("kdef", align="landmarks", data_dir=kdef)
    record = json.loads((dataset.directory / "prepared.json").read_text())
    assert len(record["unaligned"]) <= 3  # of 14 drawn faces
    photo = cv2.imread(str(kdef / "AF02/AF02DIS.JPG"))[..., ::-1]
    expected = crops.align(photo, truth).astype(float)
    assert np.abs(by_source(dataset)["AF02/AF02DIS.JPG"] - expected).mean() < 25


@pytest.mark.slow
def test_the_alignments_are_trained_and_compared_by_one_command(kdef, tmp_path):
    command = [sys.executable, "-m", "fer_jax.sweep", "--config=configs/ablations/xu_alignment.py:kdef", "--quick"]
    command += [f"--data_dir={kdef}", f"--workdir={tmp_path / 'sweep'}", "--config.train.batch_size=8"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    for method in crops.METHODS:
        assert f"| data.align={method} | 1 |" in result.stdout
