import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.errors import ProgramError
from mlo.events import (
    histogram_of,
    image_file,
    image_of,
    line_of,
    numbers_of,
    scalars_of,
    table_of,
)


def test_scalars_are_numbers_whatever_they_were():
    values = {
        "int": 1,
        "tensor": torch.tensor([[0.5]], requires_grad=True),
        "half": torch.tensor(2.0, dtype=torch.bfloat16),
        "numpy": np.float32(0.25),
        "array": np.array([3]),
        "undefined": float("nan"),
        "flag": True,
    }
    event = scalars_of("lbg/seed-0", 12, values)
    assert event.line() == {
        "kind": "scalars",
        "scope": "lbg/seed-0",
        "step": 12,
        "values": {
            "int": 1.0,
            "tensor": 0.5,
            "half": 2.0,
            "numpy": 0.25,
            "array": 3.0,
            "undefined": "nan",
            "flag": 1.0,
        },
    }
    assert list(event.values) == list(values)


@pytest.mark.parametrize(
    "value", ["0.5", None, [1.0], torch.zeros(2), torch.tensor(1j), 1j, np.zeros(3), object()]
)
def test_a_scalar_that_is_no_number_is_named(value):
    with pytest.raises(ProgramError, match=r"^scalars\.loss: expected a number or a tensor"):
        scalars_of("", 1, {"loss": value})


def test_scalars_take_a_mapping():
    with pytest.raises(ProgramError, match=r"^scalars: expected numbers by name, got float"):
        scalars_of("", 1, 0.5)


def test_numbers_on_an_accelerator_are_fetched_together(monkeypatch):
    # A device that must be waited for is played by the CPU.
    monkeypatch.setattr("mlo.events.synchronous", lambda device: False)
    fetches = []
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("fetched alone"))
    listed = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: fetches.append(self) or listed(self))
    values = {"a": torch.tensor(1.0), "b": 2.0, "c": torch.tensor([3], dtype=torch.int32)}
    assert numbers_of(values, "x") == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert list(numbers_of(values, "x")) == ["a", "b", "c"]
    assert len(fetches) == 2


@pytest.mark.parametrize("step", [1.5, "1", torch.tensor(0.5)])
def test_a_step_is_an_integer(step):
    for make in (
        lambda: scalars_of("", step, {}),
        lambda: histogram_of("", step, "h", torch.zeros(1)),
        lambda: image_of("", step, "i", torch.zeros(2, 2)),
        lambda: table_of("", step, "t", []),
    ):
        with pytest.raises(ProgramError, match="step must be an integer or None, got"):
            make()


def test_steps_of_other_integer_types_become_plain():
    for step in (np.int64(3), torch.tensor(3), 3):
        assert type(scalars_of("", step, {}).step) is int
    assert scalars_of("", None, {}).line()["step"] is None


def test_a_table_has_the_columns_of_all_its_rows():
    rows = ({"method": name, name: torch.tensor(0.5)} for name in ("a", "b"))
    assert table_of("s", None, "comparison", rows).line() == {
        "kind": "table",
        "scope": "s",
        "step": None,
        "name": "comparison",
        "columns": ["method", "a", "b"],
        "rows": [["a", 0.5, None], ["b", None, 0.5]],
    }


def test_a_row_is_a_mapping_of_plain_values():
    with pytest.raises(ProgramError, match=r"^table 't': expected rows that map .* row 1$"):
        table_of("", None, "t", [{}, [1]])
    with pytest.raises(ProgramError, match=r"^table 't'\.0\.0: expected a number, a text"):
        table_of("", None, "t", [{"a": object()}])


def test_lines_are_the_users_own():
    assert line_of("", {"a": (1,)}).line() == {"a": [1]}
    assert line_of("s", {"a": 1}).line() == {"scope": "s", "a": 1}
    assert line_of("s", {"scope": "mine"}).line() == {"scope": "mine"}


def test_an_image_names_its_file_and_keeps_its_bytes_to_itself():
    event = image_of("lbg/seed-0", 3, "groups", torch.zeros(2, 2))
    assert event.file == "images/lbg/seed-0/groups-3.png"
    assert event.line() == {
        "kind": "image",
        "scope": "lbg/seed-0",
        "step": 3,
        "name": "groups",
        "file": event.file,
    }
    assert event.png.startswith(b"\x89PNG")
    assert "PNG" not in repr(event)


NAMES = st.text(max_size=12) | st.sampled_from(
    [
        "../x",
        "/etc/passwd",
        "..",
        ".",
        "a-1",
        "a",
        "a-1-1",
        "A",
        "\0",
        "\ud800",
        "a" * 300,
        "a/b",
    ]
)
SCOPES = st.lists(st.text("ab.-_ é", min_size=1, max_size=4), max_size=2).map("/".join)
STEPS = st.none() | st.integers(-2, 12)


@given(SCOPES, NAMES, STEPS)
def test_no_name_leads_out_of_the_images(scope, name, step):
    file = image_file(scope, name, step)
    folder, *parts = file.split("/")
    assert folder == "images"
    assert file.isascii()
    for part in parts:
        assert part.strip(".")
        assert len(part) < 120
        assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@given(st.lists(st.tuples(SCOPES, NAMES, STEPS), min_size=2, max_size=2, unique=True))
def test_no_two_images_share_a_file(two):
    one, other = two
    assert image_file(*one) != image_file(*other)


def test_every_event_is_a_line_of_json():
    for event in (
        scalars_of("é\ud800", 1, {"a": float("inf")}),
        histogram_of("", 1, "h", torch.tensor([float("nan"), 1e308, -1e308], dtype=torch.double)),
        image_of("", None, "i", torch.zeros(1, 1)),
        table_of("", 10**30, "t", [{"a": {"b": [None]}}]),
        line_of("", {"text": "line\nbreak"}),
    ):
        text = json.dumps(event.line(), allow_nan=False)
        assert "\n" not in text
        assert json.loads(text) == event.line()


def test_a_name_that_looks_like_the_spelling_of_another_is_not_taken_for_it():
    spelt = image_file("", "C of K", None).removeprefix("images/").removesuffix(".png")
    assert image_file("", spelt, None) != image_file("", "C of K", None)
