"""What a solver reports of its work: an `Outcome`, read lazily so that no device is waited for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from mlo.device import synchronous


class Status(IntEnum):
    """How a linear solve ended; the order is the one in which reports override each other.

    A solve that fails may answer zero, so the cause of a failure ranks above `ZERO_RESPONSE`.
    """

    ONE_STEP = 0
    CONVERGED = 1
    TRUNCATED = 2
    ZERO_RESPONSE = 3
    NEGATIVE_CURVATURE = 4
    ZERO_CURVATURE = 5
    DIVERGED = 6
    NON_FINITE = 7


_MEANING = {
    Status.ONE_STEP: "differentiated updates of the problem itself; no linear system was solved",
    Status.CONVERGED: "the solve reached its tolerance",
    Status.TRUNCATED: "the solve stopped before its tolerance; more steps would help",
    Status.NEGATIVE_CURVATURE: (
        "the Hessian has negative curvature, so the problem is not at a minimum: "
        "train it longer or add damping"
    ),
    Status.ZERO_CURVATURE: (
        "the Hessian is zero along the vector to be solved for, as when a loss is linear in its "
        "own parameters: the solution is not isolated; add a regulariser, weight decay or damping"
    ),
    Status.DIVERGED: (
        "the iteration grows: its rate is above its bound, 2 / (largest eigenvalue of the "
        "Hessian) (√2 / it for stationarity_penalty), so lower it, or the problem is not at a "
        "minimum, so train it longer"
    ),
    Status.ZERO_RESPONSE: (
        "no gradient comes back: the cotangent or the derivative of the problem's gradient with "
        "respect to every problem above it is exactly zero, so the indirect part is zero; was "
        "something detached or computed under no_grad?"
    ),
    Status.NON_FINITE: "the answer is infinite or not a number",
}
_FAILURES = frozenset(Status) - {Status.ONE_STEP, Status.CONVERGED, Status.TRUNCATED}


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """How one solved problem answered its cotangent.

    The numbers may still be tensors on an accelerator; the properties fetch them when read.

    Attributes:
        solver: What solved, for example ``cg(steps=10)``.
        code: A `Status`, as a number or a 0-dim integer tensor.
        relative_residual: ``‖v - H w‖ / ‖v‖``, or NaN where no system is solved.
        products: Hessian-vector products, or gradient steps, spent.
        note: What else the reader should know, in words.
    """

    solver: str
    code: int | Tensor
    relative_residual: float | Tensor = float("nan")
    products: int | Tensor = 0
    note: str = ""

    @property
    def status(self) -> Status:
        """How the solve ended."""
        return Status(int(self.code))

    @property
    def converged(self) -> bool:
        """True if nothing that the solver promises was left undone."""
        return self.status in (Status.CONVERGED, Status.ONE_STEP)

    @property
    def failed(self) -> bool:
        """True if the answer should not be trusted; a truncated solve has not failed."""
        return self.status in _FAILURES

    @property
    def residual(self) -> float:
        """``‖v - H w‖ / ‖v‖``, or NaN where no linear system is solved."""
        return float(self.relative_residual)

    @property
    def iterations(self) -> int:
        """Hessian-vector products, or gradient steps, spent."""
        return int(self.products)

    @property
    def message(self) -> str:
        """What happened and what to change, in one line."""
        text = f"{self.solver}: {_MEANING[self.status]}"
        if self.status is not Status.ONE_STEP and self.residual == self.residual:
            spent = f"{self.iterations} product{'' if self.iterations == 1 else 's'}"
            text = f"{text} (relative residual {self.residual:.2g} after {spent})"
        return f"{text}; {self.note}" if self.note else text

    def __repr__(self) -> str:
        return f"Outcome({self.message})"


def escalated(outcome: Outcome, condition: Tensor, status: Status) -> Outcome:
    """Return `outcome` with `status` where `condition` (0-dim bool) holds and it is the graver.

    >>> escalated(Outcome(solver="s", code=1), torch.tensor(True), Status.NON_FINITE).status
    <Status.NON_FINITE: 7>
    """
    code = outcome.code
    if not isinstance(code, Tensor):
        # Filled on the device: copying a number to it would wait.
        code = torch.full((), int(code), device=condition.device)
    graver = torch.maximum(code, torch.full_like(code, int(status)))
    return replace(outcome, code=torch.where(condition, graver, code))


def gravest(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome whose status overrides those of the others.

    On an accelerator no status is read: the gravest one is found there, with the largest residual.

    >>> gravest([Outcome(solver="a", code=1), Outcome(solver="b", code=2)]).solver
    'b'
    """
    codes = [outcome.code for outcome in outcomes]
    unread = [c.device for c in codes if isinstance(c, Tensor) and not synchronous(c.device)]
    if not unread:
        return max(outcomes, key=lambda outcome: int(outcome.code))
    device = unread[0]

    def on_device(number: float | Tensor) -> Tensor:
        if isinstance(number, Tensor) and number.device == device:
            return number.double()
        return torch.full((), float(number), device=device, dtype=torch.double)

    residuals = torch.stack([on_device(outcome.relative_residual) for outcome in outcomes])
    return replace(
        outcomes[0],
        code=torch.stack([on_device(code) for code in codes]).amax().long(),
        relative_residual=residuals.nan_to_num(nan=0.0).amax(),
    )
