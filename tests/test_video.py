"""Video files hold every frame when it was shown, and what is read ahead comes in order and ends when told."""

import os

import numpy as np
import pytest

from fer_jax import recording, video, web_uploads
from fer_jax.errors import UserError
from tests.clips import read_video, write_recording, write_video


def test_a_live_recording_keeps_time(tmp_path):
    output = recording.VideoFile(tmp_path / "out.mp4", fps=10)
    for number, when in enumerate((0.0, 0.52, 0.55, 2.0)):
        image = np.full((48, 64 + 16 * number, 3), 60 * number, np.uint8)  # a stream may change its size
        output.write(recording.Scene(video.Frame(number, when, image), []), image)
    output.close()
    frames, _ = read_video(tmp_path / "out.mp4")
    assert [round(frame.mean() / 60) for frame in frames] == [0] * 5 + [1] + [2] * 14 + [3]


@pytest.mark.parametrize("fps", [66.123, 119.857, 239.123])
def test_the_rates_of_slow_motion_can_be_written(fps, tmp_path):
    output = recording.VideoFile(tmp_path / "out.mp4", fps=fps)
    for number in range(12):
        image = np.full((48, 64, 3), 20 * number, np.uint8)
        output.write(recording.Scene(video.Frame(number, number / fps, image), []), image)
    output.close()
    frames, written = read_video(tmp_path / "out.mp4")
    assert len(frames) == 12
    assert written == pytest.approx(fps, abs=0.01)


def test_a_recording_whose_rate_varies_keeps_its_time_and_is_not_called_damaged(tmp_path, caplog):
    # Three seconds at 8 frames a second, one at 24: OpenCV makes 24 a second of it, and 96 frames.
    times = np.concatenate([np.arange(0, 3000, 125), np.arange(3000, 4000, 1000 / 24)]).astype(int)
    frames = [np.full((48, 64, 3), 2 * number, np.uint8) for number in range(len(times))]
    path = write_recording(tmp_path / "recorded.mkv", frames, times, seconds=4.0)
    source = video.open_source(str(path))
    output = recording.open_output(tmp_path / "out.mp4", source)
    with caplog.at_level("WARNING", "fer_jax"):
        for frame in source:
            output.write(recording.Scene(frame, []), frame.image)
    output.close()
    assert not caplog.text
    written, fps = read_video(tmp_path / "out.mp4")
    assert len(written) / fps == pytest.approx(4, abs=0.2)
    clip = web_uploads.open_clip(path, "recorded.mkv")
    assert clip.seconds == pytest.approx(4)
    assert np.diff([frame.time for frame in clip]).max() < 0.13


def test_pauses_of_a_recording_are_kept_and_it_is_not_called_damaged(tmp_path, caplog):
    times = np.concatenate([np.arange(0, 7000, 100), np.arange(22_000, 25_000, 100)])  # a screen that stood still
    frames = [np.full((48, 64, 3), number, np.uint8) for number in range(len(times))]
    path = write_recording(tmp_path / "recorded.mkv", frames, times, seconds=25.0)
    found = [frame.time for frame in video.open_source(str(path))]
    np.testing.assert_allclose(found, times / 1000, atol=0.002)
    assert not caplog.text
    assert web_uploads.open_clip(path, "recorded.mkv").seconds == pytest.approx(25)


def test_a_clock_that_is_set_anew_is_taken_back(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(video, "JUMP", 10.0)
    times = np.concatenate([np.arange(0, 1000, 100), np.arange(20_000, 21_000, 100)])
    frames = [np.full((48, 64, 3), number, np.uint8) for number in range(len(times))]
    path = write_recording(tmp_path / "recorded.mkv", frames, times)
    found = [frame.time for frame in video.open_source(str(path))]
    np.testing.assert_allclose(np.diff(found), 0.1, atol=0.002)
    assert "its times jump by 19 s at frame 10, and are taken back" in caplog.text


def test_a_file_may_lie_at_a_url_and_have_a_colon_in_its_name(tmp_path):
    path = write_video(tmp_path / "10:30.mp4", [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(20)])
    plain = write_video(tmp_path / "clip.mp4", [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(20)])
    for address in (os.path.relpath(path), path, f"file://{plain}"):
        source = video.open_source(str(address))
        assert not source.live
        assert len(list(source)) == 20


def test_a_browsers_recording_has_the_rate_of_its_frames(tmp_path):
    # OpenCV takes it for one of 1000 frames a second.
    jitter = np.random.default_rng(0).normal(0, 8, 90)
    times = np.maximum.accumulate(np.maximum(np.arange(90) * 1000 / 30 + jitter, 0)).astype(int)
    frames = [np.full((48, 64, 3), number, np.uint8) for number in range(90)]
    path = write_recording(tmp_path / "recorded.mkv", frames, times)
    source = video.open_source(str(path))
    assert source.fps == pytest.approx(30, rel=0.02)
    # Where two frames have one time, the later one comes a frame's time after the other.
    found, expected = [frame.time for frame in source], (times - times[0]) / 1000
    assert np.abs(found - expected).max() < 0.034
    assert (np.diff(found) > 0).all()
    clip = web_uploads.open_clip(path, "recorded.mkv")
    assert len(list(clip)) == pytest.approx(30, abs=1)
    assert clip.fps == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("suffix", list(recording.CODECS))
def test_every_container_holds_all_frames_at_their_rate(suffix, tmp_path):
    output = recording.VideoFile(tmp_path / f"out{suffix}", fps=30000 / 1001)
    for number in range(7):
        image = np.full((47, 65, 3), 30 * number, np.uint8)  # odd sides
        output.write(recording.Scene(video.Frame(number, number / 30, image), []), image)
    output.close()
    frames, fps = read_video(tmp_path / f"out{suffix}")
    assert len(frames) == 7
    assert fps == pytest.approx(29.97, abs=0.01)


def test_reading_ahead_hands_errors_over_after_the_items_before_them():
    def items():
        yield 1
        yield 2
        raise UserError("the end")

    ahead, taken = video.Ahead(items(), depth=2), []
    with pytest.raises(UserError, match="the end"):
        for item in ahead:
            taken.append(item)
    assert taken == [1, 2]
    ahead.close()


def test_closing_ends_a_thread_that_waits_for_room_and_its_generator():
    closed = []

    def forever():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    ahead = video.Ahead(forever(), depth=2)
    assert next(ahead) == 0
    ahead.close()
    assert not ahead._thread.is_alive()
    assert closed == [True]
    assert list(ahead) == []
