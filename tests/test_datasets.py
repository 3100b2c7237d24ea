"""The data sets: raw official layouts in, the same examples out; everything wrong is named with file and line."""

import errno
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from fer_jax.data import audit, combine, prepare
from fer_jax.data.datasets import DATASETS, fer2013, ferplus
from fer_jax.data.datasets.base import FaceBuilder
from fer_jax.data.datasets.fer2013 import Fer2013
from fer_jax.data.emotions import BASIC7, CANONICAL, expressed
from fer_jax.errors import UserError
from tests.faces import write_fer2013

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def raw(tmp_path):
    return write_fer2013(tmp_path / "raw")


def edit(raw, line, change, name="fer2013.csv"):
    """Changes one line (the header is line 1) of the CSV."""
    lines = (raw / name).read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    (raw / name).write_text("\n".join(lines) + "\n")


def assert_same_examples(first, second):
    assert first.splits == second.splits
    assert first.fingerprint == second.fingerprint
    for split in first.splits:
        for name, array in first.arrays(split).items():
            np.testing.assert_array_equal(array, second.arrays(split)[name])


def test_usages_become_splits_and_rows_keep_their_order(raw):
    dataset = prepare.load("fer2013", data_dir=raw)
    assert dataset.splits == {"train": 70, "validation": 21, "test": 21}
    assert dataset.emotions == BASIC7
    assert dataset.class_counts["test"] == (3,) * 7
    arrays = dataset.arrays("train")
    assert arrays["image"].shape == (70, 48, 48, 1)
    np.testing.assert_array_equal(arrays["label"], np.arange(70) % 7)
    np.testing.assert_array_equal(arrays["intensity"], np.eye(7)[arrays["label"]][:, :6])
    rows = (raw / "fer2013.csv").read_text().splitlines()[1:]
    np.testing.assert_array_equal(arrays["image"][33].ravel(), np.array(rows[33].split(",")[1].split(), int))
    example = dataset.source("validation")[2]
    assert example["source"].decode() == "fer2013.csv:74"


@pytest.mark.parametrize("packing", ["gz", "xz", "zip", "any zip", "blanks in the header", "in a folder", "the file"])
def test_every_packing_gives_the_same_examples(raw, tmp_path, packing):
    expected = prepare.load("fer2013", data_dir=raw)
    text = (raw / "fer2013.csv").read_bytes()
    other = data_dir = tmp_path / "other"
    other.mkdir()
    if packing == "gz":
        (other / "fer2013.csv.gz").write_bytes(gzip.compress(text))
    elif packing == "xz":
        (other / "fer2013.csv.xz").write_bytes(lzma.compress(text))
    elif packing in ("zip", "any zip"):
        name = "fer2013.csv.zip" if packing == "zip" else "archive.zip"
        with zipfile.ZipFile(other / name, "w") as file:
            file.writestr("fer2013/fer2013.csv", text)
    elif packing == "blanks in the header":
        rows = text.decode().splitlines()[1:]
        swapped = [f"{e}, {u},{p}" for e, p, u in (row.split(",") for row in rows)]
        (other / "icml_face_data.csv").write_text("\n".join(["emotion, Usage, pixels", *swapped]))
    elif packing == "in a folder":
        (other / "fer2013").mkdir()
        (other / "fer2013/fer2013.csv").write_bytes(text)
    else:
        data_dir = raw / "fer2013.csv"
    assert_same_examples(prepare.load("fer2013", data_dir=data_dir), expected)


