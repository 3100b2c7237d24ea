"""The audit: copies, conflicts, flat images and shared subjects are found; the clean list keeps to its rule."""

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.data import audit, prepare, rows, subjects, synthetic
from fer_jax.errors import UserError
from tests.faces import write_fer2013


def face(subject, number=0):
    return synthetic.example(0, subject, number).image


@pytest.fixture(scope="module")
def faces():
    """Thirty different pictures, three each of ten subjects: uint8 [30, 128, 128, 3]."""
    return np.stack([face(subject, number) for subject in range(10) for number in range(3)])


def near(images, **options):
    return audit.near_copies(images, audit.exact_copies(images), **options)


def test_exact_copies_are_found_within_and_across_splits(faces):
    images = {"train": faces[[0, 1, 2, 1, 3]], "validation": faces[[4, 5]], "test": faces[[2, 6, 2]]}
    within, across = [("train", 1), ("train", 3)], [("train", 2), ("test", 0), ("test", 2)]
    assert audit.exact_copies(images) == [within, across]
    labels = {"train": np.array([0, 1, 2, 4, 3]), "validation": np.array([0, 0]), "test": np.array([2, 0, 2])}
    assert audit.conflicting(within, labels)
    assert not audit.conflicting(across, labels)


def test_one_grey_level_is_no_exact_copy(faces):
    other = faces[0].copy()
    other[60, 60, 1] ^= 1
    assert audit.exact_copies({"train": np.stack([faces[0], other])}) == []


def brighter(image):
    return (image * 0.7 + 50).astype(np.uint8)


def recompressed(image):
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("size", [48, 128])
@pytest.mark.parametrize("change", [brighter, recompressed])
def test_altered_copies_are_near_and_different_faces_are_not(faces, change, size):
    small = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in faces])
    assert near({"train": small}) == []
    images = {"train": small, "test": np.stack([change(small[7]), change(small[20])])}
    assert near(images) == [[("train", 7), ("test", 0)], [("train", 20), ("test", 1)]]


def test_near_groups_hold_the_exact_copies_of_their_members(faces):
    images = {"train": faces[[0, 1, 0]], "test": np.stack([brighter(faces[0]), faces[1]])}
    assert audit.exact_copies(images) == [[("train", 0), ("train", 2)], [("train", 1), ("test", 1)]]
    assert near(images) == [[("train", 0), ("train", 2), ("test", 0)]]


def test_images_that_are_all_alike_are_not_compared_pair_by_pair(faces, monkeypatch):
    """As the frames of a video."""
    rng, seen = np.random.default_rng(0), []
    frames = np.clip(faces[3].astype(int) + rng.integers(-3, 4, (120, *faces[3].shape)), 0, 255).astype(np.uint8)
    standardized = audit._standardized
    monkeypatch.setattr(audit, "_standardized", lambda images: seen.append(len(images)) or standardized(images))
    monkeypatch.setattr(audit, "_READ_AT_ONCE", 50)
    assert near({"train": frames}) == [[("train", i) for i in range(120)]]
    assert sum(seen) < 8 * 120  # of 7,140 pairs


@pytest.mark.parametrize("block", [200, audit._BLOCK])
def test_no_pair_of_the_correlation_is_missed(monkeypatch, block):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (12, 20, 14, 1)).repeat(6, 0)
    images = np.clip(base + rng.normal(0, rng.uniform(0, 60, (72, 1, 1, 1)), base.shape), 0, 255).astype(np.uint8)
    correlations = np.corrcoef(images.reshape(72, -1))
    monkeypatch.setattr(audit, "_BLOCK", block)
    for limit in (0.8, 0.9, 0.97):
        expected = {(i, j) for i, j in np.argwhere(correlations >= limit).tolist() if i < j}
        assert expected
        found = near({"train": images}, correlation=limit)
        group = {i: number for number, members in enumerate(found) for _, i in members}
        assert all(group[i] == group[j] for i, j in expected)
        assert set(group) == {i for pair in expected for i in pair}
        assert len(found) <= 12


def test_flat_images_are_found_and_are_nobodys_near_copy(faces):
    images = faces[:4].copy()
    images[1] = 7
    images[2] = (10, 20, 30)
    images[3] = 128
    images[3, ::2, ::3] += 1  # not flat, and nothing to compare
    splits = {"train": images, "test": np.concatenate([images[3:] + 1, images[1:2]])}
    assert audit.flat_images(splits) == [("train", 1), ("train", 2), ("test", 1)]
    assert near(splits) == []


