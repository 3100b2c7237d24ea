"""Selections of prepared data: folds of subjects, data sets joined, some emotions; what is asked for by a config."""

import dataclasses
import importlib.util
import itertools
import json
import pickle
import shutil
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import run, run_directory, sharding
from fer_jax.data import combine, pipeline, prepare
from fer_jax.data.dataset import Selection
from fer_jax.data.emotions import BASIC7, CANONICAL, expressed
from fer_jax.errors import UserError
from tests import miniatures, tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One cache for the whole module: the miniatures are prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder for each part of configs/xu_combined.py, and FER2013."""
    root = tmp_path_factory.mktemp("raw")
    for name in ("mug", "ckplus", "jaffe", "kdef"):
        miniatures.write(name, root / name)
    miniatures.write_csv(root / "mug_manual", rows=12)
    write_fer2013(root / "fer2013")
    return root


@pytest.fixture(scope="module")
def jaffe(data_dir):
    return prepare.load("jaffe", data_dir=data_dir / "jaffe")


def asked(**fields):
    """The fields `data` of a config."""
    config = config_lib.default_config()
    config.data.update(fields)
    config_lib.validate(config)
    return config.data


def examples(dataset, split):
    """The records that a split stands for, one by one, brought to its emotions by name and to its image shape."""
    if not isinstance(dataset, Selection):
        return list(dataset.source(split))
    height, width, _ = dataset.image_shape
    found = []
    for pick in dataset.picks[split]:
        of_split = examples(pick.dataset, pick.split)
        for example in of_split if pick.index is None else [of_split[i] for i in pick.index]:
            name = pick.dataset.emotions[example["label"]]
            shown = dict(zip(expressed(pick.dataset.emotions), example["intensity"], strict=True))
            shown = shown if dataset.has_intensity else {name: 1}
            image = cv2.resize(example["image"], (width, height)).reshape(height, width, -1)
            brought = {
                "image": np.broadcast_to(image, dataset.image_shape),  # grey is repeated
                "label": dataset.emotions.index(name),
                "intensity": np.array([shown.get(other, 0) for other in expressed(dataset.emotions)], np.float32),
            }
            found.append(example | brought)
    return found


def source_of(example):
    return example["source"].decode()


def assert_arrays_and_rows_equal_records(dataset):
    rng = np.random.default_rng(0)
    for split in dataset.splits:
        arrays, found = dataset.arrays(split), examples(dataset, split)
        assert len(found) == dataset.splits[split] == sum(dataset.class_counts[split])
        rows, index = pickle.loads(pickle.dumps(dataset.rows(split))), rng.integers(0, len(found), 50)
        taken = rows.take(index)
        assert len(rows) == len(found)
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.stack([example[name] for example in found]), array)
            assert array.dtype == {"image": np.uint8, "label": np.int32, "intensity": np.float32}[name]
            np.testing.assert_array_equal(taken[name], array[index])
            assert taken[name].dtype == array.dtype
        np.testing.assert_array_equal(dataset.labels(split), arrays["label"])
        counts = np.bincount(arrays["label"], minlength=len(dataset.emotions))
        assert tuple(counts) == dataset.class_counts[split]


# --- Subjects and folds.


def test_subjects_are_those_of_the_examples(jaffe, data_dir):
    for split in jaffe.splits:
        assert jaffe.subjects(split).tolist() == [example["subject"].decode() for example in jaffe.source(split)]
    fer2013 = prepare.load("fer2013", data_dir=data_dir / "fer2013")
    assert fer2013.subjects("train").tolist() == [""] * 70
    with pytest.raises(UserError, match="has no dev split"):
        jaffe.subjects("dev")


def undecoded(dataset, folder):
    """A copy of a data set's records alone."""
    shutil.copytree(dataset.directory, folder, ignore=shutil.ignore_patterns("arrays"))
    return dataclasses.replace(dataset, directory=folder)


