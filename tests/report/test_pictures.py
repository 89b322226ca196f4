"""Images are embedded within bounds."""

from PIL import Image

from mlo.report.pictures import pictures_of
from mlo.report.run import load
from tests.report.runs import make


def images(count):
    return [
        {"kind": "image", "scope": "m", "step": k, "name": "x", "file": f"images/{k}.png"}
        for k in range(count)
    ]


def pictures(run):
    return pictures_of((load(run, name="run"),))


def test_of_many_times_the_first_and_the_newest_and_some_between_are_shown(tmp_path):
    run = make(tmp_path / "run", recorded=images(50))
    for k in range(50):
        Image.new("L", (2, 2)).save(run / "images" / f"{k}.png")
    captions = [picture.caption for picture in pictures(run)]
    assert len(captions) <= 6
    assert captions[0] == "x · m, step 0"
    assert captions[-1] == "x · m, step 49"


def test_images_beside_the_record_are_shown_once(tmp_path):
    run = make(tmp_path / "run", recorded=[images(1)[0] | {"file": "own.png"}])
    for name in ("own.png", "other.png"):
        Image.new("L", (5, 4)).save(run / name)
    found = pictures(run)
    assert [picture.caption for picture in found] == ["x · m, step 0", "other.png"]
    assert (found[0].width, found[0].height) == (5, 4)


def test_what_would_be_too_much_is_left_out_and_noted(tmp_path, monkeypatch):
    run = make(tmp_path / "run", recorded=images(2))
    for k in range(2):
        Image.new("L", (2, 2)).save(run / "images" / f"{k}.png")
    size = (run / "images" / "0.png").stat().st_size
    monkeypatch.setattr("mlo.report.pictures._ALL", size)
    loaded = load(run, name="run")
    assert len(pictures_of((loaded,))) == 1
    assert "left out" in loaded.faults.sentences()[0]


def test_an_image_of_too_many_pixels_is_not_shown(tmp_path, monkeypatch):
    run = make(tmp_path / "run", recorded=images(1))
    Image.new("1", (5, 5)).save(run / "images" / "0.png")
    assert len(pictures(run)) == 1
    monkeypatch.setattr("mlo.report.pictures._PIXELS", 24)
    assert pictures(run) == []
