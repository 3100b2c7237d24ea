"""Alignment by landmarks: the command on trees of photographs, and data sets aligned while prepared."""

import csv
import errno
import json
import os
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fer_jax.data import align, align_dataset, align_preview, crops, detect, prepare, synthetic
from fer_jax.data.datasets import DATASETS, own
from fer_jax.data.datasets.base import Picture
from fer_jax.data.detect import Face
from fer_jax.errors import UserError
from tests import miniatures
from tests.faces import photograph


@pytest.fixture
def tree(tmp_path):
    """Photographs of one, two and no faces, a damaged and an empty file, and the landmarks as a CSV file."""
    source = tmp_path / "photographs"
    (source / "a").mkdir(parents=True)
    rows = []
    for number in range(3):
        image, landmarks = photograph(number, 10 * number)
        cv2.imwrite(str(source / "a" / f"{number}.png"), image[..., ::-1])
        rows.append([f"a/{number}.png", *landmarks.round(4).ravel()])
    rows.append(["a/2.png", *(landmarks * 0.5).round(4).ravel()])  # a second, smaller face
    cv2.imwrite(str(source / "landscape.jpg"), image)
    (source / "damaged.jpg").write_bytes(b"\xff\xd8 not really")
    (source / "empty.png").touch()
    table = tmp_path / "landmarks.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"{axis}{i}" for i in range(1, 69) for axis in "xy")])
        writer.writerows(rows)
    return source, table


def run(source, table, output, *, runner="processes", **options):
    settings = align.Settings(source, output, landmarks=table, **options)
    rows = align.align_tree(settings, runner=runner, workers=1)
    return settings, {(row["path"], row["face"]): row for row in rows}


def test_the_largest_face_is_taken_wherever_it_stands(tree, tmp_path):
    source, table = tree
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[::-1]]))  # the smaller face of a/2.png first
    small, large = (Face.from_landmarks(points).box for points in detect.read_table(table)["a/2.png"])
    _, found = run(source, table, tmp_path / "out", runner="threads")
    assert small[2] < large[2] == pytest.approx(found["a/2.png", 0]["width"], abs=0.06)


@pytest.fixture
def looked(tree, monkeypatch):
    """The images that a detector has looked at, whichever is asked for; it finds the faces of the tree.

    It finds the boxes alone where the extra align is not installed, and works in threads only.
    """
    source, table = tree
    looked = []
    faces = {cv2.imread(str(source / path)).tobytes(): points for path, points in detect.read_table(table).items()}

    def detector(image):
        looked.append(image)
        found = [Face.from_landmarks(points) for points in faces.get(image[..., ::-1].tobytes(), [])]
        return found if detect.ShapePredictor.available() else [Face(face.box) for face in found]

    monkeypatch.setattr(align, "make_detector", lambda name, model: detector)
    monkeypatch.setattr(detect.ShapePredictor, "available", lambda: True)
    return looked


