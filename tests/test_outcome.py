import pytest
import torch

from mlo import Outcome, Status
from mlo.outcome import escalated


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_message_a_person_can_act_on(status):
    outcome = Outcome(solver="cg(steps=3)", code=status)
    assert outcome.message.startswith("cg(steps=3): ")
    assert len(outcome.message) > 30
    assert "\n" not in outcome.message
    assert repr(outcome) == f"Outcome({outcome.message})"


def test_only_what_kept_its_promise_has_converged_and_only_what_broke_it_has_failed():
    outcomes = {status: Outcome(solver="s", code=status) for status in Status}
    assert {s for s, o in outcomes.items() if o.converged} == {Status.ONE_STEP, Status.CONVERGED}
    assert {s for s, o in outcomes.items() if not o.failed} == {
        Status.ONE_STEP,
        Status.CONVERGED,
        Status.TRUNCATED,
    }


def test_numbers_may_still_be_tensors():
    outcome = Outcome(
        solver="s",
        code=torch.tensor(2),
        relative_residual=torch.tensor(0.25),
        products=torch.tensor(7),
    )
    assert (outcome.status, outcome.residual, outcome.iterations) == (Status.TRUNCATED, 0.25, 7)
    assert outcome.message.endswith("(relative residual 0.25 after 7 products)")


def test_the_graver_report_wins():
    truncated = Outcome(solver="s", code=torch.tensor(int(Status.TRUNCATED)))
    yes, no = torch.tensor(True), torch.tensor(False)
    assert escalated(truncated, yes, Status.DIVERGED).status is Status.DIVERGED
    assert escalated(truncated, no, Status.DIVERGED).status is Status.TRUNCATED
    assert escalated(truncated, yes, Status.CONVERGED).status is Status.TRUNCATED


def test_the_cause_of_a_zero_answer_ranks_above_the_answer_being_zero():
    for cause in (Status.NEGATIVE_CURVATURE, Status.ZERO_CURVATURE, Status.DIVERGED):
        outcome = Outcome(solver="s", code=cause)
        assert escalated(outcome, torch.tensor(True), Status.ZERO_RESPONSE).status is cause