def test_labels_and_subjects_are_read_without_the_images(jaffe, tmp_path):
    fresh = undecoded(jaffe, tmp_path / "moved")
    assert (len(fresh.labels("train")), len(fresh.subjects("train"))) == (56, 56)
    assert sorted(path.name for path in (fresh.directory / "arrays").iterdir()) == [
        "train-label.npy",
        "train-subject.npy",
    ]


def test_folds_hold_every_subject_out_once_and_keep_every_image(jaffe):
    held_out, everything = [], sorted(source_of(e) for split in jaffe.splits for e in jaffe.source(split))
    for number in range(3):
        folded = combine.fold(jaffe, 3, number)
        assert_arrays_and_rows_equal_records(folded)
        assert list(folded.splits) == ["train", "validation"]
        inside, outside = (set(folded.subjects(split)) for split in ("validation", "train"))
        assert not inside & outside
        assert len(inside | outside) == 10
        held_out.append(inside)
        sources = [source_of(e) for split in folded.splits for e in examples(folded, split)]
        assert sorted(sources) == everything
    assert sorted(itertools.chain(*held_out)) == sorted({name[:2] for name in everything})
    assert [len(names) for names in held_out] == [4, 3, 3]
    assert len({combine.fold(jaffe, 3, number).fingerprint for number in range(3)} | {jaffe.fingerprint}) == 4


def test_folds_need_subjects_and_enough_of_them(jaffe, data_dir):
    fer2013 = prepare.load("fer2013", data_dir=data_dir / "fer2013")
    with pytest.raises(UserError, match=r"fer2013 does not tell who is shown .*set data\.folds = 0"):
        combine.fold(fer2013, 5, 0)
    with pytest.raises(UserError, match=r"11 folds of 10 subjects"):
        combine.fold(jaffe, 11, 0)


def test_a_config_asks_for_a_fold(jaffe, data_dir, tmp_path):
    folded = combine.load(asked(name="jaffe", folds=5, fold=4), data_dir / "jaffe")
    assert folded.splits == {"train": 56, "validation": 14}
    assert folded.fingerprint == combine.fold(jaffe, 5, 4).fingerprint
    before_folds = {"data": {"name": "jaffe", "variant": ""}}  # of an older run
    (tmp_path / "config.json").write_text(json.dumps(before_folds))
    assert run_directory.dataset(tmp_path, data_dir / "jaffe").fingerprint == jaffe.fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 1}, r"data\.folds = 1 must be 2 or more"),
        ({"folds": -2}, r"data\.folds = -2 must be 2 or more"),
        ({"fold": 1}, r"data\.fold = 1 needs data\.folds"),
        ({"folds": 5, "fold": 5}, r"data\.fold = 5 must lie in 0\.\.4"),
        ({"folds": 5, "fold": -1}, r"data\.fold = -1 must lie in 0\.\.4"),
        ({"folds": 5, "exclude": "clean.json"}, r"data\.exclude lists examples .*not with data\.folds"),
        ({"folds": 5, "train": ({"name": "mug"},)}, r"data\.folds divides one data set"),
        ({"validation": ({"name": "mug"},)}, r"joined by data\.train"),
        ({"train": ({"name": "mug"},), "variant": "intensity"}, r"each with its own variant"),
    ],
)
def test_a_config_that_asks_for_what_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        asked(**fields)


def test_an_experiment_on_a_fold_trains_on_the_others(jaffe, data_dir):
    config = tiny_config.get_config("jaffe")
    with config.unlocked():
        config.data.update({"folds": 2, "fold": 1})
        config.train.batch_size = 32
    experiment = run.build(config, str(data_dir / "jaffe"))
    lengths = {name: split.length for name, split in experiment.splits.items()}
    assert lengths == {"train": 35, "validation": 35}
    assert experiment.dataset.reported_split == "validation"
    np.testing.assert_array_equal(
        experiment.splits["validation"].arrays["label"], combine.fold(jaffe, 2, 1).labels("validation")
    )