def test_subjects_in_two_splits():
    named = {"train": ["a", "a", "b", "c", ""], "validation": ["d", "c", ""], "test": ["a", "e"]}
    assert subjects.shared(named) == {"a": {"train": 2, "test": 1}, "c": {"train": 1, "validation": 1}}
    assert subjects.shared({"train": ["a"], "test": ["b"]}) == {}


def test_subjects_are_read_as_text_or_numbers():
    class Named:
        def __init__(self, **subjects):
            self.named = subjects
            self.splits = {split: len(names) for split, names in subjects.items()}

        def subjects(self, split):
            return rows.stacked([{"subject": name} for name in self.named[split]], ["subject"])["subject"]

    assert audit._subjects(Named(train=[b"KA", b"", b"F01"], test=[b"KA"])) == {
        "train": ["KA", "", "F01"],
        "test": ["KA"],
    }
    assert audit._subjects(Named(train=np.int32([4, 4, 5]), test=np.int32([6])))["train"] == ["4", "4", "5"]
    assert audit._subjects(Named(train=[b"", b"", b""], test=[b""])) is None


def test_intensities_are_counted_in_tenths_without_zero():
    intensity = np.array([[0, 0.05], [1, 0.05], [0.95, 0], [0.5, 0]], np.float32)
    expected = [[0, 0, 0, 0, 0, 1, 0, 0, 0, 2], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert audit.intensity_histogram(intensity).tolist() == expected


def test_copies_of_an_image_itself_are_none():
    groups = [[("train", 0), ("validation", 1)], [("train", 2), ("train", 3), ("test", 4)]]
    assert audit._with_copy(groups, ["train", "validation", "test"]) == {
        "train": {"train": 2, "validation": 1, "test": 2},
        "validation": {"train": 1, "validation": 0, "test": 0},
        "test": {"train": 1, "validation": 0, "test": 0},
    }


def test_what_is_left_out():
    labels = {split: np.zeros(20, int) for split in ("train", "validation", "test")}
    labels["train"][[1, 6]] = 3
    labels["validation"][5] = 3
    exact = [
        [("train", 0), ("validation", 0), ("test", 0), ("test", 1)],  # the first of test stays
        [("train", 1), ("train", 2), ("validation", 1)],  # validation stays, whatever train says
        [("train", 3), ("train", 4)],  # the first stays
        [("train", 5), ("train", 6), ("train", 7)],  # different labels: none stays
        [("validation", 4), ("validation", 5)],  # different labels in an evaluation split: the first stays
        [("train", 8), ("train", 9), ("test", 9)],  # flat: none stays
    ]
    flat = [("train", 8), ("train", 9), ("test", 9), ("validation", 10)]
    assert audit.to_leave_out(exact, flat, labels) == {
        "train": [0, 1, 2, 4, 5, 6, 7, 8, 9],
        "validation": [0, 5, 10],
        "test": [1, 9],
    }


def test_a_shared_subject_is_on_the_page_and_in_the_summary(tmp_path, cache, monkeypatch, capsys):
    from fer_jax.data.datasets import synthetic as builder

    monkeypatch.setattr(builder, "PICTURES", 2)
    monkeypatch.setitem(builder.SUBJECTS, "small", {"train": 4, "validation": 2, "test": 2})
    monkeypatch.setattr(audit, "_subjects", lambda _: {"train": ["p", "q"], "validation": ["q"], "test": ["r"]})
    audit.main(["synthetic", "--variant=small", f"--output={tmp_path}"])
    printed = capsys.readouterr().out
    assert "subjects       1 in more than one split" in printed
    assert "nothing found" not in printed
    assert "<tr><td>q</td><td>1</td><td>1</td><td>0</td></tr>" in (tmp_path / "audit.html").read_text()
    assert json.loads((tmp_path / "audit.json").read_text())["shared_subjects"] == {"q": {"train": 1, "validation": 1}}


@pytest.fixture
def raw(tmp_path, cache):
    """A FER2013 of noise without copies; rows start at line 2: train 0..13, validation 0..6, test 0..6."""
    return write_fer2013(tmp_path / "raw", train=14, validation=7, test=7)


def spoil(raw):
    """Train 3 = 10 = validation 3, train 1 = 2 with labels 1 and 2, train 5 flat; test 6 near train 6."""
    lines = (raw / "fer2013.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    pixels = [row[1] for row in rows]
    pixels[10] = pixels[17] = pixels[3]
    pixels[2] = pixels[1]
    pixels[5] = " ".join(["9"] * 48 * 48)
    pixels[27] = " ".join(str(min(255, int(value) + 9)) for value in pixels[6].split())
    rows = [f"{row[0]},{new},{row[2]}" for row, new in zip(rows, pixels, strict=True)]
    (raw / "fer2013.csv").write_text("\n".join([lines[0], *rows]) + "\n")


def assert_asks_for_nothing(page):
    page = re.sub("data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", page)
    assert set(re.findall(r"(?:src|href)\s*=\s*[^\s>]*", page)) <= {"src='PICTURE'"}
    assert not re.search(r"//|url\(|@import|<script|<link", page)
    assert "NaN" not in page
    assert "nan%" not in page


def test_the_command_writes_page_groups_and_clean_list(raw, tmp_path, capsys):
    spoil(raw)
    output, clean = tmp_path / "out", tmp_path / "clean/list.json"
    audit.main(["fer2013", f"--data_dir={raw}", f"--output={output}", f"--write-clean={clean}"])
    printed = capsys.readouterr().out
    assert "28, of which 25 are distinct" in printed
    assert "2 groups of 5 images; 1 across splits, 1 with different labels" in printed
    assert "validation: 1 of 7 images have an exact copy in train, 1 an exact or near one" in printed
    assert "test: 0 of 7 images have an exact copy in train, 1 an exact or near one" in printed
    assert "flat images    1 (train 1)" in printed
    assert "nothing found" not in printed

    found = json.loads((output / "audit.json").read_text())
    assert found["exact"][0] == {
        "conflict": True,
        "across_splits": False,
        "examples": [
            {"split": "train", "index": 1, "label": "disgust", "source": "fer2013.csv:3"},
            {"split": "train", "index": 2, "label": "fear", "source": "fer2013.csv:4"},
        ],
    }
    assert [place["split"] for place in found["near"][0]["examples"]] == ["train", "test"]
    assert found["flat"] == [{"split": "train", "index": 5, "label": "surprise", "source": "fer2013.csv:7"}]

    page = (output / "audit.html").read_text()
    assert_asks_for_nothing(page)
    assert page.count("class='group conflict'") == 1
    assert page.count("<img ") == 2 + 3 + 2 + 1
    assert "<span title='fer2013.csv:7'>train 5</span>" in page
    encoded = re.search(r"base64,([^']+)", page).group(1)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
    dataset = prepare.load("fer2013", data_dir=raw)
    np.testing.assert_array_equal(picture, dataset.arrays("train")["image"][1][..., 0])

    left_out = audit.read_clean(clean, dataset)
    assert {split: indices.tolist() for split, indices in left_out.items()} == {
        "train": [1, 2, 3, 5, 10],
        "validation": [],
        "test": [],
    }
    assert all(indices.dtype == np.int64 for indices in left_out.values())


def test_a_clean_data_set_is_said_to_be_clean(raw, tmp_path, capsys):
    audit.main(["fer2013", f"--data_dir={raw}", f"--output={tmp_path / 'out'}"])
    assert "nothing found" in capsys.readouterr().out
    page = (tmp_path / "out/audit.html").read_text()
    assert_asks_for_nothing(page)
    assert page.count("None found.") == 3
    assert "<img" not in page


def test_subjects_and_intensities_are_on_the_page_where_the_data_have_them(tmp_path, cache, monkeypatch, capsys):
    from fer_jax.data.datasets import synthetic as builder

    monkeypatch.setattr(builder, "PICTURES", 3)
    monkeypatch.setitem(builder.SUBJECTS, "small", {"train": 5, "validation": 2, "test": 2})
    audit.main(["synthetic", "--variant=small", f"--output={tmp_path}"])
    assert "subjects       0 in more than one split" in capsys.readouterr().out
    page = (tmp_path / "audit.html").read_text()
    assert "None found among 9." in page
    assert page.count("class=narrow") == 3 * 6
    assert_asks_for_nothing(page)
    dataset = prepare.load("synthetic", variant="small")
    assert audit._subjects(dataset)["train"] == [str(i) for i in range(5) for _ in range(3)]


def test_a_clean_list_of_other_data_is_refused(raw, tmp_path, monkeypatch):
    before = prepare.load("fer2013", data_dir=raw)
    path = tmp_path / "clean.json"
    audit.write_clean(path, before, {"train": [3, 1]})
    assert {s: i.tolist() for s, i in audit.read_clean(path, before).items()} == {
        "train": [1, 3],
        "validation": [],
        "test": [],
    }
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audit.read_clean("~/clean.json", before)["train"].tolist() == [1, 3]
    spoil(raw)
    after = prepare.load("fer2013", data_dir=raw)
    with pytest.raises(UserError, match=r"clean\.json was written for fer2013 .*audit fer2013 --write-clean="):
        audit.read_clean(path, after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record | {"dataset": "ferplus"}, "written for ferplus"),
        (lambda record: record | {"fingerprint": "0"}, "with the fingerprint 0, not for fer2013"),
        (lambda record: record | {"exclude": {"train": [14]}}, "names examples of train that fer2013 does not have"),
        (lambda record: record | {"exclude": {"extra": [0]}}, "names examples of extra"),
        (lambda record: record | {"exclude": {"train": ["a"]}}, "is no list of examples to leave out"),
        (lambda record: {"dataset": "fer2013"}, "is no list of examples to leave out: write one"),
        (lambda record: [1, 2], "is no list of examples to leave out"),
    ],
)
def test_a_wrong_clean_list_is_refused_with_the_way_out(raw, tmp_path, change, message):
    dataset = prepare.load("fer2013", data_dir=raw)
    path = tmp_path / "clean.json"
    audit.write_clean(path, dataset, {"train": [1]})
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        audit.read_clean(path, dataset)


