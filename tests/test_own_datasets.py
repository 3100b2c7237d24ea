"""Data of one's own: a CSV file of images, or a folder for each emotion, in miniature."""

import itertools
import os
import shutil

import cv2
import numpy as np
import pytest

from fer_jax.data import prepare
from fer_jax.errors import UserError
from tests.miniatures import (
    assert_no_subject_straddles,
    examples,
    face,
    record,
    save,
    splits_of,
    text,
    write_csv,
    write_folder,
)

pytestmark = pytest.mark.usefixtures("cache")


def test_csv_with_subjects(tmp_path):
    root = write_csv(tmp_path / "raw")
    dataset = prepare.load("csv", data_dir=root / "mine.csv")
    assert (dataset.emotions, dataset.image_shape) == (("angry", "surprise", "neutral"), (128, 128, 3))
    assert not dataset.has_intensity
    assert dataset.splits == {"train": 24, "validation": 3, "test": 3}
    assert_no_subject_straddles(dataset, {f"p{i}" for i in range(10)})
    for _, emotion, example in examples(dataset):
        number = int(text(example, "source").split("/")[1].removesuffix(".png"))
        assert emotion == ("surprise", "angry", "neutral")[number % 3]
        np.testing.assert_array_equal(example["image"], face(emotion, number % 10))
    assert prepare.load("csv", data_dir=root).fingerprint == dataset.fingerprint


def test_csv_with_splits_and_intensities(tmp_path, caplog):
    root = write_csv(tmp_path / "raw", ("intensity", "split", "subject"))
    dataset = prepare.load("csv", data_dir=root)
    assert dataset.has_intensity
    assert dataset.splits == {"train": 12, "validation": 9, "test": 9}
    for split, emotion, example in examples(dataset):
        number = int(text(example, "source").split("/")[1].removesuffix(".png"))
        assert split == ("train", "validation", "test")[number % 10 % 3]
        expected = {name: number / 100 * (name == emotion) for name in ("angry", "surprise")}
        assert example["intensity"] == pytest.approx(list(expected.values()))
    for _ in range(2):  # each time
        caplog.clear()
        prepare.load("csv", data_dir=root)
        assert "data: csv: 10 subjects are in two splits, scores will be too high: p0" in caplog.text


def test_csv_with_neither_is_stratified(tmp_path):
    root = write_csv(tmp_path / "raw", ())
    dataset = prepare.load("csv", data_dir=root)
    assert dataset.class_counts == {"train": (8,) * 3, "validation": (1,) * 3, "test": (1,) * 3}
    assert any("no subjects are given" in note for note in record(dataset)["notes"])