def test_every_image_of_a_tree_is_in_the_table(tree, tmp_path):
    source, table = tree
    (source / ".ipynb_checkpoints").mkdir()
    shutil.copy(source / "a/0.png", source / ".ipynb_checkpoints/0-checkpoint.png")  # hidden, so none of them
    _, rows = run(source, table, tmp_path / "out")
    assert {(path, row["status"]) for (path, _), row in rows.items()} == {
        ("a/0.png", "ok"),
        ("a/1.png", "ok"),
        ("a/2.png", "ok"),
        ("landscape.jpg", "no face"),
        ("damaged.jpg", "unreadable"),
        ("empty.png", "unreadable"),
    }
    assert rows["a/2.png", 0]["reason"] == "the largest of 2"
    assert rows["a/1.png", 0]["roll"] == pytest.approx(crops.roll(Face.from_landmarks(photograph(1, 10)[1])), abs=0.02)
    crop = cv2.imread(str(tmp_path / "out" / rows["a/1.png", 0]["output"]))[..., ::-1]
    image, landmarks = photograph(1, 10)
    assert np.abs(crop.astype(int) - crops.align(image, Face.from_landmarks(landmarks))).max() <= 2
    with (tmp_path / "out" / "faces.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == sorted(path for path, _ in rows)


@pytest.mark.parametrize(("several", "status", "crops"), [("largest", "ok", 1), ("all", "ok", 2), ("refuse", "", 0)])
def test_several_faces_follow_the_rule(tree, tmp_path, several, status, crops):
    _, rows = run(*tree, tmp_path / "out", several=several)
    of_two = [row for (path, _), row in rows.items() if path == "a/2.png"]
    assert [row["status"] for row in of_two] == [status or "several faces"] * max(crops, 1)
    assert len(list((tmp_path / "out" / "a").glob("2*.png"))) == crops


def test_of_several_faces_the_annotated_one_is_taken(tree, tmp_path):
    source, table = tree
    _, small = detect.read_table(table)["a/2.png"]
    settings = align.Settings(source, tmp_path / "out", landmarks=table)
    box = Face.from_landmarks(small).box
    (row,) = align.align_tree(settings, ["a/2.png"], boxes={"a/2.png": box}, workers=1)
    assert (row["status"], row["x"]) == ("ok", round(box[0], 1))
    (row,) = align.align_tree(settings, ["a/2.png"], boxes={"a/2.png": (0, 0, 3, 3)}, workers=1)
    assert (row["status"], row["reason"]) == ("no face", "of 2 found none is the annotated one")


def test_names_that_are_no_utf8_and_headers_that_lie_are_rows_of_the_table(tree, tmp_path):
    source, table = tree
    (source / "a/1.png").rename(source / "a" / os.fsdecode(b"\xfc.png"))
    size = (70_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + size
    (source / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4))
    _, rows = run(source, table, tmp_path / "out")
    assert rows["huge.png", ""]["status"] == "unreadable"
    assert rows[os.fsdecode(b"a/\xfc.png"), ""]["status"] == "no face"
    run(source, table, tmp_path / "out")  # reads the table of before


def test_text_beside_pictures_is_not_always_landmarks(tmp_path, caplog):
    pictures = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").touch()
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.3\n")  # a box, for the training of a detector
        pictures.append(Picture(tmp_path / f"{name}.jpg", "happy", name))
    assert not align_dataset.have_landmarks(pictures)
    (tmp_path / "a.txt").write_text("1 2\n" * 68)
    with pytest.raises(UserError, match=r"b\.txt, line 1: '0 0\.5 0\.5 0\.2 0\.3' is not a pair x y"):
        align_dataset.have_landmarks(pictures)
    (tmp_path / "b.pts").write_text("version: 1\nn_points: 68\n{\n" + "1 2\n" * 68 + "}\n")
    assert align_dataset.have_landmarks(pictures)  # the text beside the landmarks of b is not read
    pictures.append(Picture(tmp_path / "c.jpg", "happy", "c"))
    assert align_dataset.have_landmarks(pictures)  # of a picture that is missing nothing is wanted
    pictures[-1].path.touch()
    assert not align_dataset.have_landmarks(pictures)
    assert "c.jpg has no landmarks beside it, as others have" in caplog.text


def test_a_second_run_takes_the_detections_of_the_first(tree, tmp_path, looked):
    source, _ = tree
    output, detections = tmp_path / "out", tmp_path / "out" / "detections.jsonl"

    def again(output=output, **options):
        looked.clear()
        return run(source, None, output, runner="threads", **options)

    _, before = again()
    lines = detections.read_text().splitlines()
    assert len(lines) == 6
    assert len(looked) == 4  # two are no images
    # Cut short in a line, one crop lost: the run goes on, detects what is missing and ends in the same table.
    detections.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    crop = output / "a" / "0.png"
    content = crop.read_bytes()
    crop.unlink()
    settings, after = again()
    assert after == before
    assert crop.read_bytes() == content
    assert len(looked) == 1  # the landscape, the others without a line are no images
    assert set(settings.known()) == {json.loads(line)["path"] for line in lines}
    # Another crop from the same detections: none of them is made again.
    _, other = again(tmp_path / "other", method="none", detections=detections)
    assert other["a/0.png", 0]["status"] == "ok"
    assert (tmp_path / "other" / "a" / "0.png").read_bytes() != content
    assert not looked
    # A photograph that has changed is looked at again.
    photo = source / "a" / "0.png"
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert again()[1] == before
    assert len(looked) == 1
    assert json.loads(detections.read_text().splitlines()[-1])["path"] == "a/0.png"
    align_preview.preview(settings, list(before.values()), tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 20


def test_another_detector_looks_again(tree, tmp_path, looked, monkeypatch):
    source, _ = tree
    model = tmp_path / "yunet.onnx"
    model.write_bytes(b"one")

    def again(detector):
        looked.clear()
        return run(source, None, tmp_path / "out", runner="threads", detector=detector, model=model)[1]

    monkeypatch.setattr(detect.ShapePredictor, "available", lambda: False)
    reason = "the detector gives no eyes: install the extra align or use --method=none"
    assert again("haar")["a/0.png", 0]["reason"] == reason
    monkeypatch.setattr(detect.ShapePredictor, "available", lambda: True)
    assert again("haar")["a/0.png", 0]["status"] == "ok"
    again("haar")
    assert not looked
    again("yunet")
    assert len(looked) == 4
    again("yunet")
    assert not looked
    model.write_bytes(b"two")
    again("yunet")
    assert len(looked) == 4


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_corrected_landmarks_give_another_crop(tree, tmp_path, kind):
    source, table = tree
    image, right = photograph(0, 0)

    def write(points):
        if kind == "folder":
            (tmp_path / "lm" / "a").mkdir(parents=True, exist_ok=True)
            np.savetxt(tmp_path / "lm" / "a" / "0.txt", points, fmt="%9.3f")
            return tmp_path / "lm"
        header = table.read_text().splitlines()[0]
        table.write_text("\n".join([header, ",".join(["a/0.png", *(f"{value:9.3f}" for value in points.ravel())])]))
        return table

    _, before = run(source, write(right + 20), tmp_path / "out", runner="threads")
    settings, after = run(source, write(right), tmp_path / "out", runner="threads")
    assert after["a/0.png", 0]["x"] == pytest.approx(before["a/0.png", 0]["x"] - 20, abs=0.11)
    crop = cv2.imread(str(tmp_path / "out" / "a" / "0.png"))[..., ::-1].astype(int)
    assert np.abs(crop - crops.align(image, Face.from_landmarks(right))).max() <= 2
    # What is found as it was is not noted again.
    lines = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines[6:]] == ["a/0.png"]
    align_preview.preview(settings, list(after.values()), tmp_path / "sheet.png")


def test_a_table_of_landmarks_is_read_once_a_worker(tree, tmp_path, monkeypatch):
    read, reads = detect.read_table, []
    monkeypatch.setattr(detect, "read_table", lambda path: reads.append(path) or read(path))
    run(*tree, tmp_path / "out", runner="threads")
    assert len(reads) == 2  # and once before there are workers


def test_crops_of_other_settings_are_refused(tree, tmp_path):
    out = tmp_path / "out"
    run(*tree, out, runner="threads")
    content = (out / "a" / "0.png").read_bytes()
    for options in ({"method": "none"}, {"size": 64}, {"several": "all"}):
        with pytest.raises(UserError, match=r"out has crops of --method=landmarks .*choose another output folder"):
            run(*tree, out, runner="threads", **options)
    assert (out / "a" / "0.png").read_bytes() == content


def test_a_crop_that_is_no_more_is_deleted(tree, tmp_path):
    source, table = tree
    out = tmp_path / "out"
    rows = table.read_text().splitlines()

    def crops():
        return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))

    run(source, table, out, runner="threads", several="all")
    (out / "sheet.png").write_bytes((out / "a/0.png").read_bytes())  # the user's
    assert crops() == ["a/0.png", "a/1.png", "a/2-1.png", "a/2.png", "sheet.png"]
    # No face in the first, one instead of two in the third, and the second's photograph is empty.
    table.write_text("\n".join([rows[0], *rows[2:4]]))
    (source / "a" / "1.png").write_bytes(b"")
    _, after = run(source, table, out, runner="threads", several="all")
    assert [after[f"a/{i}.png", face]["status"] for i, face in ((0, ""), (1, ""), (2, 0))] == [
        "no face", "unreadable", "ok"
    ]  # fmt: skip
    assert crops() == ["a/2.png", "sheet.png"]
    (out / "a/0.png").write_bytes((out / "a/2.png").read_bytes())  # cut out by hand
    run(source, table, out, runner="threads", several="all")
    assert crops() == ["a/0.png", "a/2.png", "sheet.png"]