def test_a_file_of_another_kind_is_not_written_over(raw, tmp_path):
    """As the one that was named as a clean list by mistake."""
    dataset = prepare.load("fer2013", data_dir=raw)
    path = tmp_path / "README.md"
    path.write_text("# Mine")
    with pytest.raises(UserError, match=r"README\.md is no list of .* --write-clean=clean\.json$"):
        audit.read_clean(path, dataset)
    with pytest.raises(
        UserError, match=r"--write-clean=.*README\.md is a file of another kind, and stays: name another"
    ):
        audit.write_clean(path, dataset, {"train": [1]})
    assert path.read_text() == "# Mine"
    for _ in range(2):  # one of ours is renewed
        audit.write_clean(tmp_path / "clean.json", dataset, {"train": [1]})


def test_a_disk_that_is_full_leaves_the_list_before_as_it_is(raw, tmp_path, monkeypatch):
    dataset = prepare.load("fer2013", data_dir=raw)
    path = tmp_path / "clean.json"
    audit.write_clean(path, dataset, {"train": [1]})
    before = path.read_text()

    def full(file, text):
        with file.open("w") as opened:
            opened.write(text[:5])
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        audit.write_clean(path, dataset, {"train": [2]})
    assert path.read_text() == before
    assert [file.name for file in tmp_path.glob("clean*")] == ["clean.json"]


