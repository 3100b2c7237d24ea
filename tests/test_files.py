"""Files are there whole or not at all, hidden ones are none, and what cannot be read is told."""

import os
from pathlib import Path

import pytest

from fer_jax import files
from fer_jax.errors import UserError


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    with files.whole(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.whole(path) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.png", ".DS_Store", "happy/1.png", "happy/.1.swp", ".git/objects/x.png", "sad/.cache/deep/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files.visible(tmp_path)) == ["a.png", "happy/1.png"]


def test_a_path_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/runs") == tmp_path / "runs"
    for other in ("a/~b", "~b", "~b/c"):  # nobody's home
        assert files.user_path(other) == Path(other)


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    for path in (root / "happy/1.png", elsewhere / "2.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (root / "sad").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    found = [path.relative_to(root).as_posix() for path in files.visible(root)]
    assert found == ["happy/1.png", "sad/2.png"]


def test_what_lies_in_a_folder_comes_by_name_and_depth(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/.hidden", ".git/x", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def entries(*depth):
        return [path.relative_to(tmp_path).as_posix() for path in files.entries(tmp_path, *depth)]

    assert entries() == ["a", "b", "c.txt"]
    assert entries(2) == ["a/1.png", "b/2.png"]
    assert files.entries(tmp_path / "c.txt") == files.entries(tmp_path / "nowhere") == []


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    (tmp_path / "sad").mkdir()
    (tmp_path / "happy").mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "sad":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match=r"/sad cannot be read \(Permission denied\): make it readable"):
        files.entries(tmp_path, 2)
    with pytest.raises(UserError, match=r"/sad cannot be read"):
        list(files.visible(tmp_path))


def test_files_of_other_kinds_are_counted_the_most_first():
    paths = map(Path, ("a.HEIC", "b.heic", "c.txt", "Makefile"))
    assert files.of_other_kinds(paths) == "2 .heic, 1 Makefile, 1 .txt"
    assert files.of_other_kinds([]) == ""


def test_a_videos_name_that_is_no_utf8_is_refused(tmp_path):
    assert files.opencv_address(Path("10:30.mp4")) == f"{Path.cwd()}/10:30.mp4"
    with pytest.raises(UserError, match=r"\\xff\.avi': OpenCV takes videos of names in UTF-8 only; rename it"):
        files.opencv_address(tmp_path / os.fsdecode(b"\xff.avi"))