def test_crops_of_photographs_that_are_gone_are_deleted(tree, tmp_path):
    source, table = tree
    out = tmp_path / "out"
    run(source, table, out, runner="threads")
    (source / "b").mkdir()
    (source / "a/0.png").rename(source / "b/0.png")
    table.write_text(table.read_text().replace("a/0.png", "b/0.png"))
    _, rows = run(source, table, out, runner="threads")
    assert ("a/0.png", 0) not in rows
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == ["a/1.png", "a/2.png", "b/0.png"]


@pytest.mark.parametrize("several", ["largest", "all"])
def test_crops_of_a_run_that_was_cut_short_are_deleted_with_their_photographs(tree, tmp_path, several):
    source, table = tree
    out = tmp_path / "out"
    run(source, table, out, runner="threads", several=several)
    crops = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    (out / "faces.csv").unlink()  # as if killed before the end
    (source / "a/0.png").unlink()
    run(source, table, out, runner="threads", several=several)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert left == {crop for crop in crops if not crop.startswith("a/0")} < crops


def test_an_output_is_of_one_input(tree, tmp_path, capsys):
    """Else the crops of the second would take the place of those of the first of the same names."""
    source, table = tree
    out, other = tmp_path / "out", tmp_path / "other"
    run(source, table, out, runner="threads")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (other / "a").mkdir(parents=True)
    (other / "a/1.png").write_bytes((source / "a/0.png").read_bytes())
    with pytest.raises(UserError, match=r'out has crops of .*--input=".*", not of .*--input=".*other": choose another'):
        run(other, table, out, runner="threads")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    settings = align.Settings(other, out, landmarks=table)
    align.align_tree(settings, ["a/1.png"], workers=1)  # the pictures of a data set may have moved


