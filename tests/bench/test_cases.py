"""Which cases there are, and how they are chosen."""

import pytest

from mlo.bench.cases import CASES, chosen
from mlo.errors import ConfigError

NAMES = [case.name for case in CASES]


def test_names_are_distinct_identifiers_and_summaries_one_line():
    assert len(set(NAMES)) == len(NAMES) > 0
    assert all(name.isidentifier() for name in NAMES)
    assert all(len(case.summary.splitlines()) == 1 for case in CASES)


def test_all_cases_without_names_else_those_named_in_the_order_of_the_registry():
    assert chosen([]) == CASES
    assert [c.name for c in chosen([NAMES[2], NAMES[0], NAMES[2]])] == [NAMES[0], NAMES[2]]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        chosen(["upper_steps"])
    assert "'upper_steps'" in str(caught.value)
    assert "(did you mean 'upper_step'?)" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)
