"""Live recognition: the same answers as elsewhere, every frame or the newest, files that open."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from fer_jax import checkpoint, following, heads, live, models, process, recording, video
from fer_jax.data import crops, synthetic
from fer_jax.data.datasets.base import square
from fer_jax.data.detect import Face, ShapePredictor
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError
from fer_jax.recognizer import Recognizer
from tests.clips import bright_patches, frame_of, moving, read_video, write_video

MODEL = {"name": "shallow", "options": {"filters": [4, 4], "hidden": [8]}, "dtype": "float32"}
SHAPE = (48, 48, 1)


@pytest.fixture(autouse=True)
def bare_process(monkeypatch):
    """The commands leave this process's threads alone, and find no display."""
    monkeypatch.setattr(live, "call_directly", lambda: None)
    monkeypatch.setattr(following, "PIXELS_OF_A_FACE", 500)  # these frames are small: they are no crowds
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def variables():
    """Of a small network, its weights large enough that faces differ in their answers."""
    model = models.create("shallow", num_outputs=7, filters=(4, 4), hidden=(8,))
    made = jax.jit(lambda key: model.init(key, np.zeros((1, *SHAPE), np.float32), train=False))(jax.random.key(0))
    large = jax.tree.map(lambda value: np.asarray(value) * 6, made["params"])
    normalizer = {"mean": np.full(1, 127.5, np.float32), "scale": np.full(1, 1 / 127.5, np.float32)}
    return jax.device_get({**made, "params": large, "normalizer": normalizer})


@pytest.fixture(scope="module")
def network(variables):
    """A network whose traced shapes are counted in `network.traced`."""
    traced = []

    class Counting(Recognizer):
        def answer(self, variables, images):
            traced.append(images.shape)
            return super().answer(variables, images)

    model = models.create("shallow", num_outputs=7, filters=(4, 4), hidden=(8,))
    made = Counting(model, heads.make_head("classification", BASIC7), variables, BASIC7, SHAPE, "fer2013")
    object.__setattr__(made, "traced", traced)
    for size in live.BATCH_SIZES:  # at once, for a camera doesn't wait
        made.predict(np.zeros((size, 48, 48, 3), np.uint8), batch_size=live.BATCH)
    return made


