"""The checkpoints of one run: which are kept, which is loaded, and what is never touched."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlo.checkpoint.checkpoints import Checkpoints
from mlo.errors import CheckpointError, MloError


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "run" / "checkpoints"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def name(round: int) -> str:
    return f"round-{round:09d}.mlo"


def saved(directory: Path, *rounds: int, keep: int = 10) -> Checkpoints:
    checkpoints = Checkpoints(directory=directory, keep=keep)
    for round in rounds:
        checkpoints.save({"round": round}, round=round)
    return checkpoints


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every": 0}, "checkpoints: every must be an integer >= 1, got 0"),
        ({"every": 2.0}, "checkpoints: every must be an integer >= 1, got 2.0"),
        ({"every": True}, "checkpoints: every must be an integer >= 1, got True"),
        ({"keep": -1}, "checkpoints: keep must be an integer >= 1, got -1"),
        ({"keep": "3"}, "checkpoints: keep must be an integer >= 1, got '3'"),
        ({"keep": None}, "checkpoints: keep must be an integer >= 1, got None"),
        ({"directory": None}, "checkpoints: directory must be a path, got NoneType None"),
        ({"directory": 3}, "checkpoints: directory must be a path, got int 3"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoints(**{"directory": "x", **fields})
    assert isinstance(caught.value, MloError)


def test_defaults_and_a_directory_as_a_text():
    found = Checkpoints(directory="a/b")
    assert (found.directory, found.every, found.keep) == (Path("a/b"), 100, 3)


def test_nothing_is_made_before_the_first_is_saved(directory):
    checkpoints = Checkpoints(directory=directory)
    assert checkpoints.paths() == []
    assert checkpoints.load() is None
    assert checkpoints.best() is None
    assert not directory.exists()


def test_the_newest_round_is_loaded(directory):
    checkpoints = saved(directory, 300, 1_000_000_000, 200)
    assert [path.name for path in checkpoints.paths()] == [
        name(200),
        name(300),
        "round-1000000000.mlo",
    ]
    found = checkpoints.load()
    assert (found.round, found.state) == (10**9, {"round": 10**9})
    assert checkpoints.load(directory / name(200)).round == 200
    assert checkpoints.load(str(directory / name(200))).round == 200


def test_the_same_round_is_replaced(directory):
    checkpoints = saved(directory, 5)
    path = checkpoints.save("again", round=5)
    assert path == directory / name(5)
    assert checkpoints.paths() == [path]
    assert checkpoints.load().state == "again"


@pytest.mark.parametrize("round", [-1, 1.0, True, None])
def test_a_round_is_a_count(directory, round):
    with pytest.raises(CheckpointError, match="round must be an integer >= 0"):
        Checkpoints(directory=directory).save({}, round=round)
    assert not directory.exists()


@examples(max_examples=60)
@given(
    st.lists(st.none() | st.sampled_from([0.0, 1.0, 2.0, float("inf"), float("nan")]), max_size=8),
    st.integers(1, 3),
)
def test_the_last_and_the_best_are_kept(tmp_path_factory, scores, keep):
    directory = tmp_path_factory.mktemp("kept")
    checkpoints = Checkpoints(directory=directory, keep=keep)
    best = None
    for round, score in enumerate(scores, 1):
        checkpoints.save({}, round=round, score=score)
        # What is not a number is no score, and of equal ones the later is as good and newer.
        if score is not None and score == score and (best is None or score <= best[0]):
            best = score, round
        expected = set(range(max(1, round - keep + 1), round + 1)) | ({best[1]} if best else set())
        assert names(directory) == [name(each) for each in sorted(expected)]
        assert checkpoints.best() == (directory / name(best[1]) if best else None)


def test_what_was_just_written_stays_though_it_is_the_oldest(directory):
    checkpoints = saved(directory, 100, 200, 300, keep=2)
    path = checkpoints.save({"round": 50}, round=50)
    assert path.exists()
    assert names(directory) == [name(50), name(200), name(300)]


FOREIGN = [
    "notes.txt",
    "round-000000001.mlo.aside",
    "round-1.mlo",
    "round-0000000001.mlo",
    "round-00000000١.mlo",
    "round-00000000x.mlo",
    "round-000000001.mlo.partial",
    ".round-000000001.partial",
    ".round-notes.mlo.partial",
    ".hidden",
]


def test_foreign_files_are_neither_read_nor_touched(directory):
    directory.mkdir(parents=True)
    for each in FOREIGN:
        (directory / each).write_text(each)
    (directory / name(4)).mkdir()
    (directory / name(4) / "inside").touch()
    (directory / name(6)).symlink_to(directory / "nowhere")
    checkpoints = saved(directory, 100, 200, 300, keep=1)
    assert checkpoints.paths() == [directory / name(300)]
    assert names(directory) == sorted([*FOREIGN, name(4), name(6), name(300)])
    for each in FOREIGN:
        assert (directory / each).read_text() == each


def test_what_killed_writes_have_left_is_removed_at_the_next_save(directory):
    checkpoints = saved(directory, 100)
    for left_over in (".round-000000200.mlo.partial", ".round-000000300.mlo.partial"):
        (directory / left_over).write_bytes(b"x" * 100)
    checkpoints.save({}, round=300)
    assert names(directory) == [name(100), name(300)]


def test_a_file_that_cannot_be_removed_stops_nothing(directory, monkeypatch):
    saved(directory, 100)

    def refused(self, missing_ok=False):
        if self.name == name(100):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(self, missing_ok=missing_ok)

    unlink = Path.unlink
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        Checkpoints(directory=directory, keep=1).save({}, round=200)
    assert names(directory) == [name(100), name(200)]
    Checkpoints(directory=directory, keep=1).save({}, round=300)
    assert names(directory) == [name(300)]


def test_a_damaged_newest_one_offers_the_last_good_one(directory):
    checkpoints = saved(directory, 100, 200, 300, 400)
    damage(directory / name(300))
    damage(directory / name(400))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load()
    message = str(caught.value)
    good = str(directory / name(200))
    assert message.startswith(f"checkpoint {str(directory / name(400))!r}: its content has")
    assert message.endswith(
        f"; the last good one is {good!r} (round 200): resume from it with --resume {good!r}"
    )
    assert len(message.splitlines()) == 1
    assert checkpoints.load(directory / name(200)).round == 200
    assert names(directory) == [name(r) for r in (100, 200, 300, 400)]


def test_without_a_good_one_none_is_offered(directory):
    checkpoints = saved(directory, 100, 200)
    for path in checkpoints.paths():
        damage(path)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load()
    assert "good one" not in str(caught.value)


def test_a_given_file_that_is_damaged_offers_an_earlier_one_only(directory):
    checkpoints = saved(directory, 100, 200, 300)
    damage(directory / name(200))
    damage(directory / name(100))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(directory / name(200))
    assert "good one" not in str(caught.value)


def test_a_file_from_elsewhere_is_loaded_and_offers_nothing_of_this_run(directory, tmp_path):
    elsewhere = saved(tmp_path / "elsewhere", 150)
    checkpoints = saved(directory, 100)
    assert checkpoints.load(elsewhere.paths()[0]).round == 150
    damage(elsewhere.paths()[0])
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(elsewhere.paths()[0])
    assert "good one" not in str(caught.value)
    with pytest.raises(CheckpointError, match="No such file"):
        checkpoints.load(tmp_path / "missing" / name(1))


def test_a_damaged_one_is_not_the_best(directory):
    checkpoints = Checkpoints(directory=directory)
    checkpoints.save({}, round=1, score=0.1)
    checkpoints.save({}, round=2, score=0.2)
    (directory / name(1)).write_bytes(b"")
    assert checkpoints.best() == directory / name(2)


def test_later_ones_are_set_aside(directory):
    checkpoints = saved(directory, 100, 200, 300)
    for again in ("", "-2", "-3"):
        moved = checkpoints.set_aside_after(directory / name(100))
        assert moved == [directory / f"{name(r)}.aside{again}" for r in (200, 300)]
        assert checkpoints.load().round == 100
        for path, round in zip(moved, (200, 300), strict=True):
            assert checkpoints.load(path).round == round
        checkpoints.save({}, round=200)
        checkpoints.save({}, round=300)
    assert checkpoints.set_aside_after(directory / name(300)) == []


def test_the_directory_may_be_named_in_another_way(directory, tmp_path, monkeypatch):
    checkpoints = saved(directory, 100, 200)
    (tmp_path / "link").symlink_to(directory)
    monkeypatch.chdir(directory)
    for path in (
        tmp_path / "link" / name(200),
        Path(name(200)),
        Path("..", "checkpoints", name(200)),
    ):
        assert checkpoints.set_aside_after(path) == []
    assert len(checkpoints.set_aside_after(Path(name(100)))) == 1


@pytest.mark.parametrize("other", ["missing.mlo", name(150), "notes", "../" + name(100)])
def test_only_a_checkpoint_can_be_gone_back_to(directory, other):
    checkpoints = saved(directory, 100, 200)
    (directory / "notes").touch()
    (directory.parent / name(100)).touch()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.set_aside_after(directory / other)
    assert f"expected one of: {name(100)}, {name(200)}" in str(caught.value)
    assert names(directory) == ["notes", name(100), name(200)]


def test_a_file_that_cannot_be_set_aside(directory, monkeypatch):
    checkpoints = saved(directory, 100, 200)

    def refused(self, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(CheckpointError, match=r"cannot set aside .*Operation not permitted"):
        checkpoints.set_aside_after(directory / name(100))


def test_a_failed_save_leaves_the_others_as_they_were(directory):
    checkpoints = saved(directory, 100, 200, keep=2)
    before = {path: path.read_bytes() for path in checkpoints.paths()}
    with pytest.raises(CheckpointError, match=r"engine\.x: expected"):
        checkpoints.save({"engine": {"x": object()}}, round=300)
    (directory / name(400)).mkdir()
    with pytest.raises(CheckpointError, match="directory; earlier checkpoints are untouched"):
        checkpoints.save({}, round=400)
    assert {path: path.read_bytes() for path in checkpoints.paths()} == before


def test_a_directory_that_cannot_be_made_or_read(tmp_path):
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(directory=tmp_path / "file")
    assert checkpoints.paths() == []
    for each in (checkpoints, Checkpoints(directory=tmp_path / "file" / "below")):
        with pytest.raises(CheckpointError) as caught:
            each.save({}, round=1)
        assert str(each.directory / name(1)) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden here")
def test_permissions(directory):
    checkpoints = saved(directory, 100)
    directory.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied; earlier checkpoints"):
            checkpoints.save({}, round=200)
        directory.chmod(0)
        with pytest.raises(CheckpointError, match="Permission denied"):
            checkpoints.load()
    finally:
        directory.chmod(0o700)
    assert checkpoints.load().round == 100


def test_a_disk_that_says_no(directory, monkeypatch):
    """The same as without permission, which root always has."""
    checkpoints = saved(directory, 100)
    opened = Path.open

    def refused(self, mode="r", **options):
        if "x" in mode or "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(self, mode, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.save({}, round=200)
    assert "Permission denied; earlier checkpoints are untouched" in str(caught.value)
    assert str(directory / name(200)) in str(caught.value)
    assert names(directory) == [name(100)]


def test_a_directory_that_may_not_be_listed(directory, monkeypatch):
    checkpoints = saved(directory, 100)

    def refused(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refused)
    for call in (checkpoints.paths, checkpoints.load, checkpoints.best):
        with pytest.raises(CheckpointError, match=r"cannot read the directory .*Permission"):
            call()


def test_states_of_a_module_and_an_optimizer(directory):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(directory=directory)
    checkpoints.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, round=1)
    found = checkpoints.load().state
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(found["model"])
    another = torch.optim.Adam(other.parameters())
    another.load_state_dict(found["optimizer"])
    for network, moved in ((model, optimizer), (other, another)):
        torch.manual_seed(0)
        moved.zero_grad()
        network(torch.randn(4, 3)).square().sum().backward()
        moved.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
