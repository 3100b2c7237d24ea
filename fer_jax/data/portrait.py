"""Painting a face with OpenCV: what a subject looks like, and the posed face from back to front."""

import dataclasses
import functools

import cv2
import numpy as np

CANVAS = 256  # pixels
_SHIFT = 4  # fractional bits of OpenCV's sub-pixel coordinates


@dataclasses.dataclass(frozen=True)
class Subject:
    """What stays the same in all pictures of one person; colours RGB."""

    shape: np.ndarray  # landmarks of the neutral face [68, 2]
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    hair_style: int  # 0 bald, 1 short, 2 fringe, 3 long, 4 parted
    brow_width: float
    glasses: bool
    beard: int  # 0 none, 1 stubble, 2 moustache, 3 full
    wrinkles: float  # how deep the folds of an expression are drawn


class Face:
    """A posed face on its canvas, painted from back to front."""

    def __init__(self, subject: Subject, activations: dict[int, float], points: np.ndarray, rng: np.random.Generator):
        self.subject, self.activations, self.rng = subject, activations, rng
        self._points = points
        yaw, pitch, roll = np.radians(rng.uniform([-22, -10, -14], [22, 10, 14]))
        self._rotation = (np.sin(yaw), np.cos(yaw), np.sin(pitch), np.cos(pitch), np.sin(roll), np.cos(roll))
        self._scale = CANVAS * rng.uniform(0.29, 0.325)
        self._origin = CANVAS * np.array([0.5, 0.545]) + rng.uniform(-0.03, 0.03, 2) * CANVAS
        depth = _skin_depth(points)
        depth[27:31] += [0.08, 0.2, 0.33, 0.45]
        depth[31:36] += [0.08, 0.18, 0.24, 0.18, 0.08]
        depth[36:48] -= 0.05
        self.landmarks = self.project(points, depth)
        self.canvas = np.empty((CANVAS, CANVAS, 3), np.uint8)

    def project(self, points: np.ndarray, depth: np.ndarray | float | None = None) -> np.ndarray:
        """Points of the face's own frame [n, 2] on the canvas, seen from afar; depth defaults to the skin's."""
        points = np.asarray(points, np.float64)
        depth = _skin_depth(points) if depth is None else depth
        sin_yaw, cos_yaw, sin_pitch, cos_pitch, sin_roll, cos_roll = self._rotation
        x, y = points[:, 0], points[:, 1] - 0.5
        x, z = x * cos_yaw + depth * sin_yaw, depth * cos_yaw - x * sin_yaw
        y = y * cos_pitch - z * sin_pitch
        turned = np.column_stack([x * cos_roll - y * sin_roll, x * sin_roll + y * cos_roll])
        return turned * self._scale + self._origin

    def fill(self, points: np.ndarray, colour) -> None:
        cv2.fillPoly(self.canvas, [_fixed(points)], _colour(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: np.ndarray, colour, width: float) -> None:
        """An open line, its width in interocular distances."""
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self.canvas, [_fixed(points)], False, _colour(colour), thickness, cv2.LINE_AA, _SHIFT)

    def fold(self, points: list, strength: float) -> None:
        """A wrinkle in the skin: the stronger, the darker."""
        depth = min(0.42, 0.42 * strength * self.subject.wrinkles)
        if depth > 0.04:
            self.line(_smooth(self.project(np.array(points))), self.subject.skin * (1 - depth), 0.035)

    def paint(self) -> np.ndarray:
        """The canvas, uint8 RGB."""
        self._background()
        self._back_hair()
        self._head()
        self._folds()
        self._nose()
        self._mouth()
        self._beard()
        self._eyes()
        self._brows()
        self._front_hair()
        if self.subject.glasses:
            self._glasses()
        if self.rng.random() < 0.06:
            self._occluder()
        return self.canvas

    def _background(self) -> None:
        tone = self.rng.uniform(40, 215, (2, 2, 1))
        corners = (tone + self.rng.uniform(-35, 35, (2, 2, 3))).astype(np.float32)
        self.canvas[:] = cv2.resize(corners, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
        for _ in range(self.rng.integers(0, 4)):
            x, y, width, height = self.rng.uniform(0, CANVAS, 4).astype(int)
            cv2.rectangle(
                self.canvas,
                (x, y),
                (x + width // 2, y + height // 2),
                _colour(self.rng.uniform(20, 235, 3)),
                -1,
            )
        x, y = self.project(np.array([[0.0, 1.5]]), -0.6)[0]
        clothes = self.rng.uniform(20, 230, 3)
        neck = np.array([[-0.5, 0], [0.5, 0], [0.55, 1.0], [-0.55, 1.0]]) * self._scale + (x, y)
        shoulders = np.array([[-0.55, 0.65], [0.55, 0.65], [1.9, 1.3], [2.1, 3], [-2.1, 3], [-1.9, 1.3]])
        self.fill(neck, self.subject.skin * 0.78)
        self.fill(shoulders * self._scale + (x, y), clothes)

    def _skull(self, widen: float, top: float) -> np.ndarray:
        """The outline from the right temple over the crown to the left one, in the face's own frame."""
        width = np.abs(self._points[[0, 16], 0]).mean() * widen
        angle = np.linspace(0, np.pi, 15)
        return np.stack([width * np.cos(angle), -0.05 + (top + 0.05) * np.sin(angle) ** 0.8], 1)

    def _back_hair(self) -> None:
        if self.subject.hair_style == 0:
            return
        outline = self._skull(1.2, -1.42)
        if self.subject.hair_style == 3:
            sides = np.array([[-1.4, 0.6], [-1.45, 1.7], [1.45, 1.7], [1.4, 0.6]])
            outline = np.concatenate([outline, sides])
        self.fill(_smooth(self.project(outline, -0.55), closed=True), self.subject.hair * 0.85)

    def _head(self) -> None:
        skin = self.subject.skin
        for side in (-1, 1):
            ear = np.array([[1.05, -0.15], [1.25, -0.2], [1.28, 0.15], [1.18, 0.5], [1.05, 0.45]]) * (side, 1)
            self.fill(_smooth(self.project(ear, -0.3), closed=True), skin * 0.86)
        outline = np.concatenate([self.landmarks[:17], self.project(self._skull(1.0, -1.25), -0.2)[1:-1]])
        self.fill(_smooth(outline, closed=True), skin)
        flush = np.clip(skin * (1.03, 0.9, 0.88), 0, 255)
        for x in (-0.68, 0.68):
            lift = 0.08 * (self.activations.get(6, 0) + self.activations.get(12, 0)) / 2
            (cx, cy), *_ = self.project(np.array([[x, 0.72 - lift]]))
            self._soft_disc((cx, cy), 0.3 * self._scale, flush)

    def _soft_disc(self, centre, radius: float, colour) -> None:
        for share in (1.0, 0.7, 0.4):
            axes = (int(radius * share), int(radius * share * 0.8))
            x0, y0 = int(centre[0]), int(centre[1])
            region = self.canvas[max(y0 - axes[1], 0) : y0 + axes[1], max(x0 - axes[0], 0) : x0 + axes[0]]
            if region.size:
                blended = region.copy()
                at = (min(x0, axes[0]), min(y0, axes[1]))
                cv2.ellipse(blended, at, axes, 0, 0, 360, _colour(colour), -1, cv2.LINE_AA)
                region[:] = cv2.addWeighted(region, 0.75, blended, 0.25, 0)

    def _folds(self) -> None:
        level = lambda *units: max(self.activations.get(unit, 0) for unit in units)  # noqa: E731
        raised = level(1) * (1 - 0.6 * level(4))
        for y in (-0.66, -0.8, -0.94):  # forehead lines
            width = 0.65 if level(2) > 0.3 else 0.35
            bend = 0.04 if level(2) > 0.3 else -0.06
            self.fold(
                [(-width, y + bend), (-width / 2, y), (0, y + 0.02), (width / 2, y), (width, y + bend)],
                raised,
            )
        for x in (-0.1, 0.1):  # between the brows
            self.fold([(x, -0.52), (x * 0.85, -0.38), (x, -0.24)], level(4) * (1 - 0.5 * level(1)) * 1.2)
        for y in (-0.12, -0.02, 0.08):  # root of the nose
            self.fold([(-0.16, y + 0.04), (0, y), (0.16, y + 0.04)], level(9) * 1.2)
        lifted = level(9, 10, 12)
        for side in (-1, 1):
            corner = self._points[48 if side < 0 else 54]
            outside = abs(corner[0]) + 0.12
            self.fold(  # nasolabial
                [(side * 0.3, 0.68), (side * (outside * 0.5 + 0.2), 0.9), (side * outside, corner[1] + 0.02)],
                0.25 + lifted,
            )
            self.fold([(side * 0.88, -0.02), (side * 1.0, -0.08)], level(6) * 1.2)  # crow's feet
            self.fold([(side * 0.88, 0.06), (side * 1.0, 0.07)], level(6) * 1.2)
            self.fold([(side * 0.72, 0.17), (side * 0.5, 0.22), (side * 0.32, 0.15)], 0.2 + 0.6 * level(6, 7, 9))
            self.fold([(side * 0.5, 1.42), (side * 0.46, 1.54)], level(15))
        if level(17) > 0:
            chin = self._points[57, 1] + 0.12
            self.fold([(-0.2, chin + 0.04), (0, chin), (0.2, chin + 0.04)], level(17) * 1.3)

    def _nose(self) -> None:
        skin, tip = self.subject.skin, self.landmarks[30]
        base = self.landmarks[31:36]
        side = 35 if self._rotation[0] < 0 else 31
        inner = 42 if side == 35 else 39
        bridge = 0.6 * self.landmarks[27] + 0.4 * self.landmarks[inner]
        self.line(
            _smooth(np.array([bridge, self.landmarks[29], 0.5 * (tip + self.landmarks[side])])),
            skin * 0.84,
            0.04,
        )
        self.fill(
            _smooth(
                np.array([base[0], base[2], base[4], 0.4 * base[4] + 0.6 * tip, 0.4 * base[0] + 0.6 * tip]),
                closed=True,
            ),
            skin * 0.93,
        )
        self.line(
            _smooth(np.array([base[0] + (base[0] - base[1]) * 0.3, *base, base[4] + (base[4] - base[3]) * 0.3])),
            skin * 0.68,
            0.04,
        )
        for nostril in (base[1], base[3]):
            self.fill(_ellipse(nostril, 0.07 * self._scale, 0.035 * self._scale), skin * 0.4)
        self._soft_disc(tip, 0.09 * self._scale, np.clip(skin * 1.1 + 8, 0, 255))

    def _mouth(self) -> None:
        outer, inner = self.landmarks[48:60], self.landmarks[60:68]
        lips = self.subject.lips
        self.fill(_smooth(outer, closed=True), lips)
        upper = np.concatenate([outer[:7], inner[4::-1]])
        self.fill(upper, lips * 0.88)
        gap = (self._points[66, 1] - self._points[62, 1]) - 0.015
        if gap > 0.03:
            self.fill(_smooth(inner, closed=True), (60, 18, 20))
            teeth = inner[:5]
            drop = min(0.13, 0.6 * gap) * self._scale
            down = np.array([-self._rotation[4], self._rotation[5]]) * drop
            lower = teeth[3:0:-1] + down
            self.fill(
                _smooth(
                    np.concatenate(
                        [
                            0.85 * teeth[:1] + 0.15 * teeth[2],
                            teeth[1:4],
                            0.85 * teeth[4:] + 0.15 * teeth[2],
                            lower,
                        ]
                    ),
                    closed=True,
                ),
                (238, 234, 226),
            )
            if gap > 0.22:
                tongue = 0.5 * (inner[6] + inner[[5, 7]].mean(0)) - down * 0.4
                self.fill(_ellipse(tongue, 0.16 * self._scale, 0.07 * self._scale), (190, 90, 95))
        else:
            self.line(_smooth(inner[:5]), lips * 0.45, 0.035)

    def _eyes(self) -> None:
        gaze = self.rng.uniform(-0.05, 0.05)
        for eye in (self.landmarks[36:42], self.landmarks[42:48]):
            centre = eye.mean(0)
            opening = np.linalg.norm(eye[[1, 2]].mean(0) - eye[[4, 5]].mean(0))
            lid = _smooth(eye, closed=True, turns=3)
            low, high = np.floor(lid.min(0)).astype(int) - 3, np.ceil(lid.max(0)).astype(int) + 4
            low, high = np.clip(low, 0, CANVAS), np.clip(high, 0, CANVAS)
            if (high <= low).any():
                continue
            region = self.canvas[low[1] : high[1], low[0] : high[0]]
            mask = np.zeros(region.shape[:2], np.uint8)
            cv2.fillPoly(mask, [_fixed(lid - low)], 255, cv2.LINE_AA, _SHIFT)
            ball = np.full_like(region, (240, 238, 234))
            radius = 0.115 * self._scale
            # The iris hangs from the upper lid unless the eye is torn open.
            at = centre - low + (gaze * self._scale, -max(0.0, 0.16 * self._scale - opening) * 0.2)
            for share, colour in (
                (1.0, self.subject.iris * 0.6),
                (0.85, self.subject.iris),
                (0.45, (12, 10, 10)),
            ):
                cv2.fillPoly(
                    ball,
                    [_fixed(_ellipse(at, radius * share, radius * share))],
                    _colour(colour),
                    cv2.LINE_AA,
                    _SHIFT,
                )
            glint = at + (-0.035 * self._scale, -0.04 * self._scale)
            cv2.fillPoly(
                ball,
                [_fixed(_ellipse(glint, 0.025 * self._scale, 0.025 * self._scale))],
                (255, 255, 255),
                cv2.LINE_AA,
                _SHIFT,
            )
            alpha = mask[..., None].astype(np.uint16)
            region[:] = ((ball * alpha + region * (255 - alpha)) // 255).astype(np.uint8)
            skin = self.subject.skin
            self.line(_smooth(eye[:4]), skin * 0.22, 0.045)
            self.line(_smooth(eye[[3, 4, 5, 0]]), skin * 0.6, 0.025)
            up = np.array([self._rotation[4], -self._rotation[5]]) * 0.075 * self._scale
            self.line(_smooth(eye[:4] + up), skin * 0.75, 0.025)

    def _brows(self) -> None:
        colour = np.clip(
            0.75 * self.subject.hair if self.subject.hair.mean() < 140 else 0.55 * self.subject.hair, 0, 255
        )
        down = np.array([-self._rotation[4], self._rotation[5]]) * self._scale * self.subject.brow_width
        for brow, widths in (
            (self.landmarks[17:22], (0.3, 0.8, 1, 1.1, 1)),
            (self.landmarks[22:27], (1, 1.1, 1, 0.8, 0.3)),
        ):
            lower = brow + down * np.array(widths)[:, None]
            self.fill(np.concatenate([_smooth(brow), _smooth(lower)[::-1]]), colour)

    def _beard(self) -> None:
        style, hair = self.subject.beard, 0.8 * self.subject.hair
        mouth, base = self.landmarks[48:60], self.landmarks[33]
        if style == 1:
            jaw = np.concatenate([self.landmarks[3:14], self.landmarks[[54, 57, 48]]])
            before = self.canvas.copy()
            self.fill(jaw, self.subject.skin * 0.72)
            self.canvas[:] = cv2.addWeighted(self.canvas, 0.45, before, 0.55, 0)
            self._mouth()
        if style >= 2:
            under = 0.7 * mouth[3] + 0.3 * base
            shape = np.array([mouth[0], 0.6 * mouth[1] + 0.4 * base, 0.45 * mouth[3] + 0.55 * base])
            right = np.array([0.6 * mouth[5] + 0.4 * base, mouth[6]])
            self.fill(_smooth(np.concatenate([shape, right, [mouth[5], under, mouth[1]]]), closed=True), hair)
        if style == 3:
            inner = [54, 55, 56, 57, 58, 59, 48]
            strip = self.landmarks[inner] + (self.landmarks[inner] - self.landmarks[48:60].mean(0)) * 0.1
            self.fill(np.concatenate([self.landmarks[2:15], strip]), hair)

    def _front_hair(self) -> None:
        style, hair = self.subject.hair_style, self.subject.hair
        if style == 0:
            return
        crown = self._skull(1.12, -1.45)
        fringe = {
            1: [(-1.08, -0.35), (-0.85, -0.85), (0, -1.0), (0.85, -0.85), (1.08, -0.35)],
            2: [(-1.1, 0.0), (-0.95, -0.62), (-0.3, -0.68), (0.3, -0.7), (0.95, -0.62), (1.1, 0.0)],
            3: [
                (-1.15, 0.5),
                (-1.0, -0.4),
                (-0.4, -0.9),
                (0.0, -1.02),
                (0.4, -0.9),
                (1.0, -0.4),
                (1.15, 0.5),
            ],
            4: [(-1.1, -0.2), (-0.9, -0.62), (-0.35, -0.98), (0.5, -0.78), (1.0, -0.5), (1.12, -0.1)],
        }[style]
        outline = np.concatenate([self.project(crown, -0.25), self.project(np.array(fringe), 0.05)])
        self.fill(_smooth(outline, closed=True), hair)
        for x in (-0.5, 0.1, 0.6):
            strand = self.project(np.array([(x, -1.3), (x * 1.2 + 0.05, -1.1)]), 0.1)
            self.line(strand, np.clip(hair * 1.35 + 12, 0, 255), 0.03)

    def _glasses(self) -> None:
        colour = self.subject.hair * 0.4
        for eye in (self.landmarks[36:42], self.landmarks[42:48]):
            rim = _ellipse(eye.mean(0), 0.33 * self._scale, 0.25 * self._scale)
            self.line(np.concatenate([rim, rim[:1]]), colour, 0.035)
        left, right = self.landmarks[36:42].mean(0), self.landmarks[42:48].mean(0)
        self.line(np.array([0.67 * left + 0.33 * right, 0.33 * left + 0.67 * right]), colour, 0.035)
        for eye, temple in ((left, self.landmarks[0]), (right, self.landmarks[16])):
            towards = (temple - eye) / max(np.linalg.norm(temple - eye), 1e-6)
            self.line(np.array([eye + towards * 0.33 * self._scale, temple - (0, 0.1 * self._scale)]), colour, 0.035)

    def _occluder(self) -> None:
        """A hand-sized patch at the edge of the face."""
        angle = self.rng.uniform(0, 2 * np.pi)
        centre = self._origin + np.array([np.cos(angle), np.sin(angle)]) * self._scale * 1.25
        size = self.rng.uniform(0.25, 0.45, 2) * self._scale
        self.fill(_ellipse(centre, *size), self.rng.uniform(20, 235, 3))


def _skin_depth(points: np.ndarray) -> np.ndarray:
    """How far a point of the face's front lies before the ears: it curves away to the sides, chin and forehead."""
    return 0.6 - 0.5 * points[:, 0] ** 2 - 0.1 * (points[:, 1] - 0.6) ** 2


def _smooth(points: np.ndarray, *, closed: bool = False, turns: int = 2) -> np.ndarray:
    """Chaikin's corner cutting; the ends of an open line stay."""
    return _corner_cutting(len(points), closed, turns) @ points


@functools.cache
def _corner_cutting(count: int, closed: bool, turns: int) -> np.ndarray:
    """Corner cutting is linear: the matrix from `count` points to the smoothed ones."""
    points = np.eye(count)
    for _ in range(turns):
        following = np.roll(points, -1, axis=0) if closed else points[1:]
        current = points if closed else points[:-1]
        cut = np.stack([0.75 * current + 0.25 * following, 0.25 * current + 0.75 * following], 1)
        cut = cut.reshape(-1, count)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def _ellipse(centre, width: float, height: float) -> np.ndarray:
    return np.asarray(centre) + _CIRCLE * (width, height)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _colour(colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return float(red), float(green), float(blue)
