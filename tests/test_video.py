"""Video files hold every frame when it was shown, and what is read ahead comes in order and ends when told."""

import numpy as np
import pytest

from fer_jax import recording, video, web_uploads
from fer_jax.errors import UserError
from tests.clips import read_video, write_recording


def test_a_live_recording_keeps_time(tmp_path):
    output = recording.VideoFile(tmp_path / "out.mp4", fps=10, live=True)
    for number, when in enumerate((0.0, 0.52, 0.55, 2.0)):
        image = np.full((48, 64 + 16 * number, 3), 60 * number, np.uint8)  # a stream may change its size
        output.write(recording.Scene(video.Frame(number, when, image), []), image)
    output.close()
    frames, _ = read_video(tmp_path / "out.mp4")
    assert [round(frame.mean() / 60) for frame in frames] == [0] * 5 + [2] * 15 + [3]


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
    assert len(list(clip)) == 30
    assert clip.fps == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("suffix", list(recording.CODECS))
def test_every_container_holds_all_frames_at_their_rate(suffix, tmp_path):
    output = recording.VideoFile(tmp_path / f"out{suffix}", fps=30000 / 1001, live=False)
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
