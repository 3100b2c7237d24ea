"""The data sets of the papers in miniature, in each official layout, and what they have in common with one's own."""

import shutil

import cv2
import numpy as np
import pytest

from fer_jax.data import prepare
from fer_jax.data.datasets import DATASETS, affectnet, base, ckplus, mug
from fer_jax.data.emotions import BASIC7, CANONICAL
from fer_jax.errors import UserError
from tests.miniatures import (
    CODES,
    HEADER,
    assert_no_subject_straddles,
    examples,
    face,
    record,
    save,
    splits_of,
    take_landmarks,
    text,
    write,
    write_affectnet,
    write_arrays,
    write_ckplus,
    write_jaffe,
    write_kdef,
    write_mug,
)

NEW = ("ckplus", "jaffe", "kdef", "mug", "affectnet", "csv", "folder")


pytestmark = pytest.mark.usefixtures("cache")


# --- What all of them have in common.


@pytest.mark.parametrize("name", NEW)
def test_missing_data_say_what_is_expected_and_what_was_found(name, tmp_path):
    with pytest.raises(UserError, match=rf"^{name} needs --data_dir=PATH\. Expected"):
        prepare.load(name)
    with pytest.raises(UserError, match=rf"{name}: .*nowhere does not exist\. Expected"):
        prepare.load(name, data_dir=tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    with pytest.raises(UserError, match=rf"{name}: nothing usable in .*found: notes\.txt.*Expected"):
        prepare.load(name, data_dir=tmp_path / "other")


@pytest.mark.parametrize("name", NEW)
def test_the_same_raw_data_elsewhere_give_the_same_examples(name, tmp_path):
    root = write(name, tmp_path / "raw")
    first = prepare.load(name, data_dir=root)
    shutil.copytree(root, tmp_path / "copy/of it")
    shutil.rmtree(root)
    shutil.rmtree(first.directory)
    second = prepare.load(name, data_dir=tmp_path / "copy/of it")
    assert second.splits == first.splits
    assert second.fingerprint == first.fingerprint
    assert prepare.load(name).directory == second.directory


@pytest.mark.parametrize("name", NEW)
def test_a_corrupt_image_is_set_aside_and_its_repair_noticed(name, tmp_path, caplog):
    root = write(name, tmp_path / "raw")
    used = used_image(name, root)
    content = used.read_bytes()
    whole = prepare.load(name, data_dir=root)
    used.write_bytes(b"not a picture")
    dataset = prepare.load(name, data_dir=root)
    assert sum(dataset.splits.values()) == sum(whole.splits.values()) - 1
    assert record(dataset)["quarantined"] == [[str(used), "not a readable image"]]
    assert f"{used}: not a readable image" in caplog.text
    used.write_bytes(content)
    assert prepare.load(name, data_dir=root).fingerprint == whole.fingerprint


def used_image(name, root):
    """The file of the first example."""
    place = {"ckplus": "cohn-kanade-images", "affectnet": affectnet.IMAGES}.get(name, "")
    dataset = prepare.load(name, data_dir=root)
    return root / place / text(dataset.source("train")[0], "source")


@pytest.mark.parametrize("name", [*NEW, "fer2013", "ferplus"])
def test_each_says_where_to_ask_on_what_terms_and_how_it_is_laid_out(name):
    described = DATASETS[name].__doc__
    assert "Source: " in described
    assert "Layout: " in described
    assert name in ("csv", "folder", "fer2013", "ferplus") or "non-commercial" in described
    assert name in ("csv", "folder") or "https://" in DATASETS[name].ORIGIN or "http://" in DATASETS[name].ORIGIN


def test_an_image_of_one_colour_is_set_aside(tmp_path):
    root = write_kdef(tmp_path)
    save(root / "AF01/AF01ANS.JPG", np.zeros((100, 80, 3), np.uint8))  # as some are in the official data
    assert record(prepare.load("kdef", data_dir=root))["quarantined"] == [
        [str(root / "AF01/AF01ANS.JPG"), "one colour all over"]
    ]


# --- CK+.


def test_ckplus_takes_the_peak_and_the_neutral_frame_of_labelled_sequences(tmp_path):
    root = write_ckplus(tmp_path / "raw")
    dataset = prepare.load("ckplus", data_dir=root)
    assert (dataset.emotions, dataset.image_shape, dataset.has_intensity) == (CANONICAL, (128, 128, 1), False)
    assert dataset.splits == {"train": 40, "validation": 4, "test": 4}
    assert_no_subject_straddles(dataset, {f"S{i:03}" for i in range(12)})
    names = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
    for _, emotion, example in examples(dataset):
        subject, sequence, file = text(example, "source").split("/")
        assert (subject, sequence) == (text(example, "subject"), "001")
        frame = int(file[-6:-4])
        assert frame in (1, 4, 5, 6)
        assert emotion == ("neutral" if frame == 1 else names[int(subject[1:]) % 7])
        raw = cv2.imread(str(root / "cohn-kanade-images" / text(example, "source")), cv2.IMREAD_GRAYSCALE)[..., None]
        if file == "S000_001_00000006.png":
            box = ckplus.face_box(np.loadtxt(root / "Landmarks/S000/001/S000_001_00000006_landmarks.txt"))
            raw = base.square(raw, 128, box)
        np.testing.assert_array_equal(example["image"], raw)
    notes = record(dataset)["notes"]
    assert "labelled sequences: 12; the official data have 327" in notes
    assert "sequences of contempt: 2; the official data have 18" in notes


@pytest.mark.parametrize("content", ["8.0", "0", "happy", "", "1.5"])
def test_ckplus_refuses_unknown_codes(tmp_path, content):
    root = write_ckplus(tmp_path, subjects=3)
    (root / "Emotion/S001/001/S001_001_00000006_emotion.txt").write_text(content)
    with pytest.raises(
        UserError, match=rf"S001_001_00000006_emotion\.txt, line 1: unknown emotion '{content}'; .*1 an"
    ):
        prepare.load("ckplus", data_dir=root)


def test_ckplus_refuses_labels_without_their_frames_and_damaged_landmarks(tmp_path):
    root = write_ckplus(tmp_path, subjects=3)
    (root / "Landmarks/S000/001/S000_001_00000006_landmarks.txt").write_text("1 2\n3\n")
    with pytest.raises(UserError, match=r"S000_001_00000006_landmarks\.txt, line 2"):
        prepare.load("ckplus", data_dir=root)
    shutil.rmtree(root / "cohn-kanade-images/S001")
    with pytest.raises(UserError, match=r"images/S001/001 has 0 frames .*S001_001_00000006_emotion\.txt is of a whole"):
        prepare.load("ckplus", data_dir=root)


# --- JAFFE.


def test_jaffe_reads_names(tmp_path):
    root = write_jaffe(tmp_path / "raw")
    dataset = prepare.load("jaffe", data_dir=root)
    assert (dataset.emotions, dataset.image_shape) == (BASIC7, (128, 128, 1))
    assert dataset.splits == {"train": 56, "validation": 7, "test": 7}
    assert dataset.class_counts["test"] == (1,) * 7
    assert_no_subject_straddles(dataset, {path.name[:2] for path in root.glob("*.tiff")})
    names = {
        "AN": "angry",
        "DI": "disgust",
        "FE": "fear",
        "HA": "happy",
        "SA": "sad",
        "SU": "surprise",
        "NE": "neutral",
    }
    for _, emotion, example in examples(dataset):
        source = text(example, "source")
        assert (text(example, "subject"), emotion) == (source[:2], names[source[3:5]])
        raw = cv2.imread(str(root / source), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(example["image"][..., 0], raw)
    assert record(dataset)["notes"] == [
        "files that are not used: 1 README",
        "images: 70; the official data have 213",  # of the 10 subjects nothing
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("KA.XX1.39.tiff", r"KA\.XX1\.39\.tiff: unknown emotion 'XX'; JAFFE has the codes AN, DI"),
        ("KA1.tiff", "KA1.tiff: JAFFE's files"),
    ],
)
def test_jaffe_refuses_other_names(tmp_path, name, message):
    root = write_jaffe(tmp_path)
    (root / "KA.AN1.0.tiff").rename(root / name)
    with pytest.raises(UserError, match=message):
        prepare.load("jaffe", data_dir=root)


# --- KDEF.


def test_kdef_keeps_both_sessions_of_a_person_in_one_split(tmp_path):
    root = write_kdef(tmp_path / "raw")
    straight = prepare.load("kdef", data_dir=root)
    assert (straight.variant, straight.emotions) == ("straight", BASIC7)
    assert straight.splits == {"train": 16, "validation": 4, "test": 4}
    people = {f"{sex}{number:02}" for sex in "FM" for number in (1, 2, 3)}
    assert_no_subject_straddles(straight, people)
    for _, emotion, example in examples(straight):
        folder, name = text(example, "source").split("/")
        assert (folder, text(example, "subject")) == (name[:4], name[1:4])
        assert emotion == {"AN": "angry", "AF": "fear"}[name[4:6]]
        raw = cv2.imread(str(root / folder / name))[25:165, :, ::-1]
        np.testing.assert_array_equal(example["image"], cv2.resize(raw, (128, 128), interpolation=cv2.INTER_AREA))
    half = prepare.load("kdef", variant="half_left", data_dir=root)
    assert {text(example, "source")[-6:] for _, _, example in examples(half)} == {"HL.JPG"}
    everything = prepare.load("kdef", variant="all", data_dir=root)
    assert sum(everything.splits.values()) == 48
    assert splits_of(everything) == splits_of(straight) == splits_of(half)
    assert "straight images: 24; the official data have 980" in record(straight)["notes"]
    with pytest.raises(UserError, match="no full_left images, only half_left, straight"):
        prepare.load("kdef", variant="full_left", data_dir=root)


def test_kdef_leaves_misnamed_files_out_and_refuses_unknown_codes(tmp_path):
    root = write_kdef(tmp_path)
    save(root / "AF01/AF31V.JPG", face())
    dataset = prepare.load("kdef", data_dir=root)
    assert any(note.startswith("1 files are left out") and "AF31V.JPG" in note for note in record(dataset)["notes"])
    assert sum(dataset.splits.values()) == 24
    save(root / "AF01/AF01XXS.JPG", face())
    with pytest.raises(UserError, match=r"AF01XXS\.JPG: unknown emotion 'XX'; KDEF has the codes AF, AN"):
        prepare.load("kdef", data_dir=root)


# --- MUG.


def frames_of(dataset, subject="000", emotion="happy"):
    """The numbers of the frames with their intensities."""
    return {
        int(text(example, "source")[-8:-4]): example["intensity"]
        for _, name, example in examples(dataset)
        if text(example, "subject") == subject and name == emotion
    }


def test_mug_classification_keeps_the_middle_third_and_neutral_takes(tmp_path):
    dataset = prepare.load("mug", data_dir=write_mug(tmp_path / "raw"))
    assert (dataset.variant, dataset.emotions, dataset.has_intensity) == ("classification", BASIC7, False)
    assert dataset.splits == {"train": 3 * 17, "validation": 17, "test": 17}
    assert_no_subject_straddles(dataset, {f"{i:03}" for i in range(5)})
    assert list(frames_of(dataset)) == [4, 5, 6, 7]
    assert list(frames_of(dataset, emotion="neutral")) == list(range(13))
    np.testing.assert_array_equal(frames_of(dataset)[5], np.eye(7)[BASIC7.index("happy")][:6])
    assert any(
        "estimates: by landmarks in 0 takes, by the position in the take in 5" in n for n in record(dataset)["notes"]
    )


def test_mug_with_sessions(tmp_path):
    root = write_mug(tmp_path / "raw", frames=6, subjects=3)
    (root / "001/session0").mkdir()
    for emotion in ("happiness", "neutral"):
        (root / "001" / emotion).rename(root / "001/session0" / emotion)
    dataset = prepare.load("mug", data_dir=root)
    assert dataset.splits == {"train": 8, "validation": 8, "test": 8}
    assert_no_subject_straddles(dataset, {f"{i:03}" for i in range(3)})


def test_mug_intensities_by_position(tmp_path):
    dataset = prepare.load("mug", variant="intensity", data_dir=write_mug(tmp_path / "raw", frames=11))
    assert dataset.has_intensity
    happy = BASIC7.index("happy")
    found = frames_of(dataset)
    assert list(found) == list(range(1, 10))
    np.testing.assert_allclose([vector[happy] for vector in found.values()], mug.LEVELS, rtol=1e-6)
    assert all(np.count_nonzero(vector) == 1 for vector in found.values())
    neutral = frames_of(dataset, emotion="neutral")
    assert len(neutral) == 9
    assert not any(vector.any() for vector in neutral.values())


@pytest.mark.parametrize("form", [".pts", "_landmarks.txt"])
def test_mug_intensities_by_landmarks(tmp_path, form):
    root = write_mug(tmp_path / "raw")
    levels = np.array([0, 0.2, 0.4, 0.62, 0.8, 1, 0.93, 0.86, 0.25, 0.2, 0.1, 0, 0])
    for frame, points in enumerate(take_landmarks(levels)):
        path = root / f"000/happiness/take000/img_{frame:04}{form}"
        if form == ".pts":
            rows = "\n".join(f"{x + 1} {y + 1}" for x, y in points)
            path.write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
        else:
            np.savetxt(path, points)
    dataset = prepare.load("mug", variant="intensity", data_dir=root)
    found = {frame: vector[BASIC7.index("happy")] for frame, vector in frames_of(dataset).items()}
    # Falling, 0.86 is the nearest to 0.8, and nothing is near 0.6 and 0.4.
    assert sorted(found) == [1, 2, 3, 4, 5, 7, 9]
    np.testing.assert_allclose(list(found.values()), levels[list(found)], atol=0.02)
    notes = record(dataset)["notes"]
    assert any("by landmarks in 1 takes, by the position in the take in 4" in note for note in notes)
    strong = frames_of(prepare.load("mug", data_dir=root))
    assert list(strong) == [3, 4, 5, 6]  # a third about the apex, which is early here
    (root / f"000/happiness/take000/img_0003{form}").write_text("1 2\n")
    with pytest.raises(UserError, match=rf"img_0003{form}: 1 landmarks, expected 68"):
        prepare.load("mug", data_dir=root)


def test_the_levels_of_a_take():
    levels = np.interp(np.arange(30), [0, 20, 29], [0, 1, 0])
    np.testing.assert_allclose(mug.levels_by_landmarks(take_landmarks(levels)), levels, atol=0.02)
    assert mug.levels_by_landmarks(take_landmarks(np.zeros(30))) is None
    np.testing.assert_allclose(mug.levels_by_position(5), [0, 0.5, 1, 0.5, 0])
    np.testing.assert_allclose(mug.levels_by_position(1), [1])
    for count in range(11, 90):  # long enough for nine frames
        by_position = mug.levels_by_position(count)
        frames = mug.graded(by_position)
        assert len(frames) == 9
        assert frames == sorted(frames)
        np.testing.assert_allclose(by_position[frames], mug.LEVELS, atol=0.1)
    assert mug.graded(np.array([0, 1, 0])) == [1]  # too short a take: its apex
    assert list(mug.strong(np.array([0, 0.1, 0.5, 0.7, 0.9, 1]))) == [4, 5]  # cut off at the apex
    assert list(mug.strong(np.array([0, 1]))) == [1]


def test_mug_refuses_folders_that_are_no_emotion(tmp_path):
    root = write_mug(tmp_path, frames=2, subjects=3)
    (root / "001/happiness").rename(root / "001/mixed")
    with pytest.raises(UserError, match=r"001/mixed: unknown emotion 'mixed'; known: angry"):
        prepare.load("mug", data_dir=root)
    (root / "001/mixed").rename(root / "001/contempt")
    with pytest.raises(UserError, match=r"001/contempt: MUG has no emotion 'contempt'"):
        prepare.load("mug", data_dir=root)


def test_a_renamed_folder_is_prepared_anew(tmp_path):
    root = write_mug(tmp_path / "raw", frames=3, subjects=3)
    before = prepare.load("mug", data_dir=root)
    for folder in list(root.glob("*/happiness")):
        folder.rename(folder.with_name("anger"))
    after = prepare.load("mug", data_dir=root)
    assert before.class_counts["train"][:4] == (0, 0, 0, 1)
    assert after.class_counts["train"][:4] == (1, 0, 0, 0)


# --- AffectNet.


def test_affectnet_by_tables(tmp_path):
    root = write_affectnet(tmp_path / "raw")
    dataset = prepare.load("affectnet", data_dir=root)
    assert (dataset.variant, dataset.emotions) == ("official", CANONICAL)
    assert dataset.splits == {"train": 32, "test": 8}  # no validation split is made up
    assert dataset.class_counts == {"train": (4,) * 8, "test": (1,) * 8}
    for split, emotion, example in examples(dataset):
        source = text(example, "source")
        assert ("training" in source) == (split == "train")
        code = int(source.split("ing")[-1].removesuffix(".jpg")) % 11 if split == "train" else CODES.index(emotion)
        assert emotion == CODES[code]
        assert (example["valence"], example["arousal"]) == pytest.approx((code / 10, -code / 10))
        raw = cv2.imread(str(root / affectnet.IMAGES / source))[:, 128:, ::-1]
        np.testing.assert_array_equal(example["image"], raw)
    notes = record(dataset)["notes"]
    assert "left out, being of no emotion: 5 none, 5 uncertain, 5 non-face" in notes
    assert "training.csv: 32; the official data have 287,651" in notes


def test_affectnet_tables_may_lie_in_their_folder_and_both_have_a_header(tmp_path):
    root = write_affectnet(tmp_path / "raw", training=11)
    before = prepare.load("affectnet", data_dir=root)
    lists = root / affectnet.LISTS
    lists.mkdir()
    (root / "training.csv").rename(lists / "training.csv")
    (lists / "validation.csv").write_text(HEADER + "\n" + (root / "validation.csv").read_text())
    (root / "validation.csv").unlink()
    after = prepare.load("affectnet", data_dir=root)
    assert after.fingerprint == before.fingerprint
    assert after.splits == {"train": 8, "test": 8}


def test_affectnet_80_10_10_divides_the_training_set(tmp_path):
    root = write_affectnet(tmp_path / "raw", training=110, images="")  # the images beside the tables
    dataset = prepare.load("affectnet", variant="80_10_10", data_dir=root)
    assert dataset.class_counts == {"train": (8,) * 8, "validation": (1,) * 8, "test": (1,) * 8}
    assert all("training" in source and len(splits) == 1 for source, splits in splits_of(dataset, "source").items())
    assert "80_10_10: the official validation set is left out" in record(dataset)["notes"]
    (root / "training.csv").unlink()
    with pytest.raises(UserError, match="80_10_10 needs the official training set"):
        prepare.load("affectnet", variant="80_10_10", data_dir=root)


def test_affectnet_by_folders(tmp_path):
    root = write_arrays(tmp_path / "raw")
    dataset = prepare.load("affectnet", data_dir=root)
    assert dataset.class_counts == {"train": (2,) * 8, "test": (2,) * 8}
    sources = []
    for split, emotion, example in examples(dataset):
        sources.append(text(example, "source"))
        number = int(sources[-1].split("/")[-1].removesuffix(".jpg"))
        assert sources[-1].startswith("train_set/" if split == "train" else "val_set/")
        assert emotion == CODES[number % 11]
        assert (example["valence"], example["arousal"]) == pytest.approx((number / 100, -0.25))
    assert sources[6:9] == [f"train_set/images/{i}.jpg" for i in (6, 7, 11)]  # by number, not by letter
    assert "left out, being of no emotion: 4 none, 4 uncertain, 4 non-face" in record(dataset)["notes"]


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_affectnet_never_unpickles(tmp_path):
    root = write_arrays(tmp_path / "raw", count=3)
    path = root / "train_set/annotations/1_exp.npy"
    np.save(path, np.array(Trap(str(tmp_path / "sprung")), dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"1_exp\.npy is not a plain array"):
        prepare.load("affectnet", data_dir=root)
    assert not (tmp_path / "sprung").exists()
    np.load(path, allow_pickle=True).item().close()  # the trap does work
    assert (tmp_path / "sprung").exists()
    for content, message in (
        (np.array([1, 2]), r"1_exp\.npy must hold one value"),
        (np.array("11"), r"1_exp\.npy: unknown expression '11'; AffectNet has the codes 0 neutral, 1 happy"),
    ):
        np.save(path, content)
        with pytest.raises(UserError, match=message):
            prepare.load("affectnet", data_dir=root)
    np.save(path, "1")
    (root / "train_set/annotations/1_val.npy").unlink()
    with pytest.raises(UserError, match=r"1_val\.npy is not a plain array"):
        prepare.load("affectnet", data_dir=root)


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, lambda s: s.replace("expression", "emotion"), r"training\.csv: the header must name the columns subDir"),
        (
            3,
            lambda s: s.replace(",1,0.1,", ",11,0.1,"),
            r"training\.csv, line 3: unknown expression '11'; .*10 non-face",
        ),
        (3, lambda s: s.replace(",1,0.1,", ",happy,0.1,"), r"training\.csv, line 3: unknown expression 'happy'"),
        (3, lambda s: s.replace("0.1", "high", 1), r"training\.csv, line 3: 'high' is not a number"),
        (3, lambda s: s.replace("128,128", "128,-5"), r"training\.csv, line 3: the face is 128x-5 pixels large"),
        (4, lambda s: s.rsplit(",", 3)[0], r"training\.csv, line 4: 6 columns instead of 9; was the file cut short"),
    ],
)
def test_affectnet_names_wrong_rows(tmp_path, cache, line, change, message):
    root = write_affectnet(tmp_path / "raw", training=11)
    lines = (root / "training.csv").read_text().splitlines()
    assert change(lines[line - 1]) != lines[line - 1]
    lines[line - 1] = change(lines[line - 1])
    (root / "training.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        prepare.load("affectnet", data_dir=root)
    assert not list(cache.glob("*"))
