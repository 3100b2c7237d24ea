"""Searching the places of known faces instead of whole images: the same faces, and nobody overlooked for long."""

import cv2
import numpy as np
import pytest

from fer_jax import following
from fer_jax.data import synthetic
from fer_jax.data.detect import Face, ShapePredictor, make_detector
from fer_jax.errors import UserError
from fer_jax.following import Follower, places
from fer_jax.tracking import Tracker
from fer_jax.tracking import intersection_over_union as overlap

SIZE = 480, 640


class Patches:
    """A detector of bright patches on a black ground, which keeps what it was asked: (shape, sizes) of each search."""

    def __init__(self):
        self.asked = []

    def __call__(self, image, sizes=None):
        self.asked.append((image.shape, sizes))
        _, _, boxes, _ = cv2.connectedComponentsWithStats((image[..., 0] > 60).astype(np.uint8))
        return [Face(tuple(map(float, box[:4]))) for box in boxes[1:]]

    def searched(self) -> list[str]:
        """Of each search since the last time: was it of a `whole` image or of a `part`?"""
        kinds = ["whole" if sizes is None else "part" for _, sizes in self.asked]
        self.asked.clear()
        return kinds


def frame_of(*boxes) -> np.ndarray:
    """A black frame with a bright patch in each box."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for x, y, width, height in boxes:
        image[y : y + height, x : x + width] = 200
    return image


def boxes_of(faces) -> set:
    return {face.box for face in faces}


def drawn_clip() -> list[np.ndarray]:
    """Frames of drawn faces: one comes nearer as it walks, one is there for some time, then the scene changes."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    ground = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 25), None, 40, 200, cv2.NORM_MINMAX)
    walker, guest = (synthetic.example(0, 1, number).image for number in (1, 2))
    frames = []
    for i in range(36):
        frame = ground.copy() if i < 30 else ground[:, ::-1].copy()
        shown = [(walker, 20 + 9 * i, 30 + 2 * i, 110 + 3 * i)] if i < 30 else [(guest, 20, 250, 210)]
        if 7 <= i < 19:
            shown.append((guest, 470, 300, 120))
        for face, x, y, side in shown:
            frame[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        frames.append(frame)
    return frames


def tracks(frames, every: int) -> list[dict]:
    """Of each frame the boxes by person."""
    follower = Follower(make_detector("haar", landmarks=False, smallest=50, equalize=False), every=every)
    tracker, found = Tracker(), []
    for i, frame in enumerate(frames):
        boxes = [face.box for face in follower(frame)]
        numbers, _ = tracker.update(boxes, np.zeros((len(boxes), 1)), i / 25)
        found.append(dict(zip(numbers, boxes, strict=True)))
    return found


def test_the_tracks_are_those_of_whole_images():
    frames, every = drawn_clip(), 5
    expected, found = tracks(frames, 1), tracks(frames, every)
    assert {number for faces in expected for number in faces} == {1, 2, 3}  # walker, guest, after the change
    late = 0
    for i, (faces, others) in enumerate(zip(expected, found, strict=True)):
        if set(faces) != set(others):
            assert set(faces) - set(others) == {2}  # the guest, when it came
            late += 1
            assert 7 <= i < 7 + every
        for number in others:
            assert overlap(faces[number], others[number]) >= 0.8, i
    assert late <= every - 1
    assert found == tracks(frames, every)


def test_a_new_face_is_found_in_the_next_whole_image_and_a_lost_one_makes_it_whole():
    detector, one, two = Patches(), (60, 60, 80, 80), (400, 300, 90, 90)
    follower = Follower(detector, every=4)
    assert follower(frame_of()) == follower(frame_of()) == []
    assert detector.searched() == ["whole"] * 2  # nobody known
    assert boxes_of(follower(frame_of(one))) == {one}
    found = [boxes_of(follower(frame_of(one, two))) for _ in range(4)]
    assert found == [{one}] * 3 + [{one, two}]
    assert detector.searched() == ["whole", *["part"] * 3, "whole"]
    assert boxes_of(follower(frame_of(two))) == {two}
    assert detector.searched() == ["part", "part", "whole"]  # one was lost
    moved = (430, 310, 90, 90)
    assert boxes_of(follower(frame_of(moved))) == {moved}
    assert detector.searched() == ["part", "part"]  # it was lost already
    follower.forget()
    assert boxes_of(follower(frame_of(moved))) == {moved}
    assert detector.searched() == ["whole"]


def test_a_face_missed_for_some_images_is_looked_for_at_its_place():
    detector, one, two = Patches(), (60, 60, 80, 80), (400, 300, 90, 90)
    follower = Follower(detector, every=6)
    follower(frame_of(one, two))
    assert boxes_of(follower(frame_of(one))) == {one}
    detector.searched()
    assert boxes_of(follower(frame_of(one, two))) == {one, two}
    assert detector.searched() == ["part", "part"]
    for _ in range(6):
        assert boxes_of(follower(frame_of(one))) == {one}
    detector.searched()
    follower(frame_of(one))
    assert len(detector.searched()) == 1  # one place only: the other was missed long enough


def test_who_is_searched_for_and_where():
    detector = Patches()
    follower = Follower(detector, every=5)
    for x in (100, 110):
        follower(frame_of((x, 100, 90, 90)))
    (whole, _), (part, sizes) = detector.asked
    assert whole == (*SIZE, 3)
    assert part == (151, 151, 3)
    assert sizes == (0.8 * 90, 1.25 * 90)


def test_places_do_not_overlap_and_hold_their_faces():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 12):
        boxes = [(*rng.uniform(-20, 600, 2), *rng.uniform(20, 120, 2)) for _ in range(count)]
        found = places(boxes, 640, 480)
        covered = np.zeros((480, 640), int)
        for place in found:
            covered[place.top : place.bottom, place.left : place.right] += 1
        assert covered.max() <= 1
        for x, y, width, height in boxes:
            inside = covered[max(0, int(y)) : int(y + height), max(0, int(x)) : int(x + width)]
            assert inside.all()
    assert places([(700, 500, 50, 50)], 640, 480) == []
    near = places([(100, 100, 60, 60), (150, 100, 100, 90)], 640, 480)
    assert [(place.smallest, place.largest) for place in near] == [(48, 125)]
    assert near[0][:4] == (80, 70, 284, 221)


