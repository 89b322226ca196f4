"""Two processes that share batches put in what the formulas say."""

from functools import partial

import pytest

from mlo.bench.communication import expected, expected_of_three_levels, program_of
from mlo.bench.communication_measured import measured, three_levels

CALLS = ("finite_difference()", "cg(steps=K)", "value_function(steps=K)", "unrolled(steps=K)")


@pytest.fixture(scope="module")
def found():
    programs = {call: partial(program_of, call, 2) for call in CALLS}
    return measured({**programs, "three levels": three_levels})


@pytest.mark.parametrize("call", CALLS)
def test_a_bilevel_round(found, call):
    """Every kind, with its number of reductions and its bytes."""
    assert found[call] == expected(program_of(call, 2), call, 2)


def test_a_round_of_separable_losses_and_sparse_rows(found):
    assert found["three levels"] == expected_of_three_levels()