@pytest.fixture(scope="module")
def weights(variables, tmp_path_factory):
    """The same network as a file."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    metadata = {"emotions": BASIC7, "input_shape": SHAPE, "model": MODEL, "results": {"dataset": "fer2013"}}
    checkpoint.save_weights(path, variables, metadata)
    return path


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Capture:
    """A stand-in for cv2.VideoCapture: a camera that shows some frames, one every `pause` seconds, then is gone."""

    def __init__(self, frames, pause=0.0):
        self.frames, self.pause, self.shown, self.released = frames, pause, 0, False

    def isOpened(self):  # noqa: N802
        return True

    def get(self, _):
        return 0.0

    def read(self):
        time.sleep(self.pause)
        if self.shown == len(self.frames):
            return False, None
        self.shown += 1
        return True, self.frames[self.shown - 1][..., ::-1].copy()

    def release(self):
        self.released = True


def camera(monkeypatch, capture) -> video.Video:
    """The source 0, with that capture behind it."""
    real = cv2.VideoCapture
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda address: capture if address == 0 else real(address))
    return video.open_source("0")


class Collect:
    """An output that keeps the scenes."""

    draws = False

    def __init__(self):
        self.scenes, self.closed = [], False

    def write(self, scene, picture):
        self.scenes.append(scene)

    def close(self):
        self.closed = True


def analyzer(network, detector=bright_patches, *, detect_every=3, **options):
    return live.Analyzer(network, detector, detect_every=detect_every, **options)


# The same answers


def test_a_face_has_the_same_answer_in_a_crowd_and_nothing_is_compiled_for_it(network):
    live_ = analyzer(network)
    for size in live.BATCH_SIZES:
        live_.warm_up(size)
    compiled = len(network.traced)
    assert {shape[0] for shape in network.traced} == {1, 2, 4, 8, 16, 32, 64}
    side, places = 40, [(10 + 60 * i, 5 + 46 * j) for j in range(10) for i in range(10)]
    crowd = frame_of(places, side=side, size=(480, 640))
    found = {face.box: face for face in live_.faces(crowd, 0.0)}
    assert len(found) == 100
    assert len({face.id for face in found.values()}) == 100
    for x, y in places[::9]:
        face = found[x, y, side, side]
        alone = network.predict(square(crowd, 48, face.box)[None])
        np.testing.assert_allclose(face.probabilities, alone.probabilities[0], atol=1e-5)
        np.testing.assert_allclose(face.intensities, alone.intensities[0], atol=1e-5)
    assert np.ptp([face.probabilities for face in found.values()], axis=0).max() > 0.2  # they do differ
    assert {face.box for face in live_.faces(crowd, 0.1)} == set(found)  # found again, around their places
    for count in (0, 1, 3, 99):
        live_.forget()
        assert len(live_.faces(frame_of(places[:count], side=side, size=(480, 640)), 1.0)) == count
    assert len(network.traced) == compiled


def test_a_picture_of_the_data_set_gets_the_answer_that_evaluation_gives_it(network, weights, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    monkeypatch.setattr(live, "make_detector", lambda *_, **__: lambda image: [Face((0.0, 0.0, 48.0, 48.0))])
    table = tmp_path / "rows.jsonl"
    live.main([f"--weights={weights}", f"--source={tmp_path}", f"--table={table}"])
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    expected = network.predict(images)
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert [row["face"] for row in rows] == [1, 2, 3]  # pictures of different people
    assert [row["emotion"] for row in rows] == expected.names
    for what in ("probability", "smoothed_probability"):
        found = [[row[f"{what}_{name}"] for name in BASIC7] for row in rows]
        np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)


def test_a_table_has_each_number_under_its_name(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.random(size).astype(np.float32) for size in (7, 6, 7, 6)]
    face = recording.TrackedFace(4, Face((1.0, 2.0, 30.0, 40.0)), *arrays)
    for path in (tmp_path / "t.csv", tmp_path / "t.jsonl"):
        table = recording.open_table(path, BASIC7)
        table.write(recording.Scene(video.Frame(3, 0.25, np.zeros((1, 1, 3), np.uint8), "a.png"), [face]), None)
        table.close()
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: str(value) for name, value in json.loads((tmp_path / "t.jsonl").read_text()).items()} == row
    expected = {"frame": "3", "time": "0.25", "file": "a.png", "face": "4", "emotion": BASIC7[arrays[2].argmax()]}
    assert {name: row[name] for name in expected} == expected
    assert [float(row[name]) for name in ("x", "y", "width", "height")] == [1, 2, 30, 40]
    whats = ("probability", "intensity", "smoothed_probability", "smoothed_intensity")
    for what, values in zip(whats, arrays, strict=True):
        names = BASIC7 if len(values) == 7 else [name for name in BASIC7 if name != "neutral"]
        found = [float(row[f"{what}_{name}"]) for name in names]
        np.testing.assert_allclose(found, values, atol=1e-6, err_msg=what)


def test_crops_have_the_side_of_the_pictures_that_were_trained_on(network):
    assert analyzer(network).side == SHAPE[0]
    assert analyzer(dataclasses.replace(network, dataset="synthetic")).side == 128


def test_crops_are_those_of_the_training_data():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    face = Face((40.0, 30.0, 90.0, 90.0), eyes=np.array([(60.0, 60.0), (105.0, 70.0)]))
    np.testing.assert_array_equal(live.crop(image, face, side=64, align="box"), square(image, 64, face.box))
    turned = live.crop(image, face, side=64, align="rotation")
    np.testing.assert_array_equal(turned, crops.align(image, face, size=64, method="rotation"))
    with pytest.raises(crops.NoCrop, match="no landmarks"):
        live.crop(image, face, side=64, align="landmarks")


def test_a_network_whose_outputs_are_not_finite_recognises_nobody(network):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), network.variables)
    live_ = analyzer(dataclasses.replace(network, variables=broken))
    with pytest.raises(UserError, match=r"the network gives outputs that are not finite for 1 of 1 images"):
        live_.faces(frame_of([(10, 10)]), 0.0)


def test_a_face_without_usable_landmarks_is_counted(network):
    flat = Face.from_landmarks(np.full((68, 2), 20.0), (10.0, 10.0, 40.0, 40.0))
    live_ = analyzer(network, lambda image: [flat], align="landmarks")
    assert live_.faces(np.zeros((100, 100, 3), np.uint8), 0.0) == []
    assert live_.unaligned == 1
    assert "1 faces without usable landmarks" in str(live.Tally(unaligned=live_.unaligned))


# Frames


def test_every_frame_of_a_file_however_slow_the_recognition(network, tmp_path):
    source = video.open_source(str(write_video(tmp_path / "in.mp4", moving(25))))

    def slow(image, sizes=None):
        time.sleep(0.01)
        return bright_patches(image)

    kept, output = Collect(), recording.open_output(tmp_path / "out.mp4", source)
    tally = live.run(source, analyzer(network, slow), [output, kept])
    assert (tally.frames, tally.dropped, tally.without_face, tally.faces) == (25, 0, 0, 50)
    assert [scene.frame.number for scene in kept.scenes] == list(range(25))
    np.testing.assert_allclose([scene.frame.time for scene in kept.scenes], np.arange(25) / 20)
    upper = [min(scene.faces, key=lambda face: face.box[1]) for scene in kept.scenes]
    assert {face.id for face in upper} == {upper[0].id}  # both keep their numbers as they pass each other
    frames, fps = read_video(tmp_path / "out.mp4")
    assert (len(frames), fps) == (25, 20)
    assert frames[0].shape == (240, 320, 3)
    assert np.abs(frames[3].astype(int) - moving(4)[3]).max() > 150  # something was drawn


def test_a_camera_drops_frames_and_the_newest_wins(network, monkeypatch):
    capture = Capture(moving(40), pause=0.005)
    source, kept, tally = camera(monkeypatch, capture), Collect(), live.Tally()

    def slow(image, sizes=None):
        time.sleep(0.05 if sizes is None else 0.025)  # two known faces: two parts are searched
        return bright_patches(image)

    with pytest.raises(UserError, match="camera 0 gave no more frames after 40"):
        live.run(source, analyzer(network, slow), [kept], tally=tally)
    numbers = [scene.frame.number for scene in kept.scenes]
    assert tally.dropped >= 20
    assert tally.frames + tally.dropped == 40
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 39
    assert kept.closed
    assert capture.released
    times = [scene.frame.time for scene in kept.scenes]
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] >= 35 * 0.005


def test_what_a_camera_shows_while_programs_are_compiled_is_dropped(network, monkeypatch):
    capture, compiled = Capture(moving(40), pause=0.01), []
    source, kept = camera(monkeypatch, capture), Collect()

    def warm_up(faces):
        compiled.append(faces)
        while capture.shown < 3 * len(compiled):
            time.sleep(0.001)

    live_ = analyzer(network)
    monkeypatch.setattr(live_, "warm_up", warm_up)
    with pytest.raises(UserError, match="gave no more frames after 40"):
        live.run(source, live_, [kept])
    assert compiled == list(live.BATCH_SIZES)
    first = kept.scenes[0].frame
    assert first.number >= 3 * len(live.BATCH_SIZES) - 2  # the last that was shown may not have arrived yet
    assert first.time == 0


def test_a_camera_that_vanishes_leaves_a_file_that_plays(weights, tmp_path, monkeypatch, capsys):
    # The faces stay: of two that move any number of frames may be dropped, and who is who be lost.
    real, capture = cv2.VideoCapture, Capture(moving(1) * 12, pause=0.03)
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda address: capture if address == 0 else real(address))
    monkeypatch.setattr(live, "make_detector", lambda *_, **__: bright_patches)
    monkeypatch.setattr(live.Analyzer, "warm_up", lambda *_: None)  # it would be gone before that is done
    with pytest.raises(SystemExit, match="error: camera 0 gave no more frames after 12"):
        live.main([f"--weights={weights}", "--source=0", f"--output={tmp_path}/a/out.mp4", f"--table={tmp_path}/t.csv"])
    frames, fps = read_video(tmp_path / "a" / "out.mp4")
    assert fps == video.USUAL_FPS
    assert len(frames) >= 0.03 * 12 * fps - 1  # it keeps time, whatever was dropped
    rows = read_rows(tmp_path / "t.csv")
    assert {int(row["face"]) for row in rows} == {1, 2}
    assert f"{len(rows)} faces" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["analysis", "output", "signal"])
def test_whatever_ends_it_the_video_so_far_plays(network, weights, tmp_path, monkeypatch, capsys, broken):
    path, calls = write_video(tmp_path / "in.mp4", moving(30)), []

    def detector(image, sizes=None):
        calls.append(1 if sizes is None else 0.5)  # two known faces: two parts of an image are searched
        if sum(calls) == 10 and broken == "analysis":
            raise RuntimeError("a bug")
        if sum(calls) == 10 and broken == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
        return bright_patches(image)

    class Full(Collect):
        def write(self, scene, picture):
            super().write(scene, picture)
            if len(self.scenes) == 9:
                raise OSError(28, "No space left on device")

    if broken == "signal":
        monkeypatch.setattr(live, "make_detector", lambda *_, **__: detector)
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            live.main([f"--weights={weights}", f"--source={path}", f"--output={tmp_path}/out.mp4"])
        assert ended.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == handler
        assert "frames recognised" in capsys.readouterr().out
    else:
        source = video.open_source(str(path))
        outputs = [recording.open_output(tmp_path / "out.mp4", source)] + [Full()] * (broken == "output")
        with pytest.raises(RuntimeError if broken == "analysis" else OSError, match=r"a bug|No space"):
            live.run(source, analyzer(network, detector), outputs)
    assert 7 <= len(read_video(tmp_path / "out.mp4")[0]) <= 10


def test_a_damaged_video_gives_what_can_be_read(network, tmp_path, caplog):
    whole = tmp_path / "in.avi"  # an AVI's index is at its end too, but each frame can be found without
    output = recording.VideoFile(whole, fps=20)
    for number, image in enumerate(moving(40)):
        output.write(recording.Scene(video.Frame(number, number / 20, image), []), image)
    output.close()
    data = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    source, kept = video.open_source(str(tmp_path / "cut.avi")), Collect()
    with caplog.at_level("WARNING", "fer_jax"):
        tally = live.run(source, analyzer(network), [kept])
    assert 10 <= tally.frames < 30
    assert "of its 40 frames could be read; it is damaged" in caplog.text


def test_frames_without_faces_are_counted(network, tmp_path):
    frames = [np.zeros((120, 160, 3), np.uint8)] * 5 + [frame_of([(20, 20)], size=(120, 160))] * 2
    source = video.open_source(str(write_video(tmp_path / "in.mp4", frames)))
    tally = live.run(source, analyzer(network), [table := recording.open_table(tmp_path / "rows.csv", BASIC7)])
    assert (tally.frames, tally.without_face, tally.faces) == (7, 5, 2)
    assert "7 frames recognised, 0 dropped, 5 without a face; 2 faces" in str(tally)
    rows = read_rows(tmp_path / "rows.csv")
    assert tuple(rows[0]) == table.columns
    assert [(row["frame"], row["face"], row["x"], row["width"]) for row in rows] == [
        ("5", "1", "20.0", "60.0"),
        ("6", "1", "20.0", "60.0"),
    ]


# The command


def test_a_face_in_a_video_end_to_end(weights, tmp_path):
    face = cv2.resize(synthetic.example(0, 1, 1).image, (160, 160))
    frames = []
    for i in range(6):
        frame = np.full((240, 320, 3), 120, np.uint8)
        frame[40:200, 20 + 8 * i : 180 + 8 * i] = face
        frames.append(frame)
    path = write_video(tmp_path / "in.mp4", frames)
    live.main([f"--weights={weights}", f"--source={path}", f"--output={tmp_path}/o.mp4", f"--table={tmp_path}/t.csv"])
    rows = read_rows(tmp_path / "t.csv")
    assert len(rows) == 6
    assert {row["face"] for row in rows} == {"1"}
    assert np.ptp([float(row["x"]) for row in rows]) == pytest.approx(40, abs=12)
    assert len(read_video(tmp_path / "o.mp4")[0]) == 6


def test_a_video_gives_the_same_table_each_time_and_who_enters_is_in_it(weights, tmp_path):
    face = cv2.resize(synthetic.example(0, 1, 1).image, (140, 140))
    frames = []
    for i in range(12):
        frame = np.full((480, 640, 3), 120, np.uint8)
        frame[40:180, 20 + 8 * i : 160 + 8 * i] = face
        if i >= 2:
            frame[250:390, 400:540] = face
        frames.append(frame)
    path = write_video(tmp_path / "in.mp4", frames)
    tables = [tmp_path / f"{name}.csv" for name in ("one", "two", "each")]
    for table, options in zip(tables, ([], [], ["--detect_every=1"]), strict=True):
        live.main([f"--weights={weights}", f"--source={path}", f"--table={table}", *options])
    one, two, each = map(read_rows, tables)
    assert one == two
    for rows, first in ((one, following.EVERY), (each, 2)):
        shown = {name: [int(row["frame"]) for row in rows if row["face"] == name] for name in ("1", "2")}
        assert shown == {"1": list(range(12)), "2": list(range(first, 12))}
        assert len(rows) == 24 - first


def test_pictures_are_drawn_under_their_names(weights, tmp_path, caplog, capsys):
    source, output = tmp_path / "in", tmp_path / "deep" / "out"
    source.mkdir()
    picture = np.full((200, 200, 3), 120, np.uint8)
    picture[20:180, 20:180] = cv2.resize(synthetic.example(0, 1, 1).image, (160, 160))
    cv2.imwrite(str(source / "a.png"), picture[..., ::-1])
    cv2.imwrite(str(source / "c.pgm"), picture[..., 0])  # which cannot hold the colours of what is drawn
    (source / "b.jpg").write_text("no picture")
    (source / "e.heic").write_text("of a telephone")
    data = bytearray(cv2.imencode(".png", picture)[1].tobytes())
    data[16:24] = (70_000).to_bytes(4, "big") * 2  # width and height
    (source / "d.png").write_bytes(data)
    with caplog.at_level("WARNING", "fer_jax"):
        live.main([f"--weights={weights}", f"--source={source}", f"--output={output}"])
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "c.pgm.png"]
    drawn = cv2.imread(str(output / "a.png"))[..., ::-1]
    assert drawn.shape == picture.shape
    assert (drawn != picture).any()
    assert "b.jpg: not an image, or damaged; left out" in caplog.text
    assert "d.png: not an image, or damaged; left out" in caplog.text
    assert "in: left out, by their names no images: 1 .heic" in caplog.text
    told = capsys.readouterr().out
    assert "2 frames recognised" in told
    assert told.endswith(f"written: {output}\n")
    live.main([f"--weights={weights}", f"--source={source}/a.png", f"--output={tmp_path}/photo.png"])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "photo.png"))[..., ::-1], drawn)


def wrong_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Name -> (arguments, the message)."""
    whole = write_video(folder / "whole.mp4", moving(10))
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:-400])
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty").mkdir()
    (folder / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "t.csv").write_text("of an earlier call")
    (folder / "twins").mkdir()
    for name in ("a.pgm", "a.pgm.png"):
        (folder / "twins" / name).write_text("this is no picture")
    odd = folder / os.fsdecode(b"\xff.mp4")
    shutil.copy(whole, odd)
    out, source = f"--table={folder}/t.csv", f"--source={whole}"
    return {
        "cut short": ([f"--source={folder}/cut.mp4", out], "cut.mp4 cannot be opened: no video, cut short"),
        "text": ([f"--source={folder}/text.mp4", out], "text.mp4 cannot be opened"),
        "picture of text": ([f"--source={folder}/text.png", out], "1 image files, none of them readable"),
        "empty folder": ([f"--source={folder}/empty", out], "empty has no images in it"),
        "nothing": ([f"--source={folder}/none.mp4", out], "none.mp4 is not there: give a camera"),
        "no camera": (["--source=77", out], "camera 77 cannot be opened: is it there"),
        "no display": ([source], "there is no display: say where the results go"),
        "show": ([source, "--show"], "there is no display for --show"),
        "kind of table": ([source, f"--table={folder}/t.txt"], r"t.txt: name it \*.csv or"),
        "kind of output": ([source, f"--output={folder}/o.gif"], r"frames are written as video; name it \*.mp4"),
        "video of pictures": ([f"--source={folder}/text.png", f"--output={folder}/o.mp4"], "not as video"),
        "over the source": ([source, f"--output={whole}"], "is the source: it would be written over"),
        "over the source at home": ([f"--source=~/{whole.name}", f"--output=~/{whole.name}"], "is the source: it"),
        "over a picture": ([f"--source={folder}/text.png", f"--output={folder}"], "text.png, a picture of the source"),
        "over the source's address": ([f"--source=file://{whole}", f"--output={whole}"], "is the source: it would be"),
        "nothing at the address": (["--source=file://none.mp4", out], "none.mp4 is not there: give a camera"),
        "kind of picture": ([f"--source={folder}/text.png", f"--output={folder}/o.gif"], ".gif is no kind of picture"),
        "twins": ([f"--source={folder}/twins", f"--output={folder}/two"], "two pictures .* written as a.pgm.png"),
        "name": ([f"--source={odd}", out], "names in UTF-8 only; rename it"),
        "name of output": ([source, f"--output={odd}"], "names in UTF-8 only; rename it"),
        "grey": ([f"--source={folder}/text.png", f"--output={folder}/o.pgm"], r"has colours; name it \*.png"),
        "no folder": ([source, f"--output={whole}/o.mp4"], "cannot be written: Not a directory|File exists"),
        "table": ([source, f"--table={folder}/empty/../empty"], "name it"),
        "smoothing": ([source, out, "--smoothing=-1"], "--smoothing=-1 must not be negative"),
        "detect_every": ([source, out, "--detect_every=0"], "--detect_every must be at least 1"),
        "network": (["--weights=nowhere", source, out], "there are no weights at nowhere"),
        "yunet": ([source, out, "--detector=yunet"], "yunet needs its ONNX file"),
        "pointer": ([source, out, "--detector=yunet", f"--model={folder}/pointer.onnx"], "a pointer of Git LFS"),
    }


