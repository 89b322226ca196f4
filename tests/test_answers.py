import math

import torch

from mlo.answers import answers, failures
from mlo.outcome import Outcome, Status


def outcome(status, residual=math.nan):
    return Outcome(solver="s", code=torch.tensor(int(status)), relative_residual=residual)


def test_the_gravest_comes_first_and_one_step_is_no_news():
    lines = answers(
        {
            "a": {"x": outcome(Status.CONVERGED, 1e-7), "y": outcome(Status.ONE_STEP)},
            "b": {"x": outcome(Status.NON_FINITE), "y": outcome(Status.TRUNCATED, 0.5)},
        }
    )
    assert [line.plain for line in lines] == [
        "b through x: non finite",
        "b through y: truncated (residual 0.5)",
        "a through x: converged (residual 1e-07)",
    ]
    styles = [{str(span.style) for span in line.spans} for line in lines]
    assert styles == [{"bold red"}, {"yellow"}, set()]


def test_every_status_has_words():
    for status in Status:
        text = "".join(failures({"a": {"b": outcome(status)}}))
        assert bool(text) == outcome(status).failed
        assert "_" not in text


def test_nothing_to_say():
    assert answers({}) == []
    assert failures({"a": {}}) == []
