"""Facial geometry by action units: a 68-landmark face, and how FACS action units and emotions move it.

Coordinates are the face's own: the origin between the eyes, x to the right of the image, y down, the distance
of the eye centres 1. Landmarks are in the iBUG order (0..67). Emotions are the EMFACS prototypes: Friesen &
Ekman 1983, "EMFACS-7: Emotional Facial Action Coding System"; Ekman, Friesen & Hager 2002, "FACS Investigator's
Guide", table 10-1. The size of each displacement is ours, chosen so that a person names the emotion at a glance.
"""

import numpy as np

# The left half of the face (in the image) and the midline; the right half is its mirror image.
_LEFT_HALF = {
    8: (0.0, 1.80),
    **dict(
        zip(
            range(17, 22),
            [(-0.95, -0.30), (-0.80, -0.41), (-0.60, -0.45), (-0.40, -0.42), (-0.20, -0.35)],
            strict=True,
        )
    ),
    **dict(zip(range(27, 31), [(0.0, 0.02), (0.0, 0.23), (0.0, 0.44), (0.0, 0.64)], strict=True)),
    **dict(zip(range(31, 34), [(-0.24, 0.76), (-0.12, 0.80), (0.0, 0.83)], strict=True)),
    **dict(zip(range(36, 40), [(-0.71, 0.0), (-0.58, -0.085), (-0.43, -0.085), (-0.29, 0.015)], strict=True)),
    **dict(zip(range(40, 42), [(-0.42, 0.06), (-0.58, 0.06)], strict=True)),
    **dict(zip(range(48, 52), [(-0.42, 1.19), (-0.26, 1.11), (-0.10, 1.07), (0.0, 1.09)], strict=True)),
    **dict(zip(range(57, 60), [(0.0, 1.36), (-0.12, 1.35), (-0.28, 1.29)], strict=True)),
    **dict(zip(range(60, 63), [(-0.36, 1.19), (-0.13, 1.185), (0.0, 1.19)], strict=True)),
    **dict(zip(range(66, 68), [(0.0, 1.205), (-0.13, 1.205)], strict=True)),
}

# MIRROR[i] is the landmark that lies where landmark i lay, once the image is mirrored.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
)


def neutral_face(jaw_width: float = 1.12, squareness: float = 0.8) -> np.ndarray:
    """The landmarks of a neutral face [68, 2]; `squareness` below 1 gives an angular jaw, above 1 a pointed one."""
    points = np.zeros((68, 2))
    for index, (x, y) in _LEFT_HALF.items():
        points[index] = x, y
        points[MIRROR[index]] = -x, y
    angle = np.pi * np.arange(17) / 16
    chin = _LEFT_HALF[8][1]
    points[:17, 0] = -jaw_width * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** squareness
    points[:17, 1] = chin * np.sin(angle) ** 0.95
    return points


