"""The papers' data sets in miniature: trees of drawn faces in the documented layouts, and their examples as read."""

import csv
import functools
import itertools
import json

import cv2
import numpy as np

from fer_jax.data import synthetic
from fer_jax.data.datasets import affectnet, ckplus, jaffe, kdef
from fer_jax.data.emotions import BASIC7

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
CODES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")


@functools.cache
def face(emotion="neutral", subject=0):
    """A synthetic face, RGB; contempt, which is not drawn, is another happy one."""
    index = BASIC7.index(emotion) if emotion in BASIC7 else BASIC7.index("happy") + 7
    return synthetic.example(0, subject, (index - subject) % 7 + 7 * (index // 7)).image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def grey(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def examples(dataset):
    """All examples as (split, emotion, example)."""
    return [
        (split, dataset.emotions[example["label"]], example)
        for split in dataset.splits
        for example in dataset.source(split)
    ]


def text(example, name):
    return example[name].decode()


def record(dataset):
    return json.loads((dataset.directory / "prepared.json").read_text())


def write(name, root):
    """The miniature of any of the data sets."""
    return {
        "ckplus": write_ckplus,
        "jaffe": write_jaffe,
        "kdef": write_kdef,
        "mug": write_mug,
        "affectnet": write_affectnet,
        "csv": write_csv,
        "folder": write_folder,
    }[name](root)


def write_ckplus(root, subjects=12):
    """A labelled sequence of 6 frames a subject, the codes in turn; the first has landmarks and a sequence more."""
    for i in range(subjects):
        code = i % 7 + 1
        place, stem = f"S{i:03}/001", f"S{i:03}_001_000000"
        for frame in range(1, 7):
            shown = ckplus.CODES[code] if frame > 2 else "neutral"
            save(root / f"cohn-kanade-images/{place}/{stem}{frame:02}.png", grey(face(shown, i)))
        label = root / f"Emotion/{place}/{stem}06_emotion.txt"
        label.parent.mkdir(parents=True)
        label.write_text(f"   {code:.7e}\n")
    landmarks = root / "Landmarks/S000/001/S000_001_00000006_landmarks.txt"
    landmarks.parent.mkdir(parents=True)
    np.savetxt(landmarks, synthetic.example(0, 0, 0).landmarks)
    save(root / "cohn-kanade-images/S000/002/S000_002_00000001.png", grey(face()))  # not labelled
    (root / "Emotion/S000/002").mkdir()
    return root


def write_jaffe(root):
    """Ten subjects with one picture of each emotion."""
    for i, subject in enumerate(("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")):
        for number, (code, emotion) in enumerate(jaffe.CODES.items()):
            save(root / f"{subject}.{code}1.{7 * i + number}.tiff", grey(face(emotion, i)))
    (root / "README").touch()
    return root


def write_kdef(root):
    """Six subjects, both sessions, two emotions, two views, in the official portrait format."""
    for number, (sex, session) in itertools.product((1, 2, 3), itertools.product("FM", "AB")):
        for code, view in itertools.product(("AN", "AF"), ("S", "HL")):
            model = f"{session}{sex}{number:02}"
            image = np.zeros((190, 140, 3), np.uint8)
            image[31:159, 6:134] = face(kdef.CODES[code], number + 10 * (sex == "F"))
            save(root / f"{model}/{model}{code}{view}.JPG", image)
    return root


def take_landmarks(levels):
    """68 landmarks a frame that move by `levels`, while the head is shifted and comes nearer."""
    rng = np.random.default_rng(0)
    neutral = synthetic.example(0, 1, BASIC7.index("neutral") - 1).landmarks
    smile = neutral + np.where(np.arange(68)[:, None] >= 48, [3.0, -2.0], 0) * np.linspace(-1, 1, 68)[:, None]
    shapes = [neutral + level * (smile - neutral) for level in levels]
    return np.stack([shape * rng.uniform(0.9, 1.1) + rng.uniform(-9, 9, 2) for shape in shapes])


def write_mug(root, frames=13, subjects=5):
    for i in range(subjects):
        for emotion in ("happiness", "neutral"):
            for frame in range(frames):
                image = face("neutral" if emotion == "neutral" or frame in (0, frames - 1) else "happy", i)
                save(root / f"{i:03}/{emotion}/take000/img_{frame:04}.jpg", image)
    return root


def write_affectnet(root, training=44, images=affectnet.IMAGES):
    """The codes 0 to 10 in turn, so of 44 rows four each; validation has 11. The face is the right half.

    As published, validation.csv has no header.
    """
    for name, count in (("training", training), ("validation", 11)):
        lines = [HEADER] if name == "training" else []
        for i in range(count):
            code = i % 11
            file = f"{i % 3}/{name}{i}.jpg"
            image = np.full((128, 256, 3), 90, np.uint8)
            image[:, 128:] = face(CODES[code] if code < 8 else "neutral", i)
            save(root / images / file, image)
            lines.append(f"{file},128,0,128,128,1.0;2.0,{code},{code / 10},{-code / 10}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def write_arrays(root, count=22):
    """Numbers are saved as text, as in the official files."""
    for folder in affectnet.FOLDERS.values():
        (root / folder / "annotations").mkdir(parents=True)
        for i in range(count):
            save(root / folder / f"images/{i}.jpg", face(CODES[i % 11] if i % 11 < 8 else "neutral", i % 11))
            for name, value in (("exp", i % 11), ("val", i / 100), ("aro", -0.25)):
                np.save(root / folder / f"annotations/{i}_{name}.npy", str(value))
    return root


def write_csv(root, columns=("subject",), rows=30):
    """Three emotions in turn, three pictures a subject, with whichever columns."""
    with_values = {
        "intensity": lambda i: "" if i % 3 == 2 else f"{i / 100}",
        "subject": lambda i: f"p{i // 3}",
        "split": lambda i: ("Train", "valid", "test")[i % 10 % 3],
    }
    lines = [["path", "emotion", *columns]]
    for i in range(rows):
        emotion = ("Surprised", "anger", "neutral")[i % 3]
        save(root / f"pictures/{i}.png", face(("surprise", "angry", "neutral")[i % 3], i % 10))
        lines.append([f"pictures/{i}.png", emotion, *(with_values[column](i) for column in columns)])
    with (root / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def write_folder(root, split=""):
    """Ten pictures of each of three emotions."""
    for folder, emotion, ending in (
        ("Joy", "happy", "png"),
        ("anger", "angry", "bmp"),
        ("contempt", "contempt", "tif"),
    ):
        for i in range(10):
            save(root / split / folder / f"{i}.{ending}", face(emotion, i))
    return root


def splits_of(dataset, name="subject"):
    """For each value of a feature the splits it occurs in."""
    found = {}
    for split, _, example in examples(dataset):
        found.setdefault(text(example, name), set()).add(split)
    return found


def assert_no_subject_straddles(dataset, subjects):
    found = splits_of(dataset)
    assert set(found) == set(subjects)
    assert all(len(splits) == 1 for splits in found.values())
