"""Betty is no dependency: these tests run without it."""

import sys

import pytest
import torch

import mlo
from mlo.interop.betty import to_betty
from tests.programs import Vector


def test_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import of this file has shown already that reading the module takes no Betty."""
    monkeypatch.setitem(sys.modules, "betty.engine", None)
    graph = mlo.Graph(
        mlo.Problem(
            name="line",
            module=Vector(1.0),
            loss=lambda line: line.value.square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )
    )
    install = "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
    with pytest.raises(mlo.MloError, match=install) as caught:
        to_betty(graph, rounds=1, device="cpu")
    assert "\n" not in str(caught.value)
