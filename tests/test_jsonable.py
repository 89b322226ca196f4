import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.errors import ProgramError
from mlo.jsonable import jsonable

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_what_is_plain_comes_back_as_it_was_but_for_infinity(value):
    written = json.dumps(jsonable(value, "x"), allow_nan=False)
    if "inf" not in repr(value):
        assert repr(json.loads(written)) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1},
        b"x",
        1j,
        torch.tensor(1j),
        torch.eye(2).to_sparse(),
        np.array([object()]),
        10**2000,
    ],
)
def test_what_json_cannot_hold_is_named_in_one_line(value):
    with pytest.raises(ProgramError, match=r"^x\.a\.0(\.0)?: ") as caught:
        jsonable({"a": [value]}, "x")
    assert "\n" not in str(caught.value)


def test_the_largest_integers_can_be_read_back():
    for value in (2**4096 - 1, -(2**4096) + 1):
        assert json.loads(json.dumps(jsonable(value, "x"))) == value


def test_a_value_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(ProgramError, match=r"^x: expected a value that is not nested so deeply"):
        jsonable(value, "x")
