"""Splits and folds by subject, and the square that is cut out of a photograph."""

import itertools

import numpy as np
import pytest

from fer_jax.data.datasets import base
from fer_jax.data.subjects import divide, folds, split_stratified, split_subjects
from fer_jax.errors import UserError
from tests.miniatures import face


def brute_force_distance(count, shares):
    """The least sum of |size - count * share| over all whole sizes, none of them 0 where that is possible."""
    least = 1 if count >= 3 else 0
    best = np.inf
    for train, validation in itertools.product(range(count + 1), repeat=2):
        sizes = (train, validation, count - train - validation)
        if min(sizes) >= 0 and all(size >= least or share == 0 for size, share in zip(sizes, shares, strict=True)):
            best = min(best, sum(abs(size - count * share) for size, share in zip(sizes, shares, strict=True)))
    return best


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.9, 0, 0.1), (1, 0, 0)])
def test_every_subject_is_in_one_split_and_the_sizes_are_as_near_the_shares_as_can_be(shares):
    for count in range(31):
        subjects = [f"S{i:03}" for i in range(count)]
        splits = split_subjects(subjects, shares, seed=count)
        assert list(splits) == ["train", "validation", "test"]
        assert sorted(itertools.chain(*splits.values())) == subjects  # all of them, none twice
        sizes = [len(chosen) for chosen in splits.values()]
        distance = sum(abs(size - count * share) for size, share in zip(sizes, shares, strict=True))
        assert distance == pytest.approx(brute_force_distance(count, shares))
        if count >= 3:
            assert all(size > 0 or share == 0 for size, share in zip(sizes, shares, strict=True))


def test_a_split_depends_on_the_names_and_the_seed_alone():
    subjects = [f"S{i:03}" for i in range(20)]
    splits = split_subjects(subjects)
    assert split_subjects(subjects[::-1] + subjects[:5]) == splits
    assert split_subjects(subjects, seed=1) != splits
    # Written down, so that no Python, NumPy or change of the code moves a subject unnoticed.
    assert (splits["validation"], splits["test"]) == ({"S008", "S019"}, {"S006", "S009"})


def test_folds_are_disjoint_complete_even_and_no_longer_than_the_subjects():
    for count in range(2, 25):
        subjects = set(range(count))
        for k in range(2, count + 1):
            parts = folds(subjects, k, seed=k)
            assert len(parts) == k
            assert sorted(itertools.chain(*parts)) == sorted(subjects)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert folds(range(10), 5) == folds(reversed(range(10)), 5) != folds(range(10), 5, seed=1)
    with pytest.raises(UserError, match=r"11 folds of 10 subjects: the number of folds must lie in 2\.\.10"):
        folds(range(10), 11)


def test_shares_that_are_none_are_refused():
    for shares in ((0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)):
        with pytest.raises(UserError, match="three numbers from 0 on"):
            split_subjects("abc", shares)


def test_a_stratified_split_divides_each_emotion():
    emotions = {f"{i}.jpg": "happy" if i % 4 else "sad" for i in range(80)}
    splits = split_stratified(emotions)
    counts = {
        split: [sum(emotions[i] == e for i in items) for e in ("happy", "sad")] for split, items in splits.items()
    }
    assert counts == {"train": [48, 16], "validation": [6, 2], "test": [6, 2]}
    assert sorted(itertools.chain(*splits.values())) == sorted(emotions)


def test_dividing_keeps_the_order_and_drops_empty_splits():
    splits = {"train": {"a", "b"}, "validation": set(), "test": {"c"}}
    assert divide("cabac", str, splits) == {"train": ["a", "b", "a"], "test": ["c", "c"]}


def test_an_aligned_image_stays_as_it_is():
    image = face("happy", 3)
    np.testing.assert_array_equal(base.square(image, 128), image)
    np.testing.assert_array_equal(base.square(image[..., :1], 128), image[..., :1])


def test_the_centre_or_the_box_is_cut_out():
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    np.testing.assert_array_equal(base.square(image, 60), image[:, 20:80])
    np.testing.assert_array_equal(base.square(image, 30, (50, 10, 30, 20)), image[5:35, 50:80])
    np.testing.assert_array_equal(base.square(image, 30, (90, -5, 30, 20)), image[:30, 70:])  # moved inside
    wide = base.square(image, 80, (10, 0, 80, 60))  # higher than the image: its border is repeated
    np.testing.assert_array_equal(wide[10:70], image[:, 10:90])
    np.testing.assert_array_equal(wide[:10], np.repeat(image[:1, 10:90], 10, axis=0))
    np.testing.assert_array_equal(wide[70:], np.repeat(image[-1:, 10:90], 10, axis=0))
    assert base.square(image, 100, (-1e6, 0, 1e9, 1e9)).shape == (100, 100, 3)
    half = base.square(image[:, 20:80, :1], 30)
    means = image[:, 20:80, 0].reshape(30, 2, 30, 2).mean((1, 3))
    np.testing.assert_allclose(half[..., 0], means, atol=0.51)
    ramp = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None], 30, axis=0)[..., None]
    assert (np.diff(base.square(ramp, 60)[0, 1:-1, 0].astype(int)) == 4).all()  # enlarged without blocks
