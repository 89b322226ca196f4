"""What is wrong with one response, in words."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlo.context import Context, Rate
from mlo.outcome import Status
from mlo.testing.linear import Ritz
from mlo.testing.measure import Answer
from mlo.testing.report import Cause, Finding, Row, Severity
from mlo.testing.setting import number_of
from mlo.testing.solve import answer_of, second_of
from mlo.testing.system import Flat, System, flat, named


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One response, what it answered and what would be right.

    Attributes:
        system: The program around it.
        values: Where it was asked.
        row: What was measured.
        asked: The call.
        answer: Its answer to one problem, shape ``(n,)``.
        jump: Difference of the slopes on both sides, relative to the derivative.
        ritz: Extreme eigenvalues of the solved problem's Hessian.
        tolerance: Relative error that passes.
        is_update: Whether the measurement was of one update, as there is no solution.
    """

    system: System
    values: Flat
    row: Row
    asked: Answer
    answer: Tensor
    jump: float
    ritz: Ritz
    tolerance: float
    is_update: bool = False

    @property
    def context(self) -> Context:
        """What was known of the solved problem's optimizer."""
        return self.system.contexts[self.row.problem]


def on_problem(case: Case) -> Iterator[Finding]:
    """Find what concerns the solved problem, whatever it responds to."""
    if case.context.unseen:
        yield _finding(
            case,
            Cause.DECAY,
            f"{case.context.unseen}; the check solves the problem without it too. Train first, so "
            "that the optimizer has a state, or use coupled decay, which is always counted",
            severity=Severity.WARNING,
        )
    if finding := _rate_too_high(case):
        yield finding


def _rate_too_high(case: Case) -> Finding | None:
    label = case.row.response
    response = case.system.graph.response(case.row.problem)
    rate = _rate(case.system, case.row.problem)
    largest = case.ritz.largest + (number_of(response, "damping") or 0.0)
    if not label.startswith("neumann(") or not isinstance(rate, float) or largest <= 0:
        return None
    limit = 2 / largest
    if rate <= limit:
        return None
    return _finding(
        case,
        Cause.RATE,
        f"its rate {rate:g} is above 2/λ_max = {limit:.3g} (λ_max = {largest:.4g}), so "
        f"the series diverges, however small its first terms look; lower the rate to "
        f"{limit / 2:.2g} or less, or use mlo.cg()",
    )


def on_response(case: Case) -> Iterator[Finding]:
    """Find what is wrong with the response; the first explanation that holds is given."""
    comparison, row = case.row.comparison, case.row
    status = case.asked.outcome.status
    error = f"off by {comparison.relative_error:.2g} (cosine {comparison.cosine:.4f})"
    if max(case.jump, comparison.uncertainty) > 10 * case.tolerance:
        yield _kink(case)
    elif not any(comparison.declared):
        yield _zero(case)
    elif case.is_update:
        yield _one_step(case, error)
    elif comparison.relative_error <= case.tolerance + comparison.uncertainty:
        return
    elif status is Status.ONE_STEP:
        yield _one_step(case, error)
    elif _is_without_decay(case):
        yield _finding(
            case,
            Cause.DECAY,
            f"the answer to {row.above!r} is {error}, and is the one of the problem without the "
            "weight decay of its optimizer: add context.decay to the Hessian's diagonal",
        )
    elif _rate_too_high(case):
        return
    elif status in (Status.NEGATIVE_CURVATURE, Status.ZERO_CURVATURE, Status.NON_FINITE):
        cause = Cause.FLAT if status is Status.ZERO_CURVATURE else Cause.NEGATIVE_CURVATURE
        cause = Cause.MISMATCH if status is Status.NON_FINITE else cause
        yield _finding(case, cause, f"{error}; {case.asked.outcome.message}")
    elif _is_damped(case):
        yield _finding(
            case,
            Cause.DAMPING,
            f"its damping is applied as declared and moves the answer to {row.above!r}: {error}",
            severity=Severity.WARNING,
        )
    elif status is Status.DIVERGED:
        yield _finding(case, Cause.RATE, f"{error}; {case.asked.outcome.message}")
    elif status is Status.TRUNCATED:
        yield _finding(
            case,
            Cause.TRUNCATED,
            f"the answer to {row.above!r} is {error}: {row.response} stopped at relative residual "
            f"{row.residual:.2g}{_products(case)}; give it more steps, or accept the error with "
            "tolerance=",
        )
    else:
        yield _wrong(case, error)


