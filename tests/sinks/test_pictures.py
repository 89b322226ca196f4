import pytest
import torch

from mlo.errors import ProgramError
from mlo.events import image_of, scalars_of
from mlo.sinks.pictures import Pictures


def test_only_images_become_files_and_a_later_one_replaces_an_earlier(tmp_path):
    sink = Pictures(tmp_path)
    sink.write(scalars_of("", 1, {"a": 1.0}))
    assert not list(tmp_path.iterdir())
    for shade in (0.0, 1.0):
        event = image_of("a/seed-0", 1, "groups", torch.full((2, 2), shade))
        sink.write(event)
        assert (tmp_path / "images/a/seed-0/groups-1.png").read_bytes() == event.png
    sink.close()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["groups-1.png"]


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "images").symlink_to(tmp_path)
    with pytest.raises(ProgramError, match="inside the run directory"):
        Pictures(tmp_path / "run").write(image_of("", 1, "x", torch.zeros(2, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