def test_files_that_are_no_images_by_their_names_are_counted(tree, tmp_path, capsys):
    source, table = tree
    for name in ("a/1.heic", "a/2.heic", "a/3.gif", "a/0.pts", ".hidden"):
        (source / name).touch()
    align.main([f"--input={source}", f"--output={tmp_path / 'out'}", f"--landmarks={table}"])
    assert "left out, by their names no images: 2 .heic, 1 .gif\n" in capsys.readouterr().out
    settings = (tmp_path / "out/settings.txt").read_text()
    assert settings.startswith("--method=landmarks --several=largest --size=128\n")  # unless it is asked for otherwise


def test_a_file_of_landmarks_may_begin_with_a_mark_of_its_encoding(tmp_path):
    points = np.arange(136.0).reshape(68, 2)
    rows = "\n".join(f"{x} {y}" for x, y in points)
    (tmp_path / "face.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(detect.read_landmarks(tmp_path / "face.pts"), points - 1)


def test_images_whose_crops_would_be_the_same_file_are_refused(tree, tmp_path):
    source, table = tree
    (source / "a" / "2-1.jpg").write_bytes((source / "a" / "0.png").read_bytes())
    (source / "a" / "2-01.jpg").write_bytes((source / "a" / "0.png").read_bytes())  # is no number of a face
    message = r"named a/2\.\* and a/2-1\.\*: with --several=all .* crop a/2-1\.png, which is the second's"
    with pytest.raises(UserError, match=message):
        run(source, table, tmp_path / "out", runner="threads", several="all")
    assert not (tmp_path / "out").exists()
    run(source, table, tmp_path / "out", runner="threads")
    (source / "a" / "2-1.jpg").unlink()
    run(source, table, tmp_path / "all", runner="threads", several="all")
    (source / "a" / "0.jpg").touch()
    with pytest.raises(UserError, match=r"several images under .* are named a/0\.\*"):
        run(source, table, tmp_path / "out", runner="threads")


def test_wrong_input_is_answered(tmp_path, tree, capsys):
    source, _ = tree
    for arguments, message in (
        (["--input", tmp_path / "nothing", "--output", tmp_path / "o"], "is not a folder"),
        (["--input", source, "--output", tmp_path / "o", "--detector=yunet"], "needs its ONNX file"),
        (["--input", source, "--output", tmp_path / "o", "--landmarks", tmp_path / "none"], "does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            align.main([str(argument) for argument in arguments])
    with pytest.raises(SystemExit):
        align.main(["--input", str(source), "--output", str(tmp_path / "o"), "--size=0"])
    assert "--size=0 must lie in 1..4096 pixels" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="has no images"):
        align.find_images(tmp_path / "bare", tmp_path / "o")
    with pytest.raises(UserError, match=r"unknown detector 'dlb'. Did you mean 'dlib'"):
        detect.make_detector("dlb")


def test_no_crop_at_all_is_an_error_that_says_why(tree, tmp_path, capsys):
    source, _ = tree
    arguments = ["--input", source, "--output", tmp_path / "o", "--method=landmarks", "--landmarks", tmp_path]
    with pytest.raises(SystemExit, match=r"^error: no face has a crop; 4 of 6 times: no landmarks of it in .*"):
        align.main([str(argument) for argument in arguments])
    assert "4 no face" in capsys.readouterr().out


def test_a_full_disk_is_answered(tmp_path, tree, monkeypatch):
    source, table = tree

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit, match=r"cannot write to .*settings.txt.*tmp \(No space left on device\): make room"):
        align.main(["--input", str(source), "--output", str(tmp_path / "o"), "--landmarks", str(table)])
    assert not list((tmp_path / "o").iterdir())


def test_landmarks_that_may_not_be_read_are_named(tmp_path, tree, monkeypatch):
    source, table = tree
    opened = Path.open

    def some(self, *arguments, **options):
        if self == table.resolve():
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", some)
    with pytest.raises(SystemExit, match=rf"^error: {table.resolve()} cannot be read \(Permission denied\): make it"):
        align.main(["--input", str(source), "--output", str(tmp_path / "o"), "--landmarks", str(table), "--workers=1"])


def test_landmark_files(tmp_path):
    points = np.random.default_rng(0).uniform(0, 100, (68, 2)).round(3)
    lines = [f"{x} {y}" for x, y in points]
    pts = tmp_path / "face.pts"
    pts.write_text("\n".join(["version: 1", "n_points:  68", "{", *lines, "}"]))
    np.testing.assert_allclose(detect.read_landmarks(pts), points - 1)  # 1-based
    plain = tmp_path / "face_landmarks.txt"
    plain.write_text("\n".join(f"   {x:e}   {y:e}" for x, y in points))
    np.testing.assert_allclose(detect.read_landmarks(plain), points, rtol=1e-5)
    pts.write_text("\n".join(lines[:67]))
    with pytest.raises(UserError, match="67 landmarks, expected 68"):
        detect.read_landmarks(pts)
    for wrong in ("1 2 3", "1 nan"):
        pts.write_text("\n".join([*lines[:5], wrong]))
        with pytest.raises(UserError, match=rf"face\.pts, line 6: '{wrong}' is not a pair"):
            detect.read_landmarks(pts)
    table = tmp_path / "landmarks.csv"
    table.write_text("path,x1\n")
    with pytest.raises(UserError, match="the header lacks y1"):
        detect.read_table(table)
    header = ",".join(f"{axis}{i}" for i in range(1, 69) for axis in "xy")
    for numbers in (["1"] * 135, ["1"] * 135 + ["nan"], ["1"] * 135 + ["x"]):
        table.write_text(f"path,{header}\na.png,{','.join(['1'] * 136)}\n\nb.png,{','.join(numbers)}\n")
        with pytest.raises(UserError, match=r"landmarks\.csv, line 4: 136 numbers are expected beside the path"):
            detect.read_table(table)
    table.write_text("path,x1,é\n", encoding="latin-1")
    with pytest.raises(UserError, match="is not a text file in UTF-8"):
        detect.read_table(table)


def test_dlib_and_haar_find_a_face(shared_data):
    """On a photograph, against the landmarks that come with it; needs the extra align."""
    pytest.importorskip("dlib", reason="dlib is not installed: pip install 'fer_jax[align]'")
    photo = shared_data / "faces" / "takeo.ppm"
    image = cv2.imread(str(photo))[..., ::-1]  # a view, as `align` and `live` hand it over: dlib itself wants no such
    truth = detect.read_landmarks(photo.with_suffix(".pts"))
    interocular = np.linalg.norm(np.subtract(*Face.from_landmarks(truth).eyes))
    for name in ("dlib", "haar"):
        (face,) = detect.make_detector(name)(image)
        assert np.linalg.norm(face.landmarks - truth, axis=1).mean() < 0.1 * interocular
    detector = detect.make_detector("dlib", landmarks=False)
    for name in ("einstein.jpg", "breakingbad.jpg"):
        view = cv2.imread(str(shared_data / "faces" / name))[..., ::-1]
        assert detector(view) == detector(view.copy()) != []


def test_haar_gives_faces_in_one_order_whatever_that_of_opencvs_threads():
    haar = detect.make_detector("haar", landmarks=False)
    boxes = [(200, 10, 60, 60), (30, 90, 50, 50)]
    image = np.zeros((300, 300, 3), np.uint8)
    for found in (boxes, boxes[::-1]):
        haar._cascade = SimpleNamespace(detectMultiScale=lambda *_, found=found, **__: np.array(found))
        assert [face.box for face in haar(image)] == [(30, 90, 50, 50), (200, 10, 60, 60)]


def test_haar_looks_for_no_smaller_faces_than_it_is_told_and_skips_landmarks():
    image = np.full((240, 320, 3), 120, np.uint8)
    image[40:200, 40:200] = cv2.resize(synthetic.example(0, 1, 1).image, (160, 160))
    assert [face.landmarks for face in detect.make_detector("haar", landmarks=False, smallest=100)(image)] == [None]
    assert detect.make_detector("haar", landmarks=False, smallest=200)(image) == []


def test_an_aligned_tree_is_prepared_like_the_original(tmp_path, cache):
    raw, landmarks = tmp_path / "jaffe", tmp_path / "landmarks"
    raw.mkdir()
    landmarks.mkdir()
    for i, subject in enumerate(("KA", "KL", "KM")):
        for number, code in enumerate(("AN", "HA")):
            image, points = photograph(10 * i + number, 15 * i)
            name = f"{subject}.{code}1.{i + number}"
            cv2.imwrite(str(raw / f"{name}.tiff"), image)
            rows = "".join(f"{x} {y}\n" for x, y in points + 1)
            (landmarks / f"{name}.pts").write_text(rows)
    run(raw, landmarks, tmp_path / "aligned")
    dataset = prepare.load("jaffe", data_dir=tmp_path / "aligned")
    assert dataset.splits == prepare.load("jaffe", data_dir=raw).splits == {"train": 2, "validation": 2, "test": 2}
    crops = {cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).tobytes() for path in (tmp_path / "aligned").glob("*.png")}
    stored = {image.tobytes() for split in dataset.splits for image in dataset.arrays(split)["image"]}
    assert stored == crops