def test_the_options_reach_what_they_are_for(weights, tmp_path, monkeypatch):
    asked, real = {}, live.Analyzer
    monkeypatch.setattr(live, "make_detector", lambda *_, **options: asked.update(options) or bright_patches)
    monkeypatch.setattr(live, "Analyzer", lambda *some, **options: asked.update(options) or real(*some, **options))
    monkeypatch.setattr(ShapePredictor, "available", lambda: True)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 60, 3), np.uint8))
    arguments = [f"--weights={weights}", f"--source={tmp_path}/a.png", f"--table={tmp_path}/t.csv"]
    live.main([*arguments, "--align=rotation", "--smoothing=0.2", "--min_face=33", "--detect_every=4"])
    assert asked == {
        "landmarks": True,
        "smallest": 33,
        "equalize": False,
        "align": "rotation",
        "smoothing": 0.2,
        "detect_every": 4,
    }


def test_wrong_input_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, (arguments, message) in wrong_inputs(tmp_path).items():
        with pytest.raises(SystemExit) as ended:
            live.main([f"--weights={weights}", *arguments])
        assert (tmp_path / "text.png").read_text() == "this is no picture"
        assert (tmp_path / "t.csv").read_text() == "of an earlier call", name
        assert str(ended.value.code).startswith("error: "), name
        assert pytest.raises(UserError, match=message).matches(UserError(ended.value.code)), (name, ended.value.code)