# Displacements at full activation, of landmarks of the left half; positive x is towards the midline.
_DISPLACEMENTS: dict[int, dict[int, tuple[float, float]]] = {
    1: {21: (0.0, -0.22), 20: (0.0, -0.16), 19: (0.0, -0.05)},  # inner brow raiser
    2: {17: (0.0, -0.14), 18: (0.0, -0.20), 19: (0.0, -0.15), 20: (0.0, -0.05)},  # outer brow raiser
    4: {21: (0.07, 0.17), 20: (0.05, 0.13), 19: (0.03, 0.08), 18: (0.01, 0.03)},  # brow lowerer
    5: {37: (0.0, -0.075), 38: (0.0, -0.075)},  # upper lid raiser
    6: {40: (0.0, -0.05), 41: (0.0, -0.05), 37: (0.0, 0.02), 38: (0.0, 0.02)},  # cheek raiser
    7: {40: (0.0, -0.03), 41: (0.0, -0.03), 37: (0.0, 0.025), 38: (0.0, 0.025)},  # lid tightener
    9: {
        31: (-0.04, -0.10),
        32: (-0.01, -0.09),
        33: (0.0, -0.07),
        30: (0.0, -0.04),
        21: (0.05, 0.11),
        20: (0.03, 0.09),
    }
    | {
        40: (0.0, -0.045),
        41: (0.0, -0.035),
        37: (0.0, 0.02),
        38: (0.0, 0.03),
        49: (0.0, -0.06),
        50: (0.0, -0.09),
    }
    | {51: (0.0, -0.08), 61: (0.0, -0.05), 62: (0.0, -0.05)},  # nose wrinkler
    10: {49: (-0.01, -0.08), 50: (0.0, -0.11), 51: (0.0, -0.09), 61: (0.0, -0.09), 62: (0.0, -0.08)}
    | {48: (0.0, 0.01)},  # upper lip raiser
    12: {48: (-0.15, -0.17), 60: (-0.14, -0.16), 49: (-0.07, -0.05), 59: (-0.09, -0.05), 58: (-0.02, 0.02)}
    | {
        50: (0.0, 0.02),
        51: (0.0, 0.03),
        57: (0.0, 0.03),
        67: (-0.04, 0.02),
        61: (-0.03, 0.02),
        62: (0.0, 0.03),
    }
    | {66: (0.0, 0.03), 5: (-0.02, 0.0), 4: (-0.03, 0.0), 3: (-0.03, 0.0)},  # lip corner puller
    15: {48: (0.03, 0.15), 60: (0.03, 0.15), 49: (0.0, 0.04), 59: (0.0, 0.06)},  # lip corner depressor
    17: {57: (0.0, -0.07), 58: (0.0, -0.07), 59: (0.0, -0.05), 66: (0.0, -0.04), 67: (0.0, -0.04)}
    | {
        51: (0.0, -0.03),
        50: (0.0, -0.03),
        62: (0.0, -0.04),
        61: (0.0, -0.04),
        8: (0.0, -0.04),
    },  # chin raiser
    20: {48: (-0.15, 0.05), 60: (-0.15, 0.05), 49: (-0.07, 0.01), 59: (-0.09, 0.02), 67: (-0.06, 0.0)}
    | {61: (-0.05, 0.0)},  # lip stretcher
    23: {48: (0.07, 0.0), 60: (0.07, 0.0), 49: (0.03, 0.05), 50: (0.01, 0.07), 51: (0.0, 0.06)}
    | {57: (0.0, -0.08), 58: (0.02, -0.08), 59: (0.05, -0.05)},  # lip tightener
    25: {57: (0.0, 0.08), 58: (0.0, 0.07), 59: (0.0, 0.04), 66: (0.0, 0.11), 67: (0.0, 0.10)}
    | {62: (0.0, -0.02), 61: (0.0, -0.02)},  # lips part
    26: {
        57: (0.0, 0.26),
        58: (0.0, 0.25),
        59: (0.02, 0.18),
        66: (0.0, 0.28),
        67: (0.01, 0.26),
        48: (0.06, 0.06),
    }
    | {
        60: (0.06, 0.06),
        8: (0.0, 0.20),
        7: (0.0, 0.19),
        6: (0.0, 0.15),
        5: (0.0, 0.09),
        4: (0.0, 0.03),
    },  # jaw drop
}


def _symmetric(displacements: dict[int, tuple[float, float]]) -> np.ndarray:
    field = np.zeros((68, 2))
    for index, (x, y) in displacements.items():
        field[index] = x, y
        field[MIRROR[index]] = -x, y
    return field


# Action unit -> displacement of each landmark [68, 2] at full activation.
ACTION_UNITS: dict[int, np.ndarray] = {unit: _symmetric(moved) for unit, moved in _DISPLACEMENTS.items()}

# Emotion -> action units and their share. 25 (lips part) goes with 26 and with a broad smile.
PROTOTYPES: dict[str, dict[int, float]] = {
    "angry": {4: 1.0, 5: 0.55, 7: 0.6, 23: 1.0},
    "disgust": {9: 1.0, 10: 0.8, 17: 0.6, 15: 0.5},
    "fear": {1: 0.9, 2: 0.5, 4: 0.55, 5: 1.0, 20: 1.0, 25: 0.9},
    "happy": {6: 1.0, 12: 1.0, 25: 0.9},
    "sad": {1: 0.95, 4: 0.35, 15: 1.0, 17: 0.4},
    "surprise": {1: 1.0, 2: 1.0, 5: 0.9, 25: 0.5, 26: 1.0},
}


def move(face: np.ndarray, activations: dict[int, float], *, left: float = 1.0, right: float = 1.0) -> np.ndarray:
    """The face [68, 2] with action units applied, each at its activation (0 none, 1 full).

    `left` and `right` scale the activations on the two halves of the image, for asymmetry.
    """
    side = np.where(face[:, :1] < 0, left, right)
    return face + side * sum(
        (activation * ACTION_UNITS[unit] for unit, activation in activations.items()), np.zeros((68, 2))
    )
