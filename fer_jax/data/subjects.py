"""Which subjects go to which split, so that no one's face is both trained on and tested on.

All of it is a function of the names and a seed: the order of the subjects does not matter, nor does NumPy's version.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from fer_jax.errors import UserError

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)

Item = TypeVar("Item")


def split_subjects(
    subjects: Iterable[Hashable], shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, set[Hashable]]:
    """Every subject in exactly one of train, validation and test.

    Args:
      subjects: their names; a name that occurs again is the same subject.
      shares: of the subjects for each split; the sizes are as near to them as whole subjects allow. From three
        subjects on, no split with a share above 0 is empty.
      seed: of who goes where.

    Raises:
      UserError: the shares are not three numbers from 0 on with the sum 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares {tuple(shares)} must be three numbers from 0 on, for {', '.join(SPLITS)}, sum 1")
    order = _shuffled(subjects, seed)
    splits, start = {}, 0
    for split, size in zip(SPLITS, _sizes(len(order), shares), strict=True):
        splits[split] = set(order[start : start + size])
        start += size
    return splits


def split_stratified(emotions: Mapping[Hashable, str]) -> dict[str, set[Hashable]]:
    """For data without known subjects: every item, whose emotion is given, in one split, each emotion by SHARES."""
    splits = {split: set() for split in SPLITS}
    for emotion in sorted(set(emotions.values())):
        members = [item for item, its_emotion in emotions.items() if its_emotion == emotion]
        for split, chosen in split_subjects(members).items():
            splits[split] |= chosen
    return splits


def folds(subjects: Iterable[Hashable], k: int, seed: int = 0) -> list[set[Hashable]]:
    """The subjects in k disjoint sets whose sizes differ by one at most, for cross-validation.

    Raises:
      UserError: k is not in 2..the number of subjects.
    """
    order = _shuffled(subjects, seed)
    if not 2 <= k <= len(order):
        raise UserError(f"{k} folds of {len(order)} subjects: the number of folds must lie in 2..{len(order)}")
    return [set(order[i::k]) for i in range(k)]


def divide(
    items: Iterable[Item], key: Callable[[Item], Hashable], splits: Mapping[str, set[Hashable]]
) -> dict[str, list[Item]]:
    """The items by the split that holds their key, in their order; splits that hold none are left out."""
    split_of = {name: split for split, names in splits.items() for name in names}
    divided = {split: [] for split in splits}
    for item in items:
        divided[split_of[key(item)]].append(item)
    return {split: chosen for split, chosen in divided.items() if chosen}


def shared(subjects: Mapping[str, Iterable[str]]) -> dict[str, dict[str, int]]:
    """The subjects that are in more than one split, with their number of images in each.

    Args:
      subjects: split -> the subject of each example; an empty one is unknown.
    """
    counts = {split: Counter(names) for split, names in subjects.items()}
    found = {}
    for subject in sorted(set().union(*counts.values()) - {""}):
        splits = {split: count[subject] for split, count in counts.items() if subject in count}
        if len(splits) > 1:
            found[subject] = splits
    return found


def _shuffled(subjects: Iterable[Hashable], seed: int) -> list[Hashable]:
    def digest(name: Hashable) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()  # names may be no UTF-8

    return sorted(set(subjects), key=digest)


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Whole sizes by the largest remainders, then one for each split that would be empty, from the largest."""
    sizes = [int(count * share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: sizes[i] - count * shares[i])
    for i in by_remainder[: count - sum(sizes)]:
        sizes[i] += 1
    if count >= len(shares):
        for i, share in enumerate(shares):
            if share > 0 and sizes[i] == 0:
                sizes[sizes.index(max(sizes))] -= 1
                sizes[i] = 1
    return sizes