def test_a_missing_clean_list_and_wrong_options_are_refused_in_one_line(raw, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.json .*write one for the data at hand: python -m"):
        audit.read_clean(tmp_path / "nowhere.json", prepare.load("fer2013", data_dir=raw))
    with pytest.raises(UserError, match=r"audit fer2013 --align=none --write-clean="):
        audit.read_clean(tmp_path / "nowhere.json", prepare.load("fer2013", data_dir=raw), align="none")
    with pytest.raises(SystemExit, match=r"^error: fer2013 cannot be aligned"):
        audit.main(["fer2013", f"--data_dir={raw}", "--align=none"])
    with pytest.raises(SystemExit, match=r"^error: unknown data set 'fer'"):
        audit.main(["fer"])
    with pytest.raises(SystemExit, match=r"^error: --correlation=2 must be"):
        audit.main(["fer2013", f"--data_dir={raw}", "--correlation=2"])
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^error: cannot write .*choose another place"):
        audit.main(["fer2013", f"--data_dir={raw}", f"--output={tmp_path / 'file/out'}"])


@pytest.mark.slow
def test_the_real_fer2013(shared_data):
    """The rows at hand (no PrivateTest, 161 from a JPEG copy): 12 flat images, as in the official file."""
    found = audit.audit(prepare.load("fer2013", data_dir=shared_data / "fer2013"))
    assert len(found["flat"]) == 12
    assert found["distinct"] == 30_768
    assert len(found["exact"]) == 1_271
    assert sum(group["conflict"] for group in found["exact"]) == 47
    assert found["with_exact_copy"]["validation"]["train"] == 280
    assert len(found["near"]) == pytest.approx(466, abs=2)