# --- Some emotions only.


def test_some_emotions_are_kept_in_canonical_order(data_dir):
    ckplus = prepare.load("ckplus", data_dir=data_dir / "ckplus")
    kept = combine.restrict(ckplus, ("neutral", "contempt", "angry"))
    assert kept.emotions == ("angry", "neutral", "contempt")
    assert_arrays_and_rows_equal_records(kept)
    for split in ckplus.splits:
        names = [ckplus.emotions[label] for label in ckplus.labels(split)]
        expected = [name for name in names if name in kept.emotions]
        assert [kept.emotions[label] for label in kept.labels(split)] == expected
        one_hot = [[name == column for column in expressed(kept.emotions)] for name in expected]
        np.testing.assert_array_equal(kept.arrays(split)["intensity"], np.array(one_hot))


def test_emotions_that_the_data_lack_are_refused(jaffe):
    with pytest.raises(UserError, match=r"unknown emotion 'contempt'.*Known: angry"):
        combine.restrict(jaffe, ("happy", "contempt"))
    with pytest.raises(UserError, match=r"at least two emotions"):
        combine.restrict(jaffe, ("happy",))


# --- Several data sets joined.


def xu_combined():
    path = ROOT / "configs/xu_combined.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_the_combination_of_xu_et_al(data_dir, caplog):
    config = xu_combined()
    config_lib.validate(config)
    caplog.set_level("INFO", "fer_jax")
    joined = combine.load(config.data, data_dir)
    assert (joined.name, joined.emotions, joined.image_shape) == ("xu_combined", BASIC7, (128, 128, 3))
    assert (joined.has_intensity, joined.synthetic) == (False, False)
    assert_arrays_and_rows_equal_records(joined)
    parts = {
        "train": [prepare.load(name, data_dir=data_dir / name) for name in ("mug", "ckplus", "jaffe")],
        "validation": [
            prepare.load("csv", data_dir=data_dir / "mug_manual"),
            prepare.load("kdef", data_dir=data_dir / "kdef"),
        ],
    }
    assert set(joined.splits) == set(parts)
    for role, members in parts.items():
        expected = []  # (emotion, image, subject) of all splits of all members, by name
        for part in members:
            for split in part.splits:
                for example in part.source(split):
                    subject = f"{part.name}/{example['subject'].decode()}"
                    expected.append((part.emotions[example["label"]], example["image"], subject))
        expected = [item for item in expected if item[0] in BASIC7]
        found = joined.arrays(role)
        assert [joined.emotions[label] for label in found["label"]] == [emotion for emotion, _, _ in expected]
        assert joined.subjects(role).tolist() == [subject for _, _, subject in expected]
        for image, (_, original, _) in zip(found["image"], expected, strict=True):
            np.testing.assert_array_equal(image, np.broadcast_to(original, (128, 128, 3)))  # grey is repeated
    ckplus = parts["train"][1]
    contempt = sum(counts[CANONICAL.index("contempt")] for counts in ckplus.class_counts.values())
    assert contempt > 0
    assert f"data: {contempt} of " in caplog.text
    assert "none of data.emotions and left out" in caplog.text


def test_the_combination_of_xu_et_al_trains(data_dir, tmp_path):
    config = xu_combined()
    tiny = tiny_config.get_config("jaffe")
    with config.unlocked():
        config.model = tiny.model
        config.train.update({"epochs": 1, "batch_size": 32})
    results = run.run(config, tmp_path / "run", data_dir=str(data_dir))
    assert (results["dataset"], results["split"], tuple(results["emotions"])) == ("xu_combined", "validation", BASIC7)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    again = combine.load(saved["data"], data_dir)
    assert again.splits["validation"] == results["examples"]