@pytest.mark.parametrize(("stills", "keys"), [(True, [-1, -1, ord("n")]), (False, [-1]), (True, [-1, ord("q")])])
def test_a_still_is_shown_until_a_key_is_pressed_and_signals_are_heeded_meanwhile(monkeypatch, stills, keys):
    waited, pressed = [], iter(keys)
    monkeypatch.setattr(recording, "has_display", lambda: True)
    for name in ("namedWindow", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda milliseconds: waited.append(milliseconds) or next(pressed))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    window = recording.Window(stills=stills)
    with pytest.raises(recording.Closed) if ord("q") in keys else contextlib.nullcontext():
        window.write(None, np.zeros((4, 4, 3), np.uint8))
    assert len(waited) == len(keys)
    assert all(0 < milliseconds <= 50 for milliseconds in waited)  # 0 would wait without end, and no handler run


def test_only_a_small_network_is_called_directly(weights, monkeypatch):
    called = []
    monkeypatch.setattr(live, "call_directly", lambda: called.append(True))
    assert live.load(weights).emotions == BASIC7
    assert called == [True]
    monkeypatch.setattr(live.recognizer, "SMALL", 100)
    live.load(weights)
    assert called == [True]


def test_a_network_of_faces_cut_out_otherwise_is_told_of(network, caplog):
    aligned = dataclasses.replace(network, align="landmarks")
    for each, align in ((network, "box"), (network, "rotation"), (aligned, "landmarks")):
        live.warn_of_alignment(each, "mine", align)
    assert not caplog.text
    live.warn_of_alignment(aligned, "mine", "box")
    assert "mine was trained on faces aligned by landmarks: --align=landmarks cuts them out so" in caplog.text
    live.warn_of_alignment(dataclasses.replace(network, align="none"), "other", "landmarks")
    assert "other was trained on faces aligned by none: --align=box cuts them out so" in caplog.text