@pytest.mark.parametrize("ending", [".pts", "_landmarks.txt", ".txt"])
def test_corrected_landmarks_beside_the_pictures_are_prepared_anew(tmp_path, cache, ending):
    root = miniatures.write_csv(tmp_path / "raw", rows=12)
    _, points = photograph(0, 0, scale=0.5, side=128)

    def prepared(points, align="landmarks"):
        points = points + (ending == ".pts")
        for picture in (root / "pictures").glob("*.png"):
            np.savetxt(picture.with_name(picture.stem + ending), points, fmt="%9.3f")  # as long as the one before
        return prepare.load("csv", align=align, data_dir=root)

    first, second = prepared(points + 9), prepared(points)
    assert first.fingerprint != second.fingerprint
    assert prepared(points).directory == second.directory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "VERSION", crops.VERSION + 1)
        assert prepare._prepared_before(second.directory.parent, "csv-align_landmarks", own.Csv, "landmarks") is None
        assert prepared(points).directory != second.directory  # found or cut out in another way
    photo = cv2.imread(str(root / "pictures/0.png"))[..., ::-1]
    examples = [example for split in second.splits for example in second.source(split)]
    (image,) = (example["image"] for example in examples if example["source"] == b"pictures/0.png")
    assert np.abs(image.astype(int) - crops.align(photo, Face.from_landmarks(points))).mean() < 0.5
    assert prepared(points + 9, align="").directory == prepared(points, align="").directory