def test_emotions_are_united_and_intensities_kept_by_name(data_dir):
    mug = prepare.load("mug", variant="intensity", data_dir=data_dir / "mug")
    synthetic = prepare.load("synthetic", variant="small")
    swapped = dataclasses.replace(mug, emotions=(*mug.emotions[::-1],))  # as if MUG named them in another order
    joined = combine.combine("both", {"train": [(swapped, ("train",)), (synthetic, ("validation",))]})
    assert joined.emotions == BASIC7
    assert (joined.has_intensity, joined.synthetic) == (True, True)
    first, own = mug.splits["train"], mug.arrays("train")
    found = joined.arrays("train")
    np.testing.assert_array_equal(found["label"][:first], 6 - own["label"])
    columns = [expressed(swapped.emotions).index(name) for name in expressed(BASIC7)]
    np.testing.assert_array_equal(found["intensity"][:first], own["intensity"][:, columns])
    np.testing.assert_array_equal(found["intensity"][first:], synthetic.arrays("validation")["intensity"])


def test_where_one_part_has_no_intensities_all_are_one_hot(data_dir, jaffe, caplog):
    mug = prepare.load("mug", variant="intensity", data_dir=data_dir / "mug")
    caplog.set_level("INFO", "fer_jax")
    joined = combine.combine("both", {"train": [(mug, ("train",)), (jaffe, ("train",))]})
    assert not joined.has_intensity
    assert "jaffe have no intensities to score by: one-hot vectors" in caplog.text
    arrays = joined.arrays("train")
    np.testing.assert_array_equal(arrays["intensity"], np.eye(7)[arrays["label"]][:, :6])
    assert_arrays_and_rows_equal_records(joined)


def test_images_are_brought_to_the_largest_size(data_dir, jaffe):
    fer2013 = prepare.load("fer2013", data_dir=data_dir / "fer2013")
    joined = combine.combine("both", {"train": [(fer2013, ("train",)), (jaffe, ("train",))]})
    assert joined.image_shape == (128, 128, 1)
    enlarged = joined.arrays("train")["image"][3]
    original = fer2013.arrays("train")["image"][3]
    np.testing.assert_array_equal(enlarged[..., 0], cv2.resize(original, (128, 128), interpolation=cv2.INTER_LINEAR))
    assert set(joined.subjects("train")[:70]) == {""}


def of_two_emotion_sets(data_dir, jaffe):
    ckplus = prepare.load("ckplus", data_dir=data_dir / "ckplus")
    return combine.combine("both", {"train": [(ckplus, ("train",)), (jaffe, ("train",))]})


def of_two_shapes(data_dir, jaffe):
    """Small grey images joined with large ones, and RGB ones."""
    fer2013 = prepare.load("fer2013", data_dir=data_dir / "fer2013")
    kdef = prepare.load("kdef", data_dir=data_dir / "kdef")
    return combine.combine("three", {"train": [(fer2013, ("train",)), (jaffe, ("train",)), (kdef, ("train",))]})


def of_a_fold(_data_dir, jaffe):
    return combine.fold(jaffe, 3, 1)


def of_a_part(_data_dir, jaffe):
    return jaffe.without({"train": np.array([0, 7, 8, 55])})


def of_a_part_of_two(data_dir, jaffe):
    return of_two_emotion_sets(data_dir, jaffe).without({"train": np.arange(0, 90, 3)})


SELECTIONS = [of_two_emotion_sets, of_two_shapes, of_a_fold, of_a_part, of_a_part_of_two]


