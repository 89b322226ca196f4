"""Files that are there as a whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from mlo.atomic import target_of, write_bytes, write_text, written

DESCRIPTORS = Path("/proc/self/fd")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "a.txt"
    target.write_text("old")
    return target


def test_content_is_replaced(path):
    write_text(path, "new\r\n\u2028Größe")
    assert path.read_bytes().decode() == "new\r\n\u2028Größe"
    write_bytes(path, b"\0\xff")
    assert path.read_bytes() == b"\0\xff"
    assert names(path.parent) == ["a.txt"]


def test_a_new_file_is_made(tmp_path):
    write_text(tmp_path / "new", "")
    assert (tmp_path / "new").read_text() == ""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_content_and_nothing_else(path, error):
    def half_of_it():
        with written(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        half_of_it()
    assert path.read_text() == "old"
    assert names(path.parent) == ["a.txt"]


def test_the_old_content_stands_until_the_end(path):
    with written(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"


def test_a_block_that_writes_nothing_is_an_error(path):
    with pytest.raises(FileNotFoundError), written(path):
        pass
    assert path.read_text() == "old"


def test_content_is_flushed_before_the_name_and_the_name_after(path, monkeypatch):
    events = []
    flush, replace = os.fsync, Path.replace

    def told_flush(descriptor):
        inode = os.fstat(descriptor).st_ino
        is_directory = inode == path.parent.stat().st_ino
        events.append("directory" if is_directory else "content")
        if not is_directory:
            assert inode != path.stat().st_ino
        flush(descriptor)

    def told_replace(self, target):
        events.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", told_flush)
    monkeypatch.setattr(Path, "replace", told_replace)
    write_text(path, "new")
    assert events == ["content", "name", "directory"]


def test_content_that_cannot_be_flushed_does_not_take_the_name(path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_file_systems_that_cannot_flush_a_directory(path, monkeypatch, number, raises):
    flush, directory = os.fsync, path.parent.stat().st_ino

    def failing(descriptor):
        if os.fstat(descriptor).st_ino == directory:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if raises:
        with pytest.raises(OSError, match="Input/output"):
            write_text(path, "new")
    else:
        write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a", "new")


def test_a_temporary_file_of_a_killed_write_is_replaced(path):
    path.with_name(".a.txt.partial").write_text("x" * 1000)
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_links_are_not_written_through(path, tmp_path):
    """A directory from elsewhere may hold links of these names."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / ".b.partial").symlink_to(outside)
    (inside / "b").symlink_to(outside)
    write_text(inside / "b", "new")
    assert outside.read_text() == "precious"
    assert (inside / "b").read_text() == "new"
    assert not (inside / "b").is_symlink()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (".a.mlo.partial", "a.mlo"),
        ("..a.partial", ".a"),
        ("a.mlo.partial", None),
        (".a.mlo", None),
        (".partial", None),
        ("a", None),
    ],
)
def test_temporary_files_are_told_by_their_names(name, target):
    found = target_of(Path("x", name))
    assert found == (None if target is None else Path("x", target))


def test_temporary_files_are_named_as_they_are_told(tmp_path):
    with written(tmp_path / "a") as temporary:
        assert target_of(temporary) == tmp_path / "a"
        temporary.touch()


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors cannot be counted here")
def test_no_descriptor_is_left_open(path):
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(5):
        write_text(path, "x")
        with pytest.raises(FileNotFoundError), written(path):
            pass
    assert len(list(DESCRIPTORS.iterdir())) == before
