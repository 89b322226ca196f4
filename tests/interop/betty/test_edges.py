"""Edges and reads say the same."""

from typing import Any

import pytest

import mlo
from mlo.interop.betty.edges import Edges, check, edges_of, levels_of
from tests.programs import Vector


def graph(reads: dict[str, list[str]], **responses: mlo.Response) -> mlo.Graph:
    def loss(**modules: Any) -> Any:
        return sum(module.value.square().sum() for module in modules.values())

    return mlo.Graph(
        *(
            mlo.Problem(
                name=n, module=Vector(1.0), loss=loss, reads=tuple(r), response=responses.get(n)
            )
            for n, r in reads.items()
        )
    )


DIAMOND = {"a": ["a", "u"], "b": ["b", "a"], "c": ["c", "a"], "u": ["b", "c"]}


def test_a_diamond() -> None:
    edges = edges_of(graph(DIAMOND))
    assert edges.downwards == {"u": ("a",)}
    assert {n: set(ends) for n, ends in edges.upwards.items()} == {
        "a": {"b", "c"},
        "b": {"u"},
        "c": {"u"},
    }
    assert levels_of("abcu", edges) == {"a": 0, "b": 1, "c": 1, "u": 2}
    check("abcu", edges)


def test_both_directions_are_reads() -> None:
    edges = edges_of(graph(DIAMOND))
    for name, reads in DIAMOND.items():
        assert set(edges.reads(name)) == {name, *reads}


def test_a_constant_closes_its_path() -> None:
    reads = {"a": ["a", "u"], "k": ["k", "a"], "u": ["u", "k", "a"]}
    edges = edges_of(graph(reads, k=mlo.constant()))
    assert edges.upwards["k"] == ("u",)
    assert edges.upwards["a"] == ("u",)


def test_a_path_that_betty_would_not_build() -> None:
    reads = {"low": ["low", "high"], "high": ["high", "u"], "u": ["u", "low"]}
    with pytest.raises(mlo.GraphError, match="goes from 'low' on to 'high', which is not below"):
        edges_of(graph(reads))


def test_circles_are_named() -> None:
    edges = Edges(downwards={}, upwards={"a": ("b",), "b": ("c",), "c": ("b", "d")})
    with pytest.raises(mlo.GraphError, match=r"in a circle, (b -> c -> b|c -> b -> c)"):
        levels_of("abcd", edges)