@pytest.mark.parametrize("select", SELECTIONS)
def test_resident_and_streamed_batches_of_a_selection_agree(data_dir, jaffe, select):
    dataset, mesh = select(data_dir, jaffe), sharding.make_mesh()
    assert_arrays_and_rows_equal_records(dataset)
    resident, streamed = (
        pipeline.load_split(dataset, "train", mesh, residence=residence, workers=0)
        for residence in ("device", "stream")
    )
    order = pipeline.train_order(dataset.splits["train"], 16, 0)
    assert resident.length == streamed.length == order.length
    batches = zip(resident.batches(order, 1, 5), streamed.batches(order, 1, 5), strict=True)
    for one, other in batches:
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_selection_is_read_from_records_where_the_disk_is_small(data_dir, jaffe, tmp_path, monkeypatch):
    """One part has decoded arrays, the other has not."""
    ckplus = prepare.load("ckplus", data_dir=data_dir / "ckplus")
    parts = ckplus, undecoded(jaffe, tmp_path / "jaffe")
    expected = of_two_emotion_sets(data_dir, jaffe).arrays("train")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: types.SimpleNamespace(free=1e5))
    joined = combine.combine("both", {"train": [(part, ("train",)) for part in parts]})
    index = np.random.default_rng(0).permutation(joined.splits["train"])
    for name, array in pickle.loads(pickle.dumps(joined.rows("train"))).take(index).items():
        np.testing.assert_array_equal(array, expected[name][index])
    assert not list((tmp_path / "jaffe/arrays").glob("*image*"))


def test_a_selection_has_no_records_of_its_own(jaffe):
    with pytest.raises(UserError, match="has no records of its own"):
        combine.fold(jaffe, 3, 1).source("train")


def test_folds_by_image_keep_copies_and_the_frames_of_a_video_together(tmp_path, cache):
    root = miniatures.write_folder(tmp_path / "raw", "train")
    for number in range(4):
        path = root / f"train/Joy/film{number}.avi"
        video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (128, 128))
        for frame in range(16):
            video.write((miniatures.face("happy", number) * (1 - frame / 32)).astype(np.uint8))
        video.release()
        copy = np.random.default_rng(number).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        for place in (f"Joy/copy{number}.png", f"anger/copy{number}.png", f"anger/again{number}.png"):
            miniatures.save(root / "train" / place, copy)
    dataset = prepare.load("folder", data_dir=root)
    sources = [example["source"].decode().split("#")[0] for example in dataset.source("train")]
    digests = dataset.digests("train")
    images = dataset.arrays("train")["image"]
    assert len(np.unique(digests)) == len({image.tobytes() for image in images}) == len(images) - 8
    held = [combine.fold_images(dataset, 5, number) for number in range(5)]
    assert len({fold.fingerprint for fold in held}) == 5
    places = [set(fold.picks["validation"][0].index.tolist()) for fold in held]
    assert sorted(place for fold in places for place in fold) == list(range(len(images)))
    for fold in places:
        assert not {sources[i] for i in fold} & {sources[i] for i in range(len(images)) if i not in fold}
        assert not set(digests[list(fold)]) & {digests[i] for i in range(len(images)) if i not in fold}
    smaller = combine.limit(dataset, 40)  # of a selection too
    picked = smaller.picks["train"][0].index
    np.testing.assert_array_equal(smaller.digests("train"), digests[picked])
    assert len(np.unique(smaller.videos("train"))) == len({sources[i] for i in picked})


def test_folds_by_image_of_known_subjects_say_so(jaffe, caplog):
    combine.fold_images(jaffe, 2, 0)
    assert "data: folds by image of jaffe have people in training and validation, scores will be too" in caplog.text


