"""Emotion names: the canonical order, the names other sources use, and remapping by name.

At least eight orders of the same emotions are in use in the field (FER2013, FER+, AffectNet, folder copies
sorted alphabetically, ...), and a label matched by position is the classic silent error. So a data set, a
checkpoint and an export each carry their names, and everything here works on names alone.
"""

from collections.abc import Sequence

import numpy as np

CANONICAL: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
BASIC7: tuple[str, ...] = CANONICAL[:7]

_SYNONYMS = {
    "angry": ("anger", "angriness", "an"),
    "disgust": ("disgusted", "di"),
    "fear": ("afraid", "fearful", "fe", "scared"),
    "happy": ("happiness", "joy", "ha", "smile"),
    "sad": ("sadness", "sa"),
    "surprise": ("surprised", "su"),
    "neutral": ("neutrality", "ne", "calm"),
    "contempt": ("contemptuous", "co"),
}
_BY_NAME = {name: canonical for canonical, names in _SYNONYMS.items() for name in (canonical, *names)}


def canonical(name: str) -> str:
    """The canonical name of an emotion, e.g. `Happiness` -> `happy`.

    Raises:
      ValueError: the name is unknown; the message lists the known ones.
    """
    try:
        return _BY_NAME[name.strip().lower()]
    except KeyError:
        raise ValueError(f"unknown emotion {name!r}; known: {', '.join(CANONICAL)} (and e.g. anger, joy)") from None


def expressed(names: Sequence[str]) -> tuple[str, ...]:
    """The names that can have an intensity: all but neutral, in the given order."""
    return tuple(name for name in names if name != "neutral")


def remap(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """For each source class its index among the target names: int32 [len(source)].

    Raises:
      ValueError: a source emotion is not among the target's.
    """
    missing = [name for name in source if name not in target]
    if missing:
        raise ValueError(
            f"emotions {missing} are not among {list(target)}: choose a data set or model with the same ones"
        )
    return np.array([list(target).index(name) for name in source], np.int32)


def relabel(labels: np.ndarray, source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Labels of the source's emotions as those of the target's, by name: int32, shaped as they are.

    -1, an image without a label, stays; an emotion that the target lacks becomes it.
    """
    places = [list(target).index(name) if name in target else -1 for name in source]
    return np.array([*places, -1], np.int32)[labels]
