import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import mlo
from mlo import Graph, Problem
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from tests.programs import counted, fully_connected, network, regression_batches, two_levels


def lbg(**responses):
    """Learning by grouping: gating network t, experts s, assignments c."""
    return Graph(
        Problem(
            name="t",
            module=nn.Linear(3, 2),
            loss=lambda t, c, batch: (t.weight.sum() * c.weight.sum()).square(),
            steps=3,
            response=responses.get("t"),
        ),
        Problem(
            name="s",
            module=nn.Linear(3, 1),
            loss=lambda s, t, batch: (s.weight.sum() * t.weight.sum()).square(),
            steps=2,
            response=responses.get("s"),
        ),
        Problem(name="c", module=nn.Linear(5, 2), loss=lambda s, t: s.weight.sum() * t.bias.sum()),
    )


def test_explanation_of_a_three_level_program():
    assert lbg(s=mlo.cg(steps=4)).explain() == "\n".join(
        [
            "levels (highest first)",
            "  2  c: 12 parameters, 1 update per round",
            "  1  s: 4 parameters, 2 updates per round, response cg(steps=4)",
            "  0  t: 8 parameters, 6 updates per round, response finite_difference()",
            "edges (loss <- what it reads)",
            "  t <- t, c, batch",
            "  s <- s, t, batch",
            "  c <- s, t",
            "sweeps (how each problem's gradient is found)",
            "  t: direct gradient of t",
            "  s: direct gradient of s",
            "  c: s answers to t, then t answers to c",
            "gradient evaluations per round",
            "  t: 6 x 1",
            "  s: 2 x 1",
            "  c: 1 x 9",
            "  total: 17",
        ]
    )


def test_a_dense_inverse_costs_an_unknown_number_of_evaluations():
    text = lbg(t=mlo.exact()).explain()
    assert "  c: 1 x 3 + those of the response of t" in text
    assert "  total: at least 11" in text


def announced(graph):
    """Gradient evaluations per round that the explanation announces for each problem."""
    text = graph.explain().split("gradient evaluations per round\n")[1]
    return {n: int(u) * int(e) for n, u, e in re.findall(r"  (\w+): (\d+) x (\d+)", text)}


@pytest.mark.parametrize("lower", [1, 3, 6])
def test_announced_evaluations_of_a_sweep_are_the_counted_ones(lower):
    reads = fully_connected(lower)
    program = random_quadratic(dict.fromkeys(reads, 2), reads, condition=2.0)
    responses = dict.fromkeys(program.lower, mlo.finite_difference(rate=0.1))
    graph, counts = counted(declare(program, responses))
    mlo.hypergradient(graph, UPPER)
    assert announced(graph)[UPPER] == sum(counts.values()) == 2 * lower + 1


def test_announced_evaluations_of_a_round_are_the_counted_ones():
    batches = regression_batches()
    program = two_levels(network(), mlo.neumann(terms=3, rate=0.1, product="finite_difference"))
    problems = [
        replace(
            p,
            batches=[batches[n]],
            optimizer=lambda params: torch.optim.SGD(params, lr=0.01),
            steps=4 if n == "model" else 1,
        )
        for n, p in program.problems.items()
    ]
    graph, counts = counted(Graph(*problems))
    mlo.Engine(graph, device="cpu").run(1)
    assert announced(graph) == {"model": 4, "weights": 1 + 2 * (2 + 1)}
    assert sum(announced(graph).values()) == sum(counts.values())


def test_drawing_is_mermaid_text():
    lines = lbg().draw().splitlines()
    assert lines[0] == "flowchart BT"
    nodes = [re.fullmatch(r'    (p_\w+)\["(\w+)"\]', line) for line in lines]
    names = {match[1]: match[2] for match in nodes if match}
    assert names == {"p_t": "t", "p_s": "s", "p_c": "c"}
    opened = [line for line in lines if re.fullmatch(r"  subgraph level_\d+ \[level \d+\]", line)]
    assert len(opened) == lines.count("  end") == 3
    arrows = [re.fullmatch(r"  (p_\w+) (-->|-\.->)\|([\w ]+)\| (p_\w+)", line) for line in lines]
    assert {(a[1], a[2], a[4]) for a in arrows if a} == {
        ("p_c", "-->", "p_t"),
        ("p_t", "-->", "p_s"),
        ("p_s", "-->", "p_c"),
        ("p_t", "-->", "p_c"),
        ("p_s", "-.->", "p_t"),
        ("p_t", "-.->", "p_c"),
    }
    assert len(lines) == 1 + len(names) + 2 * len(opened) + len([a for a in arrows if a])


def test_names_that_mean_something_to_mermaid_are_harmless():
    graph = Graph(
        Problem(name="end", module=nn.Linear(1, 1), loss=lambda end: end.weight.sum()),
        Problem(name="subgraph", module=nn.Linear(1, 1), loss=lambda subgraph: subgraph.bias.sum()),
    )
    lines = [line.strip() for line in graph.draw().splitlines()]
    assert 'p_end["end"]' in lines
    assert 'p_subgraph["subgraph"]' in lines
    assert lines.count("end") == 2


def test_problems_of_one_level_are_drawn_together():
    graph = Graph(
        Problem(name="a", module=nn.Linear(1, 1), loss=lambda a: a.weight.sum()),
        Problem(name="b", module=nn.Linear(1, 1), loss=lambda b: b.weight.sum()),
        levels={"a": 0, "b": 0},
    )
    assert graph.draw().count("subgraph") == 1