def test_the_same_images_in_two_roles_of_joined_data_are_refused(tmp_path, caplog):
    raw = write_fer2013(tmp_path / "one")
    one = prepare.load("fer2013", data_dir=raw)
    lines = (raw / "fer2013.csv").read_text().splitlines()
    (tmp_path / "other").mkdir()  # other labels, in another order
    other_lines = [f"{(int(line[0]) + 1) % 7}{line[1:]}" for line in reversed(lines[1:71])]
    (tmp_path / "other/fer2013.csv").write_text("\n".join([lines[0], *other_lines]))
    other = prepare.load("fer2013", data_dir=tmp_path / "other")
    with pytest.raises(UserError, match=r"x: 70 of the 70 images of fer2013 in data\.train equal 70 of the 70 of"):
        combine.combine("x", {"train": [(one, ("train",))], "test": [(other, ("train",))]})
    combine.combine("x", {"train": [(one, ("train",)), (other, ("train",))], "test": [(one, ("test",))]})
    assert "equal" not in caplog.text
    with pytest.raises(UserError, match=r"70 of the 70 .* in data\.test equal 70 of the 70 .* in data\.test"):
        combine.combine("x", {"test": [(one, ("train",)), (other, ("train",))]})
    new = (write_fer2013(tmp_path / "new", seed=1) / "fer2013.csv").read_text().splitlines()
    (tmp_path / "new/fer2013.csv").write_text("\n".join([*new, *other_lines[:5]]))
    third = prepare.load("fer2013", data_dir=tmp_path / "new")
    combine.combine("x", {"train": [(third, ("train",))], "validation": [(one, ("train",))]})
    assert "data: 5 of the 75 images of fer2013 in data.train equal 5 of the 70 of fer2013 in data.val" in caplog.text
    combine.combine("x", {"validation": [(third, ("train",)), (one, ("train",))]})
    assert "equal 5 of the 70 of fer2013 in data.validation, they count twice" in caplog.text


def test_what_joins_no_data_is_refused(data_dir, jaffe, caplog):
    with pytest.raises(UserError, match=r"the train split of jaffe is both in train and in validation"):
        combine.combine("twice", {"train": [(jaffe, ("train",))], "validation": [(jaffe, ("train", "test"))]})
    with pytest.raises(UserError, match=r"jaffe .*has no dev split"):
        combine.combine("x", {"train": [(jaffe, ("dev",))]})
    for parts, message in (
        (("jaffe",), r"data\.train: each part is a dict such as .*not 'jaffe'"),
        (({"variant": ""},), r"data\.train: each part is a dict"),
        (
            ({"name": "jaffe", "split": "train"},),
            r"unknown key of a part of data\.train 'split'.*Did you mean 'splits'",
        ),
        (({"name": "jaffe", "splits": "train"},), r"the splits of jaffe are a tuple such as \('train',\), not 'train'"),
        (({"name": "jaffee"},), r"unknown data set 'jaffee'\. Did you mean 'jaffe'"),
        (({"name": "jaffe", "folder": "nowhere"},), r"nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            combine.load(asked(name="x", train=parts), data_dir)
    with pytest.raises(
        UserError, match=r"data\.name = 'fer2013' is the name of one data set: give what data\.train, d"
    ):
        combine.load(asked(name="fer2013", train=({"name": "jaffe"},)), data_dir)


def test_a_subject_in_two_splits_of_joined_data_is_told(data_dir, caplog):
    parts = {"train": ({"name": "mug"},), "validation": ({"name": "mug", "variant": "intensity"},)}
    with pytest.raises(UserError, match=r"51 of the 51 images of mug in data\.train equal 54 of the 54 of mug"):
        combine.load(asked(name="mugs", **parts), data_dir)
    assert "data: 5 subjects are in two splits of mugs, scores will be too high: mug/000, mug/001" in caplog.text


def test_the_fingerprint_of_joined_data_tells_parts_roles_and_splits_apart(data_dir, jaffe):
    ckplus = prepare.load("ckplus", data_dir=data_dir / "ckplus")
    asks = (
        {"train": [(jaffe, ("train",)), (ckplus, ("train",))]},
        {"train": [(jaffe, ("train", "test")), (ckplus, ("train",))]},
        {"train": [(jaffe, ("train",))], "validation": [(ckplus, ("train",))]},
    )
    prints = [combine.combine("x", roles).fingerprint for roles in asks]
    assert len(set(prints)) == 3
    assert combine.combine("x", asks[0]).fingerprint == prints[0]
