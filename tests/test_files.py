"""Files are there whole or not at all, and hidden ones are none."""

import pytest

from fer_jax import files


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
