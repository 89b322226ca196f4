import pytest

import mlo
from mlo.errors import nearest


@pytest.mark.parametrize("name", [n for n in mlo.__all__ if n.endswith("Error")])
def test_every_error_is_a_value_error(name):
    assert issubclass(getattr(mlo, name), mlo.MloError)
    assert issubclass(mlo.MloError, ValueError)


def test_a_non_finite_error_names_problem_and_round():
    error = mlo.NonFiniteError("bad", problem="model", round=3)
    assert (str(error), error.problem, error.round) == ("bad", "model", 3)


def test_nearest_name():
    assert nearest("wieghts", ["model", "weights"]) == " (did you mean 'weights'?)"
    assert nearest("experts", ["model", "weights"]) == ""
    assert nearest("anything", []) == ""