def test_alignment_without_landmarks_is_refused_at_once(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(ShapePredictor, "available", staticmethod(lambda: False))
    for name in ("landmarks", "rotation"):
        with pytest.raises(SystemExit, match=rf"error: --align={name} needs landmarks: pip install"):
            live.main([f"--weights={weights}", f"--align={name}", f"--table={tmp_path}/t.csv"])


@pytest.mark.parametrize("signum", process.ENDING)
def test_a_signal_while_compiling_is_put_off(signum, as_in_a_terminal):
    done = []
    with live.stoppable(), pytest.raises(live.Stopped) as stopped:
        for step in range(2):
            with live.undisturbed():
                os.kill(os.getpid(), signum)
                time.sleep(0.01)
                done.append(step)
    assert stopped.value.signum == signum
    assert done == [0]


def test_a_terminal_that_is_closed_may_say_so_twice(as_in_a_terminal):
    closed = False
    with pytest.raises(live.Stopped), live.stoppable():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(1)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            closed = True
    assert closed


def test_what_nohup_ignores_ends_nothing(as_in_a_terminal):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with live.stoppable(), live.undisturbed():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


# Drawing


def test_the_strengths_shown_are_intensities_and_neutrals_probability(network, monkeypatch):
    face = recording.TrackedFace(
        1,
        Face((10.0, 10.0, 50.0, 50.0)),
        *(np.zeros(7), np.zeros(6)),
        np.array([0.1, 0, 0, 0.2, 0, 0, 0.7], np.float32),
        np.array([0.3, 0, 0, 0.9, 0, 0], np.float32),
    )
    labels = []
    monkeypatch.setattr(live.overlay, "draw", lambda image, found, *_: labels.extend(found))
    live.picture(np.zeros((80, 80, 3), np.uint8), [face], BASIC7)
    assert labels[0].strongest == BASIC7.index("neutral")
    np.testing.assert_allclose(labels[0].strengths, [0.3, 0, 0, 0.9, 0, 0, 0.7], rtol=1e-6)


def test_the_frame_rate_is_frames_by_seconds(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: now[0])
    rate = live.FrameRate()
    for _ in range(100):
        now[0] += 0.05
        shown = rate.tick()
    assert shown == pytest.approx(20)