def test_in_a_crowd_the_whole_image_is_searched():
    detector = Patches()
    follower = Follower(detector, every=5)
    side = 20
    crowd = [(60 * i + 5, 60 * j + 5, side, side) for i in range(8) for j in range(2)]
    for _ in range(3):
        assert boxes_of(follower(frame_of(*crowd))) == set(crowd)
    assert detector.searched() == ["whole"] * 3
    few = crowd[: SIZE[0] * SIZE[1] // following.PIXELS_OF_A_FACE]
    follower(frame_of(*few))
    for _ in range(5):
        follower(frame_of(*few))
    assert "part" in detector.searched()


def test_every_image_whole_asks_nothing_else_of_the_detector():
    follower = Follower(lambda image: [Face((1.0, 2.0, 3.0, 4.0))], every=1)
    for _ in range(3):
        assert boxes_of(follower(frame_of())) == {(1, 2, 3, 4)}
    for every in (0, -2):
        with pytest.raises(UserError, match="--detect_every must be at least 1"):
            Follower(Patches(), every=every)


def test_a_stream_that_changes_its_size_is_searched_whole():
    detector = Patches()
    follower = Follower(detector, every=9)
    follower(frame_of((400, 300, 90, 90)))
    assert follower(np.zeros((100, 120, 3), np.uint8)) == []
    assert detector.searched() == ["whole", "whole"]


def test_landmarks_move_with_their_face():
    face = Face.from_landmarks(np.random.default_rng(0).uniform(0, 50, (68, 2)))
    moved = face.moved(30, 7)
    again = Face.from_landmarks(face.landmarks + (30, 7))
    np.testing.assert_allclose(moved.box, again.box)
    np.testing.assert_array_equal(moved.landmarks, again.landmarks)
    np.testing.assert_allclose(moved.eyes, again.eyes)
    assert Face((1, 2, 3, 4)).moved(1, 1) == Face((2, 3, 3, 4))


@pytest.mark.parametrize("name", ["haar", "dlib"])
def test_a_part_of_an_image_shows_the_same_face(name):
    if name == "dlib" and not ShapePredictor.available():
        pytest.skip("needs the extra align")
    image = drawn_clip()[5]
    detector = make_detector(name, landmarks=name == "dlib", equalize=False)
    expected = detector(image)
    follower = Follower(detector, every=2)
    follower(image)
    found = follower(image)
    assert len(found) == len(expected) == 1
    assert overlap(found[0].box, expected[0].box) > 0.8
    if name == "dlib":
        side = expected[0].box[2]
        assert np.abs(found[0].landmarks - expected[0].landmarks).mean() < 0.03 * side


def test_haar_searches_for_nothing_smaller_than_it_was_made_for():
    image = drawn_clip()[5]
    detector = make_detector("haar", landmarks=False, smallest=60, equalize=False)
    (face,) = detector(image)
    side = face.box[2]
    assert detector(image, sizes=(0.8 * side, 1.25 * side)) != []
    assert detector(image, sizes=(2 * side, 3 * side)) == []
    large = make_detector("haar", landmarks=False, smallest=int(1.5 * side), equalize=False)
    assert large(image, sizes=(0.8 * side, 1.25 * side)) == []