def _zero(case: Case) -> Finding:
    row = case.row
    if any(row.comparison.measured):
        return _finding(
            case,
            Cause.ZERO_PATH,
            f"answers {row.above!r} with exactly zero, but its solution moves with {row.above!r} "
            f"(slope {max(row.comparison.measured, key=abs):.3g} along a random direction): "
            f"{row.above!r} is detached in the loss of {row.problem!r}, or used under "
            "torch.no_grad() or through .item() or .data",
        )
    return _finding(
        case,
        Cause.ZERO_PATH,
        f"answers {row.above!r} with zero, and its solution does not move with {row.above!r} as "
        f"far as {row.problem!r} is heard above: the loss reads {row.above!r} for nothing, or what "
        "arrives vanishes here",
        severity=Severity.WARNING,
    )


def _kink(case: Case) -> Finding:
    comparison = case.row.comparison
    slopes = (
        f"slopes on both sides of the solution differ by {case.jump:.2g} of the derivative"
        if case.jump > comparison.uncertainty
        else f"differences do not settle as their step shrinks (spread {comparison.uncertainty:.2g}"
        " of the derivative)"
    )
    return _finding(
        case,
        Cause.KINK,
        f"its solution has no derivative towards {case.row.above!r} that could be measured: "
        f"{slopes}. Kinks such as ReLU, abs, max, clamp or sorting do that, and so does a problem "
        "that cannot be solved again near by; use a smooth function (softplus, gelu, tanh) to "
        "check the rest",
    )


def _one_step(case: Case, error: str) -> Finding:
    row = case.row
    if case.is_update and row.comparison.relative_error <= 10 * case.tolerance:
        return _finding(
            case,
            Cause.ONE_STEP,
            f"{row.response} is the derivative of one update, as declared, to "
            f"{row.comparison.relative_error:.1g}; where there is no solution, how far that is "
            "from the derivative of one cannot be said",
            severity=Severity.WARNING,
        )
    expected = _one_update(case)
    if expected is not None and _apart(case.answer, expected) > 10 * case.tolerance:
        return _finding(
            case,
            Cause.MISMATCH,
            f"its answer to {row.above!r} is not even the derivative of one update, off by "
            f"{_apart(case.answer, expected):.2g}{_products(case)}",
        )
    proven = (
        ""
        if expected is None
        else f"one of them as declared, to {_apart(case.answer, expected):.1g}, "
    )
    return _finding(
        case,
        Cause.ONE_STEP,
        f"{row.response} differentiates updates, {proven}which is not the derivative of the "
        f"solution: towards {row.above!r} it is {error}. Training with it is common; for the "
        "derivative of the solution use mlo.cg()",
        severity=Severity.WARNING,
    )


def _wrong(case: Case, error: str) -> Finding:
    """Name the mistake in an answer that claims to be right."""
    row, ratio = case.row, case.row.comparison.ratio
    slack = 10 * case.tolerance
    if row.comparison.cosine < -1 + slack:
        size = "" if abs(ratio + 1) <= slack else f" and {-ratio:.4g} times the size"
        return _finding(
            case,
            Cause.SIGN,
            f"the answer to {row.above!r} has the opposite sign{size}: vᵀ∂θ*/∂a is "
            "-(H⁻¹v)ᵀ ∂²g/∂θ∂a",
        )
    if row.comparison.cosine > 1 - slack / 10:
        return _finding(
            case,
            Cause.FACTOR,
            f"the answer to {row.above!r} has the right direction but {ratio:.4g} times the right "
            "size: a factor such as a learning rate or a batch size is missing or too many",
        )
    return _finding(
        case,
        Cause.MISMATCH,
        f"the answer to {row.above!r} is {error}{_worst_tensors(case)}{_products(case)}: a term of "
        "vᵀ∂θ*/∂a is missing or wrong",
    )