def test_landmarks_in_a_folder_that_stands_for_its_pictures_are_part_of_the_key(tmp_path):
    root = miniatures.write_affectnet(tmp_path / "raw")
    builder = DATASETS["affectnet"]
    landmarks = next(root.rglob("training3.jpg")).with_suffix(".pts")
    keys = []
    for line in ("1 1\n", "1 2\n"):
        landmarks.write_text(line * 68)
        keys.append([prepare._raw_key(builder, "official", builder.find_raw(root), align) for align in ("", "none")])
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_a_picture_that_is_missing_is_left_out_and_taken_when_it_is_there(tmp_path, cache):
    root = miniatures.write_affectnet(tmp_path / "raw")
    _, points = photograph(0, 0, scale=0.8, side=128)
    for picture in root.rglob("*.jpg"):
        np.savetxt(picture.with_suffix(".txt"), points + (128, 0))
    gone = root / "Manually_Annotated_Images/0/training3.jpg"
    content = gone.read_bytes()
    for path in (gone, gone.with_suffix(".txt")):
        path.unlink()
    dataset = prepare.load("affectnet", align="none", data_dir=root)
    record = miniatures.record(dataset)
    assert record["quarantined"] == [[str(gone), "does not exist"]]
    assert record["unaligned"] == [["0/training3.jpg", "unreadable, does not exist"]]
    detections = next((tmp_path / "cache/aligned").glob("*/detections.jsonl"))
    assert gone.name not in detections.read_text()
    gone.write_bytes(content)
    np.savetxt(gone.with_suffix(".txt"), points + (128, 0))
    record = miniatures.record(prepare.load("affectnet", align="none", data_dir=root))
    with pytest.raises(UserError, match="affectnet needs --data_dir=PATH"):
        prepare.load("affectnet")  # what was aligned is not what was not
    assert record["quarantined"] == record["unaligned"] == []