def test_csv_tolerates_blanks_other_columns_and_absolute_paths(tmp_path):
    root = write_csv(tmp_path / "raw", ())
    expected = prepare.load("csv", data_dir=root)
    rows = (root / "mine.csv").read_text().splitlines()[1:]
    moved = tmp_path / "mine.csv"
    lines = [
        " emotion , Path, age",
        "",
        *(f"{row.split(',')[1]} , {root}/{row.split(',')[0]} , 7" for row in rows),
        ",,",
    ]
    moved.write_text("\n".join(lines), encoding="utf-8-sig")
    dataset = prepare.load("csv", data_dir=moved)
    assert sum(dataset.splits.values()) == sum(expected.splits.values())
    assert "columns that are not used: age" in record(dataset)["notes"]


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, "file,emotion,intensity,subject,split", r"mine\.csv: the header must be path,emotion\[,intensity\]"),
        (1, "path,emotion,intensity,split,split", r"mine\.csv: the header must be path,emotion\[,intensity\]"),
        (3, "pictures/1.png,grumpy,1,p0,test", r"mine\.csv, line 3: unknown emotion 'grumpy'; known: angry"),
        (3, "pictures/x.png,anger,1,p0,test", r"mine\.csv, line 3: there is no file 'pictures/x\.png' in .*raw"),
        (3, "pictures/1.png,anger,1.5,p0,test", r"mine\.csv, line 3: the intensity 1\.5 must lie in 0\.\.1"),
        (3, "pictures/1.png,anger,nan,p0,test", r"mine\.csv, line 3: the intensity nan must lie in 0\.\.1"),
        (3, "pictures/1.png,anger,,p0,test", r"mine\.csv, line 3: the intensity '' is not a number"),
        (3, "pictures/1.png,anger,1,,test", r"mine\.csv, line 3: no subject; either every row names one"),
        (3, "pictures/1.png,anger,1,p0,tset", r"mine\.csv, line 3: unknown split 'tset'; use train, validation, test"),
        (3, "pictures/1.png,anger,1,p0", r"mine\.csv, line 3: 4 columns instead of 5"),
        (3, "pictures/../pictures/0.png,anger,1,p0,test", r"line 3: .*0\.png is in line 2 already"),
        (3, f"{'x' * 300}.png,anger,1,p0,test", r"mine\.csv, line 3: there is no file 'x+\.png' in .*raw"),
        (3, '"' + "x" * 140_000, r"mine\.csv, line 3: field larger than field limit .*is a quote left open\?"),
    ],
)
def test_csv_names_wrong_rows(tmp_path, cache, line, change, message):
    root = write_csv(tmp_path / "raw", ("intensity", "subject", "split"), rows=9)
    lines = (root / "mine.csv").read_text().splitlines()
    lines[line - 1] = change
    (root / "mine.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        prepare.load("csv", data_dir=root)
    assert not list(cache.glob("*"))


def test_rows_after_a_quote_left_open_are_missed(tmp_path, cache):
    """Else they would be one cell, here of a column that is not used."""
    root = write_csv(tmp_path / "raw", (), rows=9)
    header, *rows = (root / "mine.csv").read_text().splitlines()
    lines = [f"{header},notes", *(f"{row},clear" for row in rows[:5]), f'{rows[5]},"unsure', *rows[6:]]
    (root / "mine.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"mine\.csv, line 10: unexpected end of data; is a quote left open\?"):
        prepare.load("csv", data_dir=root)
    assert not list(cache.glob("*"))


def test_a_name_in_a_csv_may_begin_as_that_of_a_home(tmp_path):
    root = write_csv(tmp_path / "raw", ())
    (root / "pictures/1.png").rename(root / "~1.png")
    text_before = (root / "mine.csv").read_text()
    (root / "mine.csv").write_text(text_before.replace("pictures/1.png", "~1.png"))
    assert "~1.png" in splits_of(prepare.load("csv", data_dir=root), "source")


def test_csv_refuses_what_it_cannot_decide(tmp_path):
    root = write_csv(tmp_path / "raw", (), rows=6)
    (root / "other.csv").write_text("path,emotion\n")
    with pytest.raises(
        UserError, match=r"which of the files in .*raw\? --data_dir=FILE\.csv with one of mine\.csv, other"
    ):
        prepare.load("csv", data_dir=root)
    with pytest.raises(UserError, match=r"other\.csv has no rows"):
        prepare.load("csv", data_dir=root / "other.csv")
    (root / "other.csv").write_text("path,emotion\npictures/0.png,joy\n")
    with pytest.raises(UserError, match=r"other\.csv: only happy occurs; at least two emotions"):
        prepare.load("csv", data_dir=root / "other.csv")
    (root / "other.csv").write_bytes(b"path,emotion\n\xff\xfe,joy\n")
    with pytest.raises(UserError, match=r"other\.csv is not a text file in UTF-8"):
        prepare.load("csv", data_dir=root / "other.csv")


def test_folders_without_splits_are_stratified(tmp_path):
    dataset = prepare.load("folder", data_dir=write_folder(tmp_path / "train"))  # however the folder is named
    assert dataset.emotions == ("angry", "happy", "contempt")
    assert dataset.class_counts == {"train": (8,) * 3, "validation": (1,) * 3, "test": (1,) * 3}
    for _, emotion, example in examples(dataset):
        folder, name = text(example, "source").split("/")
        assert emotion == {"Joy": "happy", "anger": "angry", "contempt": "contempt"}[folder]
        np.testing.assert_array_equal(example["image"], face(emotion, int(name[0])))


def test_folders_of_splits(tmp_path):
    root = write_folder(write_folder(tmp_path, "Training"), "val")
    (root / "docs").mkdir()
    dataset = prepare.load("folder", data_dir=root)
    assert dataset.splits == {"train": 30, "validation": 30}
    assert splits_of(dataset, "source")["val/anger/3.bmp"] == {"validation"}
    (root / "test").mkdir()
    with pytest.raises(UserError, match=r"test is an empty split: expected images in .*test/angry"):
        prepare.load("folder", data_dir=root)
    (root / "test").rmdir()
    for beside in ("sad", "old/sad"):
        save(root / beside / "1.webp", face("sad", 1))
        with pytest.raises(
            UserError, match=rf"{beside[:3]} lies beside .*Training and is no split \(train, validation"
        ):
            prepare.load("folder", data_dir=root)
        shutil.rmtree(root / beside[:3])


def test_a_folder_under_another_name_is_the_same_data(tmp_path):
    before = prepare.load("folder", data_dir=write_folder(tmp_path / "raw"))
    (tmp_path / "raw").rename(tmp_path / "renamed")
    assert prepare.load("folder", data_dir=tmp_path / "renamed").directory == before.directory


def test_corrected_subjects_are_other_data(tmp_path):
    root = write_csv(tmp_path / "raw", columns=("subject", "split"))
    before = prepare.load("csv", data_dir=root)
    table = next(root.glob("*.csv"))
    rows = table.read_text().splitlines()
    place = rows[0].split(",").index("subject")
    others = [",".join(cell + "b" * (i == place) for i, cell in enumerate(row.split(","))) for row in rows[1:]]
    table.write_text("\n".join([rows[0], *others]) + "\n")
    assert prepare.load("csv", data_dir=root).fingerprint != before.fingerprint


def test_files_of_a_folder_that_are_not_used_are_counted(tmp_path):
    root = write_folder(tmp_path / "raw")
    for path in ("anger/more/1.png", "anger/more/2.png", "anger/list.txt", "anger/.hidden.png"):
        save(root / path, face("angry", 1)) if path.endswith("png") else (root / path).write_text("")
    dataset = prepare.load("folder", data_dir=root)
    assert dataset.splits == {"train": 24, "validation": 3, "test": 3}
    assert [note for note in record(dataset)["notes"] if note.endswith("not used: 2 .png, 1 .txt")]


def test_what_else_comes_to_lie_in_a_folder_prepares_nothing_anew(tmp_path):
    root = write_folder(tmp_path / "raw")
    before = prepare.load("folder", data_dir=root)
    (root / "runs/first").mkdir(parents=True)
    (root / "runs/first/config.json").write_text("{}")
    assert prepare.load("folder", data_dir=root).directory == before.directory
    (root / "Joy/1.png").rename(root / "Joy/one.png")
    assert prepare.load("folder", data_dir=root).directory != before.directory


def test_a_picture_of_one_colour_is_left_out_and_a_name_that_is_no_utf8_is_not(tmp_path, caplog):
    root = write_folder(tmp_path / "raw")
    (root / "Joy/1.png").rename(root / "Joy" / os.fsdecode(b"\xff.png"))
    save(root / "Joy/blue.png", np.full((128, 128, 3), (0, 0, 255), np.uint8))
    dataset = prepare.load("folder", data_dir=root)
    assert sum(dataset.splits.values()) == 30
    assert "Joy/\ufffd.png" in splits_of(dataset, "source")
    assert "Joy/blue.png: one colour all over" in caplog.text


def test_folders_that_are_no_emotion_are_refused(tmp_path):
    root = write_folder(tmp_path)
    (root / "Joy").rename(root / "grumpy")
    with pytest.raises(UserError, match=r"grumpy: unknown emotion 'grumpy'; known: angry"):
        prepare.load("folder", data_dir=root)


@pytest.mark.parametrize(("ending", "codec"), [("avi", "MJPG"), ("mp4", "mp4v")])
def test_every_fifth_frame_of_a_video_is_taken_and_all_are_in_one_split(tmp_path, ending, codec):
    root = write_folder(tmp_path / "raw")
    for folder, number in itertools.product(("Joy", "anger"), range(4)):
        path = root / folder / f"film{number}.{ending}"
        video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (128, 128))
        for frame in range(12):
            image = face("happy" if folder == "Joy" else "angry", number).astype(np.float32)
            video.write((image * (1 - frame / 24))[..., ::-1].astype(np.uint8))  # it gets darker
        video.release()
    (root / f"anger/broken.{ending}").write_bytes(b"not a film")
    misnamed = root / "anger" / os.fsdecode(b"\xff." + ending.encode())
    shutil.copy(root / f"anger/film0.{ending}", misnamed)
    dataset = prepare.load("folder", data_dir=root)
    films = {}
    for split, emotion, example in examples(dataset):
        if ending in (source := text(example, "source")):
            film, frame = source.split("#")
            assert emotion == ("happy" if film.startswith("Joy") else "angry")
            films.setdefault(film, {})[int(frame)] = (split, example["image"])
    assert len(films) == 8
    for film, frames in films.items():
        assert list(frames) == [0, 5, 10]
        assert len({split for split, _ in frames.values()}) == 1
        original = face("happy" if film.startswith("Joy") else "angry", int(film[-5]))
        for frame, (_, image) in frames.items():
            assert np.abs(image.mean((0, 1)) - original.mean((0, 1)) * (1 - frame / 24)).max() < 5  # RGB, and in time
    unusable = dict(record(dataset)["quarantined"])
    assert unusable.pop(str(root / f"anger/broken.{ending}")) == "not a readable video"
    ((path, reason),) = unusable.items()
    assert path.endswith(f"anger/\ufffd.{ending}")
    assert reason.endswith("names in UTF-8 only; rename it")


def test_frames_of_one_colour_are_left_out(tmp_path):
    root = write_folder(tmp_path / "raw")
    for name, flat in (("fades_in", 6), ("black", 12)):
        video = cv2.VideoWriter(str(root / f"Joy/{name}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (128, 128))
        for frame in range(12):
            video.write(np.zeros((128, 128, 3), np.uint8) if frame < flat else face("happy", 1)[..., ::-1])
        video.release()
    dataset = prepare.load("folder", data_dir=root)
    frames = [source for source in splits_of(dataset, "source") if "avi" in source]
    assert frames == ["Joy/fades_in.avi#10"]
    assert record(dataset)["quarantined"] == [[str(root / "Joy/black.avi"), "one colour all over"]]