@pytest.fixture
def tree(tmp_path):
    """train/<emotion>/*.png with 4 images each, test/<emotion> with 2, the folders named as copies name them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for emotion in ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"):
            folder = tmp_path / "tree" / split / emotion
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (48, 48), dtype=np.uint8))
    return tmp_path / "tree"


def test_a_folder_tree_is_read_by_emotion_name(tree):
    dataset = prepare.load("fer2013", data_dir=tree)
    assert dataset.splits == {"train": 28, "test": 14}
    for example in dataset.source("train"):
        split, folder, name = example["source"].decode().split("/")
        assert dataset.emotions[example["label"]][:3] == folder[:3]
        image = cv2.imread(str(tree / split / folder / name), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(example["image"][..., 0], image)


def test_a_split_folder_of_another_name_is_another_split(tree):
    assert "test" in prepare.load("fer2013", data_dir=tree).splits
    (tree / "test").rename(tree / "publictest")
    assert set(prepare.load("fer2013", data_dir=tree).splits) == {"train", "validation"}


def test_hidden_files_are_none_of_the_images(tree):
    before = prepare.load("fer2013", data_dir=tree)
    (tree / "train/.ipynb_checkpoints").mkdir()
    (tree / "train/.ipynb_checkpoints/1-checkpoint.png").write_bytes(b"of Colab")
    (tree / "train/happy/._1.png").write_bytes(b"of macOS")
    assert prepare.load("fer2013", data_dir=tree).fingerprint == before.fingerprint


def test_corrupt_images_are_quarantined_listed_and_counted(tree, caplog):
    (tree / "train/happy/1.png").write_bytes(b"not a picture")
    (tree / "train/sad/0.png").write_bytes(b"")
    cv2.imwrite(str(tree / "test/sad/0.png"), np.zeros((20, 30), np.uint8))
    caplog.set_level("INFO", "fer_jax")
    dataset = prepare.load("fer2013", data_dir=tree)
    assert dataset.splits == {"train": 26, "test": 13}
    assert "3 images cannot be used" in caplog.text
    assert "happy/1.png: not a readable image" in caplog.text
    assert "sad/0.png: not a readable image" in caplog.text
    assert "sad/0.png: 30x20 pixels instead of 48x48" in caplog.text
    record = json.loads((dataset.directory / "prepared.json").read_text())
    assert len(record["quarantined"]) == 3
    caplog.clear()
    prepare.load("fer2013", data_dir=tree)  # from the cache
    assert "3 unusable images are left out" in caplog.text


def test_too_many_corrupt_images_stop_the_preparation(tree, cache):
    for path in list(tree.glob("train/*/*.png"))[:11]:
        path.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"11 of 42 images cannot be used, more than 1%.*\n.*not a readable image"):
        prepare.load("fer2013", data_dir=tree)
    assert not list(cache.glob("*"))


def test_a_split_of_corrupt_images_is_refused_and_not_kept(tree, cache):
    first, *others = (tree / "test").rglob("*.png")
    first.write_bytes(b"not a picture")
    for path in others:
        path.unlink()
    with pytest.raises(UserError, match=r"fer2013: the test split is empty: none .*\n  .*: not a readable image"):
        prepare.load("fer2013", data_dir=tree)
    assert not list(cache.glob("*/prepared.json"))


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_can_be(tree):
    image = next((tree / "train").rglob("*.png"))
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/caf\xe9.png"))
    sources = prepare.load("fer2013", data_dir=tree).sources("train").tolist()
    assert [source for source in sources if source.endswith("/caf\ufffd.png")]


def test_an_unknown_emotion_folder_is_refused(tree):
    (tree / "train/happy").rename(tree / "train/grumpy")
    with pytest.raises(UserError, match=r"train/grumpy: unknown emotion 'grumpy'; known: angry, disgust"):
        prepare.load("fer2013", data_dir=tree)


def test_an_empty_split_is_refused(tree):
    for path in tree.glob("test/*/*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"tree/test is an empty split: expected images in .*test/angry"):
        prepare.load("fer2013", data_dir=tree)


def test_a_folder_beside_the_splits_that_is_none_is_refused(tree):
    (tree / "test").rename(tree / "holdout")
    with pytest.raises(UserError, match=r"tree/holdout lies beside .*tree/train and is no split \(train, validation"):
        prepare.load("fer2013", data_dir=tree)


def test_files_of_other_kinds_beside_the_images_are_counted(tree):
    (tree / "train/happy/1.heic").touch()
    (tree / "test/sad/list.txt").touch()
    (tree / "train/happy/more").mkdir()
    for path in ("train/loose.png", "train/happy/more/1.png"):
        shutil.copy(next((tree / "train/happy").glob("*.png")), tree / path)
    dataset = prepare.load("fer2013", data_dir=tree)
    notes = json.loads((dataset.directory / "prepared.json").read_text())["notes"]
    assert "files that are not used: 2 .png, 1 .txt, 1 .heic" in notes


def test_an_absent_split_says_so_when_it_is_asked_for(tmp_path):
    dataset = prepare.load("fer2013", data_dir=write_fer2013(tmp_path / "raw", test=0))
    assert "test" not in dataset.splits
    for access in (dataset.source, dataset.arrays):
        with pytest.raises(UserError, match=r"fer2013 .*has no test split, only train, validation"):
            access("test")


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, lambda s: s.replace("pixels", "pixel"), r"fer2013\.csv: the header must name .*has \['emotion', 'pixel',"),
        (5, lambda s: s.replace(" ", "", 1), r"fer2013\.csv, line 5: 2303 pixels instead of 2304"),
        (9, lambda s: s.replace(",", ",256 ", 1).replace(" 1", " 1", 1), r"line 9: 2305 pixels instead of 2304"),
        (
            9,
            lambda s: ",".join([s.split(",")[0], "256 " + s.split(",")[1].split(" ", 1)[1], "Training"]),
            r"line 9: pixel value 256; grey levels are 0\.\.255",
        ),
        (9, lambda s: s.replace(" ", " x", 1), r"line 9: the pixels are not whole numbers"),
        (3, lambda s: "7" + s[1:], r"line 3: unknown emotion '7'; FER2013 has the codes 0\.\.6"),
        (3, lambda s: "happy" + s[1:], r"line 3: unknown emotion 'happy'"),
        (4, lambda s: s.replace("Training", "training"), r"line 4: unknown Usage 'training'; expected one of Training"),
        (9, lambda s: s.replace(" ", " " + "9" * 30, 1), r"line 9: the pixels are not whole numbers"),
        (3, lambda s: "²" + s[1:], r"line 3: unknown emotion '²'"),
        (6, lambda s: s.split(" ")[0], r"line 6: 2 columns instead of 3; was the file cut short"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(raw, cache, line, change, message):
    edit(raw, line, change)
    with pytest.raises(UserError, match=message):
        prepare.load("fer2013", data_dir=raw)
    assert not list(cache.glob("*"))


def test_a_file_without_rows_is_refused(raw):
    (raw / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(UserError, match="has a header and no rows"):
        prepare.load("fer2013", data_dir=raw)


@pytest.mark.parametrize("ending", ["gz", "xz", "zip"])
def test_a_damaged_archive_is_refused(raw, ending):
    text = (raw / "fer2013.csv").read_bytes()
    packed = {"gz": gzip.compress, "xz": lzma.compress, "zip": lambda data: b"PK" + data}[ending](text)
    (raw / "fer2013.csv").unlink()
    (raw / f"fer2013.csv.{ending}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"fer2013\.csv\.\w+ is damaged .*download it again"):
        prepare.load("fer2013", data_dir=raw)


def test_missing_data_say_where_to_get_them_what_is_expected_and_what_was_found(tmp_path):
    with pytest.raises(UserError, match=r"fer2013 needs --data_dir=PATH\. Expected .*fer2013\.csv.*kaggle\.com"):
        prepare.load("fer2013")
    with pytest.raises(UserError, match=r"nowhere does not exist\. Expected"):
        prepare.load("fer2013", data_dir=tmp_path / "nowhere")
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"nothing usable in .*found: holiday\.jpg.*train/angry/\*\.jpg"):
        prepare.load("fer2013", data_dir=tmp_path)
    write_fer2013(tmp_path)
    with pytest.raises(UserError, match=r"fer2013new\.csv is missing.*github\.com/microsoft/FERPlus"):
        prepare.load("ferplus", data_dir=tmp_path)


def test_unknown_data_sets_and_variants_list_the_valid_ones(raw):
    with pytest.raises(UserError, match=r"unknown data set 'fer2103'\. Did you mean 'fer2013'\? Known: synthetic, "):
        prepare.load("fer2103")
    with pytest.raises(
        UserError, match=r"ferplus has no variant 'most'; it has: 'majority', 'strict_majority', 'soft'"
    ):
        prepare.load("ferplus", variant="most", data_dir=raw)


def test_what_is_shown_of_a_split_is_from_all_over_it(raw):
    dataset = prepare.load("fer2013", data_dir=raw)
    labels = dataset.arrays("train")["label"]
    images, shown, told = dataset.showing("train", dataset.emotions, most=4)
    places = np.linspace(0, len(labels) - 1, 4).astype(int)
    np.testing.assert_array_equal(images, dataset.arrays("train")["image"][places])
    np.testing.assert_array_equal(shown, labels[places])
    assert told == "fer2013, train split, 4 images"


def test_what_was_prepared_is_found_again_without_the_raw_data(raw, tmp_path):
    first = prepare.load("fer2013", data_dir=raw)
    assert prepare.load("fer2013").directory == first.directory
    # Of the same content it makes no difference which.
    shutil.copytree(first.directory, first.directory.with_name("fer2013-by-an-older-version"))
    assert prepare.load("fer2013").fingerprint == first.fingerprint
    prepare.load("fer2013", data_dir=write_fer2013(tmp_path / "more", seed=1))
    with pytest.raises(UserError, match=r"fer2013 was prepared more than once: say .*--data_dir=PATH\n.*more.*\n.*raw"):
        prepare.load("fer2013")


def test_what_another_version_of_the_builder_prepared_is_not_taken(raw, monkeypatch):
    prepare.load("fer2013", data_dir=raw)
    monkeypatch.setattr(Fer2013, "VERSION", tfds.core.Version("99.0.0"))
    with pytest.raises(UserError, match="needs --data_dir"):
        prepare.load("fer2013")


def test_a_preparation_leaves_nothing_in_the_folder_of_temporary_files(raw, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare.load("fer2013", data_dir=raw)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_preparation_cut_short_leaves_nothing(raw, cache, monkeypatch):
    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceBuilder, "fingerprint", property(killed))
    with pytest.raises(KeyboardInterrupt):
        prepare.load("fer2013", data_dir=raw)
    assert not list(cache.glob("*"))
    monkeypatch.undo()


def test_changed_raw_data_are_prepared_anew(raw):
    before = prepare.load("fer2013", data_dir=raw)
    edit(raw, 2, lambda s: "3" + s[1:])
    after = prepare.load("fer2013", data_dir=raw)
    assert after.fingerprint != before.fingerprint
    assert after.arrays("train")["label"][0] == 3


def test_all_of_this_does_without_pytorch_and_tensorflow(raw, tmp_path):
    """Though PyTorch is installed for some tests; TensorFlow is not."""
    code = (
        "import sys\n"
        "sys.modules.update(torch=None)\n"  # so it cannot be imported
        "from fer_jax.data import prepare\n"
        f"prepare.load('fer2013', data_dir={str(raw)!r}).arrays('train')\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print('done')\n"
    )
    environment = os.environ | {"FER_JAX_CACHE": str(tmp_path / "other")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.endswith("done\n"), result.stderr


def test_the_options_of_the_command_are_those_of_what_is_loaded(monkeypatch):
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        raise UserError("so far")

    monkeypatch.setattr(prepare, "load", load)
    with pytest.raises(SystemExit, match="so far"):
        prepare.main(["kdef", "--variant=all", "--align=rotation", "--data_dir=raw", "--runner=ray", "--workers=3"])
    assert asked == {
        "name": "kdef",
        "variant": "all",
        "align": "rotation",
        "data_dir": Path("raw"),
        "runner": "ray",
        "workers": 3,
    }


def write_votes(raw, usages, votes):
    lines = [",".join(["Usage", "Image name", *ferplus.COLUMNS])]
    lines += [
        f"{usage},fer{i:07}.png,{','.join(map(str, row))}"
        for i, (usage, row) in enumerate(zip(usages, votes, strict=True))
    ]
    (raw / ferplus.VOTES_FILE).write_text("\n".join(lines) + "\n")


def test_ferplus_matches_votes_with_faces_by_usage_and_order(raw, caplog):
    usages = ["Training"] * 70 + ["PublicTest"] * 21 + ["PrivateTest"] * 21
    votes = np.zeros((112, 10), int)
    votes[:, 1] = 10  # all happy,
    votes[5] = [0, 2, 0, 0, 6, 0, 0, 2, 0, 0]  # but one angry, a little happy and contemptuous,
    votes[9] = [0, 0, 0, 0, 4, 0, 4, 0, 2, 0]  # and one undecided
    write_votes(raw, usages, votes)
    caplog.set_level("INFO", "fer_jax")
    dataset = prepare.load("ferplus", data_dir=raw)
    assert (dataset.variant, dataset.emotions, dataset.has_intensity) == ("majority", CANONICAL, True)
    assert dataset.splits == {"train": 69, "validation": 21, "test": 21}
    assert "majority: train keeps 69 of 70 faces (98.6%)" in caplog.text
    arrays = dataset.arrays("train")
    assert [CANONICAL[label] for label in arrays["label"][4:7]] == ["happy", "angry", "happy"]
    expressed = [name for name in CANONICAL if name != "neutral"]
    assert dict(zip(expressed, arrays["intensity"][5].tolist(), strict=True)) == pytest.approx(
        {"angry": 0.6, "disgust": 0, "fear": 0, "happy": 0.2, "sad": 0, "surprise": 0, "contempt": 0.2}
    )
    plain = prepare.load("fer2013", data_dir=raw).arrays("train")["image"]
    np.testing.assert_array_equal(arrays["image"], np.delete(plain, 9, axis=0))


def write_various_votes(raw):
    """Ten votes a face over all columns, of which the first face alone has the last two, and none for the fourth."""
    votes = np.zeros((112, 10), int)
    votes[:, :8] = np.random.default_rng(0).multinomial(10, np.array([5, 4, 3, 3, 2, 1, 1, 1]) / 20, 112)
    votes[::2] *= 2  # faces count by their votes
    votes[0] = [0, 0, 0, 0, 0, 0, 0, 0, 4, 6]
    votes[3] = 0
    write_votes(raw, ["Training"] * 70 + ["PublicTest"] * 21 + ["PrivateTest"] * 21, votes)
    return votes[:70]


def one_hot(labels, emotions=BASIC7):
    columns = [emotions.index(name) for name in expressed(emotions)]
    return np.eye(len(emotions), dtype=np.float32)[labels][..., columns]


def test_ferplus_votes_are_put_in_terms_of_fer2013s_labels(raw):
    plain = prepare.load("fer2013", data_dir=raw)
    labels, votes = plain.labels("train"), write_various_votes(raw)
    dataset = prepare.load("ferplus", variant="fer2013", data_dir=raw)
    assert (dataset.emotions, dataset.has_intensity) == (BASIC7, False)
    assert dataset.class_counts == plain.class_counts  # every face, by its own label
    arrays = dataset.arrays("train")
    np.testing.assert_array_equal(arrays["image"], plain.arrays("train")["image"])
    for face in (1, 2, 50):
        expected = np.zeros(6)
        for column, count in enumerate(votes[face]):
            for number, emotion in enumerate(expressed(BASIC7)):
                theirs = votes[labels == BASIC7.index(emotion), column].sum() / max(votes[:, column].sum(), 1)
                expected[number] += count / votes[face].sum() * theirs
        np.testing.assert_allclose(arrays["intensity"][face], expected, rtol=1e-6)
    for face in (0, 3):  # it alone has such votes; it has none, only its label
        np.testing.assert_array_equal(arrays["intensity"][face], one_hot(labels[face]))


def test_faces_of_ferplus_that_are_held_out_are_scored_by_fer2013s_labels(raw, caplog):
    write_various_votes(raw)
    dataset = prepare.load("ferplus", variant="fer2013", data_dir=raw)
    plain, votes = prepare.load("fer2013", data_dir=raw), dataset.arrays("train")["intensity"]
    folds = combine.fold_images(dataset, 5, 0)
    for data in (dataset, folds):
        arrays = data.arrays("validation")
        np.testing.assert_array_equal(arrays["intensity"], one_hot(arrays["label"]))
        rows = data.rows("validation").take(np.arange(3))
        np.testing.assert_array_equal(rows["intensity"], arrays["intensity"][:3])
    assert folds.splits["train"] + folds.splits["validation"] == 70
    np.testing.assert_array_equal(folds.arrays("train")["intensity"], votes[folds.picks["train"][0].index])
    validated = {"train": [(plain, ("test",))], "validation": [(dataset, ("train",))]}
    arrays = combine.combine("both", validated).arrays("validation")
    np.testing.assert_array_equal(arrays["intensity"], one_hot(arrays["label"]))
    joined = combine.combine("both", {"train": [(plain, ("train",)), (dataset, ("train",))]}).arrays("train")
    np.testing.assert_array_equal(joined["intensity"], np.concatenate([one_hot(plain.labels("train")), votes]))
    majority = prepare.load("ferplus", variant="majority", data_dir=raw)  # has intensities to score by, so none stay
    caplog.set_level("INFO", "fer_jax")
    mixed = combine.combine("both", {"train": [(dataset, ("train",)), (majority, ("train",))]}).arrays("train")
    np.testing.assert_array_equal(mixed["intensity"], one_hot(mixed["label"], CANONICAL))
    assert "data: ferplus:fer2013 have no intensities to score by: one-hot vectors" in caplog.text


def test_ferplus_without_training_faces_cannot_translate_votes(raw):
    path = raw / "fer2013.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "".join(line for line in lines[1:] if "Training" not in line))
    write_votes(raw, ["PublicTest"] * 21 + ["PrivateTest"] * 21, [[10] + [0] * 9] * 42)
    with pytest.raises(UserError, match=r"fer2013\.csv has no rows of Training, which tell what the votes are"):
        prepare.load("ferplus", variant="fer2013", data_dir=raw)


def test_tables_that_a_spreadsheet_wrote_are_read(raw):
    write_votes(raw, ["Training"] * 70 + ["PublicTest"] * 21 + ["PrivateTest"] * 21, [[10] + [0] * 9] * 112)
    before = prepare.load("ferplus", data_dir=raw)
    for path in (raw / "fer2013.csv", raw / ferplus.VOTES_FILE):
        path.write_text(path.read_text() + "\n", encoding="utf-8-sig")
    assert prepare.load("ferplus", data_dir=raw).fingerprint == before.fingerprint


def test_votes_that_do_not_belong_to_the_faces_are_refused(raw):
    write_votes(raw, ["Training"] * 70, np.eye(10, dtype=int)[[1] * 70])
    with pytest.raises(UserError, match=r"has 0 rows of PublicTest, .* has 21: the two files do not belong together"):
        prepare.load("ferplus", data_dir=raw)
    for change, message in (
        (lambda s: s.rsplit(",", 1)[0], "expected a Usage"),
        (lambda s: f"{s},{'9' * 30}", "the votes are not whole numbers"),
        (lambda s: s.rsplit(",", 1)[0] + ",-1", "-1 votes; they are counted from 0"),
    ):
        edit(raw, 3, change, ferplus.VOTES_FILE)
        with pytest.raises(UserError, match=rf"fer2013new\.csv, line 3: {message}"):
            prepare.load("ferplus", data_dir=raw)
    text = (raw / ferplus.VOTES_FILE).read_text()
    (raw / ferplus.VOTES_FILE).write_text(text.replace("Usage", "Usagé"), encoding="latin-1")
    with pytest.raises(UserError, match=r"fer2013new\.csv is not a text file in UTF-8"):
        prepare.load("ferplus", data_dir=raw)


@pytest.mark.parametrize(
    ("votes", "kept"),
    [
        # neutral happiness surprise sadness anger disgust fear contempt unknown NF
        ([0, 10, 0, 0, 0, 0, 0, 0, 0, 0], {"majority": "happy", "strict_majority": "happy", "soft": "happy"}),
        ([1, 5, 1, 1, 1, 1, 0, 0, 0, 0], {"majority": "happy", "strict_majority": None, "soft": "happy"}),
        ([5, 0, 0, 5, 0, 0, 0, 0, 0, 0], {"majority": None, "strict_majority": None, "soft": "neutral"}),
        ([0, 0, 0, 0, 2, 2, 0, 0, 6, 0], {"majority": None, "strict_majority": None, "soft": None}),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], {"majority": None, "strict_majority": None, "soft": None}),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], {"majority": None, "strict_majority": None, "soft": "neutral"}),
    ],
)
def test_the_rules_of_ferplus(votes, kept):
    assert {rule: ferplus.decide(np.array(votes), rule) for rule in kept} == kept


def test_every_data_set_is_described():
    for name, builder in DATASETS.items():
        assert builder.__name__.lower() == name
        assert builder.ORIGIN
        assert builder.__doc__


def test_what_differs_from_the_official_counts_is_noted_usage_by_usage():
    def rows(usage, counts):
        return [
            fer2013.Row(1, usage, emotion, None)
            for emotion, count in zip(fer2013.CODES, counts, strict=True)
            for _ in range(count)
        ]

    training, public = (fer2013.OFFICIAL[usage] for usage in ("Training", "PublicTest"))
    assert (sum(training), sum(public)) == (28_709, 3_589)
    for given, expected in (
        (rows("Training", training) + rows("PublicTest", public), []),
        (rows("Training", training[:6] + (4_964,)), ["28,708 rows of Usage Training; the official file has 28,709"]),
        (
            rows("PublicTest", (468, 55, *public[2:])),
            [
                "468 rows of Usage PublicTest are angry; the official file has 467",
                "55 rows of Usage PublicTest are disgust; the official file has 56",
            ],
        ),
    ):
        notes = []
        fer2013.check_counts(given, notes)
        assert notes == expected


@pytest.mark.slow
def test_the_real_fer2013_and_ferplus(shared_data):
    dataset = prepare.load("fer2013", data_dir=shared_data / "fer2013")
    assert dataset.splits == {"train": 28_709, "validation": 3_589}
    assert dataset.class_counts["train"] == (3995, 436, 4097, 7215, 4830, 3171, 4965)
    # What the authors' own script keeps of FER2013's Training and PublicTest.
    plus = prepare.load("ferplus", data_dir=shared_data / "fer2013")
    assert plus.splits == {"train": 25_060, "validation": 3_199}


def test_the_command_line_prints_the_classes_and_refuses_in_one_line(raw, capsys):
    prepare.main(["fer2013", f"--data_dir={raw}", f"--preview={raw / 'sheet.png'}"])
    printed = capsys.readouterr().out
    assert cv2.imread(str(raw / "sheet.png")).shape[1] > 700
    assert "surprise" in printed
    assert "70" in printed
    with pytest.raises(SystemExit, match=r"^error: unknown data set 'fer'"):
        prepare.main(["fer"])


def test_drawn_faces_are_not_read_from_a_folder(capsys):
    for command in (prepare, audit):
        with pytest.raises(SystemExit, match=r"^error: synthetic faces .* nothing would be read in --data_dir=raw"):
            command.main(["synthetic", "--data_dir=raw"])


def test_what_may_not_be_read_is_said_in_one_line(raw, monkeypatch):
    def forbidden(self, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    (raw / "own.csv").touch()
    monkeypatch.setattr(Path, "open", forbidden)
    for name, file in (("fer2013", "fer2013.csv"), ("csv", "own.csv")):
        with pytest.raises(SystemExit, match=rf"^error: .*{file} cannot be read.*Permission denied"):
            prepare.main([name, f"--data_dir={raw / file}"])


def test_what_cannot_be_written_is_said_in_one_line(raw, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: .*nowhere/sheet\.png cannot be drawn"):
        prepare.main(["fer2013", f"--data_dir={raw}", f"--preview={raw / 'nowhere/sheet.png'}"])

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_of_records(*_, **__):
        raise RuntimeError(f'Failed to finalize writing of split "train": write() failed: {os.strerror(errno.ENOSPC)}')

    shutil.rmtree(os.environ["FER_JAX_CACHE"])
    Path(os.environ["FER_JAX_CACHE"]).touch()
    with pytest.raises(SystemExit, match=r"^error: cannot write to .*Not a directory.*set FER_JAX_CACHE"):
        prepare.main(["fer2013", f"--data_dir={raw}"])

    def forbidden(*_, **__):
        above = Path(os.environ["FER_JAX_CACHE"]).parent  # the first folder that is to be made
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepare", forbidden)
        with pytest.raises(SystemExit, match=r"^error: cannot write to .*Permission denied.*set FER_JAX_CACHE"):
            prepare.main(["fer2013", f"--data_dir={raw}"])
    for failure in (full, full_of_records):
        monkeypatch.setattr(prepare, "_prepare", failure)
        with pytest.raises(SystemExit, match=r"^error: cannot write to .*No space left on device.*set FER_JAX_CACHE"):
            prepare.main(["fer2013", f"--data_dir={raw}"])