def test_a_folder_of_pictures_that_is_missing_is_as_each_of_them(tmp_path):
    image, points = photograph(0, 0)
    here, gone = tmp_path / "raw/a/0.png", tmp_path / "raw/b/1.png"
    here.parent.mkdir(parents=True)
    cv2.imwrite(str(here), image)
    np.savetxt(here.with_suffix(".txt"), points)
    pictures = [Picture(here, "happy", "0"), Picture(gone, "happy", "1")]
    assert align_dataset.have_landmarks(pictures)
    where = {"landmarks": True, "runner": "threads", "workers": 1}
    aligned, reasons = align_dataset.align_pictures(pictures, tmp_path / "raw", tmp_path / "out", "landmarks", **where)
    assert aligned[0].path == tmp_path / "out/landmarks/a/0.png"
    assert aligned[1] == pictures[1]
    assert reasons == [("b/1.png", "unreadable, does not exist")]


def test_yunet_is_asked_in_bgr_and_its_eyes_are_the_left_one_first(tmp_path, monkeypatch):
    seen = []

    class Net:
        def setInputSize(self, size):  # noqa: N802
            seen.append(size)

        def detect(self, image):
            seen.append(image[0, 0].tolist())
            right, left = (60.0, 30.0), (40.0, 31.0)  # of the person's eyes, as it orders them here
            return 1, np.array([[20.0, 10, 60, 70, *right, *left, *range(6), 0.9]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_, **__: Net())
    (tmp_path / "net.onnx").touch()
    image = np.zeros((100, 120, 3), np.uint8)
    image[..., 0] = 255  # red
    (face,) = detect.YuNet(tmp_path / "net.onnx", landmarks=False)(image)
    assert seen == [(120, 100), [0, 0, 255]]
    assert face.box == (20, 10, 60, 70)
    np.testing.assert_array_equal(face.eyes, [(40, 31), (60, 30)])
