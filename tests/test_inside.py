import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo.errors import ProgramError
from mlo.inside import inside


def test_names_inside(tmp_path):
    assert inside(tmp_path, "a/b.txt") == tmp_path.resolve() / "a" / "b.txt"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert inside(tmp_path, "link/x") == tmp_path.resolve() / "real" / "x"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".", "", "a/..", "a\0b"])
def test_names_that_lead_elsewhere(tmp_path, name):
    with pytest.raises(ProgramError, match="file name") as caught:
        inside(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_links_that_lead_elsewhere(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "out").symlink_to(tmp_path)
    (directory / "round").symlink_to("round")
    for name in ("out", "out/x"):
        with pytest.raises(ProgramError, match="inside the run directory"):
            inside(directory, name)
    with pytest.raises(ProgramError, match="file name 'round/x'"):
        inside(directory, "round/x")


@given(st.lists(st.sampled_from(["..", ".", "a", "/", "run", "\0", "é"]), max_size=8))
def test_no_name_leads_out(tmp_path_factory, parts):
    directory = (tmp_path_factory.getbasetemp() / "run").resolve()
    try:
        found = inside(directory, "/".join(parts))
    except ProgramError:
        return
    assert directory in found.parents