def _worst_tensors(case: Case) -> str:
    """Say which tensors are wrong, if some are right."""
    like = case.system.values[case.row.above]
    expected = named(_reference(case), like)
    found = named(case.answer, like)
    scale = float(flat(expected).norm())
    wrong = [
        key
        for key in like
        if float((found[key] - expected[key]).norm()) > 10 * case.tolerance * scale
    ]
    if not wrong or len(wrong) == len(like):
        return ""
    zero = [key for key in wrong if not bool(found[key].any())]
    what = "zero for" if zero == wrong else "wrong for"
    return f", {what} {', '.join(map(repr, wrong[:5]))} and right for the rest"


def _products(case: Case) -> str:
    if "finite_difference(" not in case.row.response:
        return ""
    return ' (its products are finite differences, which kinks spoil; try product="autograd")'


def _reference(case: Case, decay: dict[str, Rate] | None = None) -> Tensor:
    """Return the right answer, or what it would be with another weight decay."""
    system, name = case.system, case.row.problem
    if decay is not None:
        changed = replace(case.context, decay=decay)
        system = replace(system, contexts={**system.contexts, name: changed})
    found = answer_of(system, name, case.values, case.asked.vector)
    return found.get(case.row.above, torch.zeros_like(case.answer))


def update_of(system: System, name: str, label: str, vector: Tensor) -> Tensor | None:
    """Return ``ξ·v`` if the response differentiates one update with learning rates ξ, else None."""
    rate = _rate(system, name)
    if not label.startswith(("identity(", "finite_difference(")) or rate is None:
        return None
    like = system.values[name]
    rates = dict.fromkeys(like, rate) if isinstance(rate, float) else rate
    return flat({key: t * rates[key] for key, t in named(vector, like).items()})


def _one_update(case: Case) -> Tensor | None:
    """Return ``-ξ vᵀ ∂²g/∂θ∂a``, or None if the response is of another kind."""
    name = case.row.problem
    step = update_of(case.system, name, case.row.response, case.asked.vector)
    if step is None:
        return None
    return -second_of(case.system, name, case.values)(step)[case.row.above]


def _is_without_decay(case: Case) -> bool:
    if not case.context.decay:
        return False
    return _apart(case.answer, _reference(case, decay={})) <= 10 * case.tolerance


def _is_damped(case: Case) -> bool:
    response = case.system.graph.response(case.row.problem)
    damping = number_of(response, "damping") or None
    if damping is None:
        return False
    keys = case.system.values[case.row.problem]
    decay = {key: damping + case.context.decay.get(key, 0.0) for key in keys}
    return _apart(case.answer, _reference(case, decay)) <= 10 * case.tolerance


def _apart(found: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    error = float((found - expected).norm())
    return error / size if size else (0.0 if error == 0 else float("inf"))


def _rate(system: System, name: str) -> float | dict[str, Rate] | None:
    """Return the learning rate of the response: its own, or else the optimizer's."""
    response = system.graph.response(name)
    if response.solver is not None and response.solver.settings.get("rate") is not None:
        return number_of(response, "rate")
    rates = dict(system.contexts[name].rates)
    if any(key not in rates for key in system.values[name]):
        return None
    known = {float(rate) for rate in rates.values()}
    return known.pop() if len(known) == 1 else rates


def _finding(
    case: Case, cause: Cause, message: str, *, severity: Severity = Severity.ERROR
) -> Finding:
    return Finding(cause=cause, severity=severity, problem=case.row.problem, message=message)
