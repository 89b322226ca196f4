"""The commit of a checkout, found without running git."""

import pytest

from mlo.bench import machine

HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Let the package lie in a folder that is given a ``.git``."""
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "mlo" / "bench" / "machine.py"))
    folder = tmp_path / ".git"
    folder.mkdir()
    return folder


def test_the_commit_of_a_branch(git):
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text(f"{HASH}\n")
    assert machine.commit() == HASH


def test_the_commit_of_a_packed_branch(git):
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(
        f"# pack-refs\n{'f' * 40} refs/heads/mai\n{HASH} refs/heads/main\n"
    )
    assert machine.commit() == HASH


def test_a_detached_commit(git):
    (git / "HEAD").write_text(f"{HASH}\n")
    assert machine.commit() == HASH


def test_no_commit_yet(git):
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert machine.commit() is None


def test_no_checkout(git):
    assert machine.commit() is None
