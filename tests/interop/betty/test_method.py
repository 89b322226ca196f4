"""A response becomes Betty's config and back."""

from types import SimpleNamespace
from typing import Any

import pytest

import mlo
from mlo.interop.betty.method import method_of, response_of


@pytest.mark.parametrize(
    "response",
    [
        mlo.finite_difference(rate=1.0),
        mlo.finite_difference(0.1, rate=1.0),
        mlo.neumann(1, 1 / 3),
        mlo.neumann(7, 0.1),
        mlo.cg(1),
        mlo.cg(9),
    ],
    ids=lambda response: response.label,
)
def test_there_and_back(response: mlo.Response) -> None:
    """To every digit of a rate, which a label does not show."""
    method = method_of("m", response)
    options: dict[str, Any] = {"type": method.type, **method.options}
    if method.type == "neumann":
        options["neumann_alpha"] = method.rate
    again = response_of("m", SimpleNamespace(**options))
    assert again.label == response.label
    assert method_of("m", again) == method


def test_a_response_made_from_parts() -> None:
    solver = mlo.inverse.neumann(3, 0.1)
    assert method_of("m", mlo.implicit(solver)).options == {"neumann_iterations": 2}
    with pytest.raises(mlo.ResponseError, match="no counterpart of response=own"):
        method_of("m", mlo.implicit(mlo.InverseProduct(label="own", solve=print, products=0)))
    with pytest.raises(mlo.ResponseError, match=r"no counterpart of response=constant\(\)"):
        method_of("m", mlo.constant())
