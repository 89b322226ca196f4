"""What is wrong with a hypergradient, in words: a cause, what was measured, and the way out."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from mlo.outcome import Outcome, Status
from mlo.testing.measure import Measured, measure_partial
from mlo.testing.newton import Solution
from mlo.testing.report import Cause, Finding, Severity, Solved
from mlo.testing.system import Flat, System, gradients, loss_of, order_of

SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.NOTE)
_NEGLIGIBLE = 1e-8


def randomness(system: System, values: Flat) -> Iterator[Finding]:
    """Find losses that give two values at one point."""
    for name in (system.target, *order_of(system.graph, system.target)):
        first, second = (loss_of(system, name, values) for _ in range(2))
        apart = abs(float(first - second))
        if apart > 1e-12 * max(1.0, abs(float(first))):
            yield Finding(
                cause=Cause.RANDOMNESS,
                severity=Severity.ERROR,
                problem=name,
                message=(
                    f"two evaluations of its loss at the same parameters, batch and generator "
                    f"state give {float(first):.6g} and {float(second):.6g}. It draws from a "
                    "generator of its own or keeps a state; draw from torch's global generator, "
                    "which is replayed, or draw once and pass the numbers in with the batch"
                ),
            )


def detached(system: System, values: Flat, *, seed: int) -> Iterator[Finding]:
    """Find losses whose gradient is not the derivative of their value."""
    target = system.target
    order = order_of(system.graph, target)
    found = gradients(system, target, values)
    for moving in (target, *order):
        if moving in found:
            measured = measure_partial(system, values, target, moving, found[moving], seed=seed)
            if _is_apart(measured):
                yield _detached_from(target, moving, measured)
    for name in order:
        # Where the problem is solved its gradient says nothing.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(values[name].numel(), generator=generator, dtype=torch.float64)
        push = 0.1 * max(1.0, float(values[name].norm())) / float(noise.norm())
        beside = {**values, name: values[name] + push * noise.to(values[name].device)}
        gradient = gradients(system, name, beside)[name]
        measured = measure_partial(system, beside, name, name, gradient, seed=seed)
        if _is_apart(measured):
            yield _own_detached(name, measured)


def _is_apart(measured: Measured) -> bool:
    comparison = measured.comparison
    error = comparison.relative_error
    return error > 1e-3 and error > 10 * comparison.uncertainty


def _detached_from(target: str, moving: str, measured: Measured) -> Finding:
    comparison = measured.comparison
    is_zero = not any(comparison.declared)
    how = "no gradient" if is_zero else f"a gradient that is off by {comparison.relative_error:.2g}"
    return Finding(
        cause=Cause.DETACHED,
        severity=Severity.ERROR,
        problem=target,
        message=(
            f"its loss depends on {moving!r} (slope {_first(comparison.measured)} along a random "
            f"direction), but autograd finds {how}: something on the way is detached, computed "
            "under torch.no_grad() or from .item() or .data, or has a custom backward"
        ),
    )


def _own_detached(name: str, measured: Measured) -> Finding:
    comparison = measured.comparison
    return Finding(
        cause=Cause.DETACHED,
        severity=Severity.WARNING,
        problem=name,
        message=(
            f"the gradient of its loss with respect to itself is not the derivative of the loss's "
            f"value ({_first(comparison.declared)} against {_first(comparison.measured)} along a "
            f"random direction): a part is detached, as the input of example weights often is, or "
            f"has a custom backward. Training then ends where that gradient vanishes, which is no "
            f"minimum of the loss, and responses take the detached part as a constant"
        ),
    )


def _first(numbers: Sequence[float]) -> str:
    return f"{max(numbers, key=abs):.3g}"


def solved(
    found: Mapping[str, Solved],
    solutions: Mapping[str, Solution],
    tilted: Sequence[str],
) -> Iterator[Finding]:
    """Find problems that have no solution, or none that is isolated."""
    for name, each in found.items():
        spread = f"eigenvalues from {each.smallest:.2g} to {each.largest:.2g}"
        is_negative = each.smallest < -_NEGLIGIBLE * max(abs(each.largest), 1e-300)
        is_flat = not is_negative and each.smallest < 1e-7 * each.largest
        if name in tilted:
            yield Finding(
                cause=Cause.UNSOLVED,
                severity=Severity.WARNING,
                problem=name,
                message=_unsolved(each, solutions[name]),
            )
        if is_negative:
            yield Finding(
                cause=Cause.NEGATIVE_CURVATURE,
                severity=Severity.WARNING if name in tilted else Severity.ERROR,
                problem=name,
                message=(
                    f"the smallest Ritz value of its Hessian is {each.smallest:.3g} (the largest "
                    f"{each.largest:.3g}), so the point is a saddle and no minimum: conjugate "
                    "gradients and the Neumann series need positive curvature; train it longer, "
                    "regularise it or add damping"
                ),
            )
        elif is_flat:
            yield Finding(
                cause=Cause.FLAT,
                severity=Severity.WARNING,
                problem=name,
                message=(
                    f"its Hessian is singular to rounding ({spread}): the solution is not isolated "
                    "and which one training finds depends on the start, which no implicit response "
                    "sees; add weight decay, a regulariser or damping"
                ),
            )


def _unsolved(found: Solved, ended: Solution) -> str:
    reached = f"gradient norm {found.gradient_norm_now:.2g} fell to {ended.gradient_norm:.1g}"
    where = (
        f"{reached}, but the next Newton step is still {ended.distance:.1g} times as long as the "
        "parameters"
        if ended.distance < float("inf")
        else f"{reached}, but where that is its Hessian cannot be solved with"
    )
    return (
        f"L-BFGS and Newton's method found no minimum: {where}. It may lie at infinity, as for a "
        "classifier of separable data without weight decay, or the loss is unbounded or has kinks. "
        "So it is checked where it stands: with its gradient there subtracted from its loss, and "
        "with the damping that its response declares. Add weight decay or a regulariser for a "
        "check at the solution"
    )


def no_gradient_arrives(system: System, name: str) -> Iterator[Finding]:
    """Report a problem that was never asked."""
    yield Finding(
        cause=Cause.ZERO_PATH,
        severity=Severity.ERROR,
        problem=name,
        message=(
            f"no gradient arrives: neither the loss of {system.target!r} nor any problem between "
            f"them has a derivative with respect to {name!r}, although the graph says that they "
            "read it; was it detached, or computed under torch.no_grad()? If on purpose, give it "
            "response=mlo.constant()"
        ),
    )


def unmeasured(name: str, outcome: Outcome) -> Iterator[Finding]:
    """Report a response that nothing could be compared with."""
    is_one_step = outcome.status is Status.ONE_STEP
    yield Finding(
        cause=Cause.ONE_STEP if is_one_step else Cause.UNSOLVED,
        severity=Severity.WARNING if is_one_step else Severity.ERROR,
        problem=name,
        message=(
            "its response was not checked: it has no minimum and its Hessian is not positive where "
            "it stands, so no derivative of a solution exists. The response says: "
            f"{outcome.message}"
        ),
    )


def distance(
    system: System, now: tuple[float, float], found: Mapping[str, Solved], tolerance: float
) -> Iterator[Finding]:
    """Report how far off the hypergradient is where the user's parameters are now."""
    cosine, error = now
    if not error > tolerance:
        return
    name, worst = max(found.items(), key=lambda item: item[1].gradient_norm_now)
    steps = system.graph.problem(name).steps
    yield Finding(
        cause=Cause.FAR_FROM_SOLUTION,
        severity=Severity.WARNING,
        problem=name,
        message=(
            f"its gradient norm is {worst.gradient_norm_now:.2g} at the parameters as they are, "
            f"and {worst.gradient_norm:.1g} at the solution. There the hypergradient of "
            f"{system.target!r} is off by {error:.2g} (cosine {cosine:.3f}): expected before "
            f"training; afterwards the lower level is not converged, so give it more than "
            f"steps={steps} or a larger learning rate"
        ),
    )


def total(
    system: System, measured: Measured, findings: Sequence[Finding], tolerance: float
) -> Iterator[Finding]:
    """Report a whole that is wrong although no part is."""
    comparison = measured.comparison
    error = comparison.relative_error
    explained = {Cause.ONE_STEP, Cause.DAMPING}
    if any(f.severity is Severity.ERROR or f.cause in explained for f in findings):
        return
    if error > tolerance or comparison.uncertainty > tolerance:
        yield Finding(
            cause=Cause.KINK if comparison.uncertainty > error / 10 else Cause.MISMATCH,
            severity=Severity.ERROR,
            problem=system.target,
            message=(
                f"the whole hypergradient is off by {error:.2g} (cosine {comparison.cosine:.4f}; "
                f"measured to {comparison.uncertainty:.1g}), though each response agrees with its "
                "own measurement: a path is missing, or the loss has a kink at the solution"
            ),
        )
