"""The response by reverse mode through the optimizer's own updates."""

from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from mlo import tree
from mlo.context import Context
from mlo.device import synchronous
from mlo.errors import ResponseError
from mlo.history import Recorder
from mlo.inner import Inner, Upstream
from mlo.inverse import arguments
from mlo.optimizer_step import (
    Hyperparameters,
    OptimizerState,
    check_differentiable,
    hyperparameters_of,
    state_of,
    step,
)
from mlo.outcome import Outcome, Status
from mlo.response.protocol import Response
from mlo.second_derivatives import flat, nested
from mlo.tree import Params


def unrolled(steps: int | None = None) -> Response:
    """``vᵀ ∂θ_T/∂a`` for ``θ_{t+1} = U(θ_t, ∇g(θ_t; a))``: exact, wherever the updates have led.

    `U` is the live optimizer's own update: momentum, second moments, schedules, weight decay and
    all. The problem need not be solved: this is the derivative of what training did, not of the
    minimiser. For gradient descent on a strongly convex loss both differ by
    ``(1 - ξλ)^T``, with ξ the learning rate and λ the smallest eigenvalue of the Hessian.

    In a running `Engine` the problem's updates since the last one of the level above are made
    again from a recorded start, each on its own batch and with its own random numbers, its last
    one leading to the present parameters. Without a record (`hypergradient`), `steps` further
    updates are made from the present parameters on the given batch, from a copy of the
    optimizer's state, and the upper loss is taken where they end.

    Memory grows with `steps`: every update keeps its graph. Buffers, and other problems that the
    loss reads, are taken as they are now: updates whose loss reads something that has moved since
    are not made again exactly, which the outcome notes.

    Args:
        steps: Updates to differentiate: the last ones, the parameters before them held constant
            (truncated reverse mode). If None, all that are recorded.

    Raises:
        ResponseError: If `steps` is less than 1; when answering, if the problem has no optimizer
            or one that cannot be differentiated, or nothing is recorded and `steps` is None.

    References:
        Domke, 2012 (AISTATS); Maclaurin, Duvenaud and Adams, 2015, arXiv 1502.03492; Franceschi et
        al., 2017, arXiv 1703.01785; truncated: Shaban et al., 2019, arXiv 1810.10667.

    >>> unrolled(steps=5).label
    'unrolled(steps=5)'
    """
    if steps is not None:
        arguments.count("unrolled", "steps", steps)
    label = "unrolled()" if steps is None else f"unrolled(steps={steps})"

    def end_of(inner: Inner, solution: Params, upstream: Upstream, context: Context) -> Params:
        return unroll(inner, solution, upstream, context, steps)

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        above = {problem: tree.leaves(params) for problem, params in upstream.items()}
        end = unroll(inner, solution, above, context, steps)
        outcome = Outcome(solver=label, code=Status.ONE_STEP, note=_note(solution, end, context))
        return _pulled_back(end, above, vector), outcome

    return Response(
        label=label,
        answer=answer,
        # Each update takes a gradient, and another one to go back through it.
        evaluations=None if steps is None else 2 * steps,
        solution=end_of,
        advances=True,
        recorder=lambda block: Recorder(block=block, keep=steps),
    )


def unroll(
    inner: Inner, solution: Params, upstream: Upstream, context: Context, steps: int | None = None
) -> Params:
    """``θ_T(upstream)``: where the updates of the context's optimizer end.

    Differentiable any number of times with respect to every tensor of `upstream`. If none of them
    requires a gradient, no graph is kept, and only the end point is computed.

    Args:
        inner: The loss that the updates minimise.
        solution: The problem's parameters. The updates begin at the start that the context knows,
            recorded or not, and here if it knows none.
        upstream: What the loss reads.
        context: Optimizer, parameters and, if there is one, history.
        steps: How many updates to follow, see `unrolled`.

    Raises:
        ResponseError: If there is no optimizer or one that cannot be differentiated, or if neither
            a history nor `steps` is given.

    >>> from mlo.context import context_of
    >>> from mlo.inner import inner_of
    >>> x, a = torch.nn.Parameter(torch.tensor(1.0)), torch.tensor(3.0, requires_grad=True)
    >>> inner = inner_of(lambda own, above: (own["x"] - above["a"]["a"]) ** 2 / 2)
    >>> context = context_of("x", {"x": x}, torch.optim.SGD([x], lr=0.5))
    >>> end = unroll(inner, {"x": x}, {"a": {"a": a}}, context, steps=2)["x"]
    >>> end.detach(), *torch.autograd.grad(end, a)
    (tensor(2.5000), tensor(0.7500))
    """
    optimizer = check_differentiable(context.problem, context.optimizer)
    plan = _plan(inner, solution, context, optimizer, steps)
    follows = any(t.requires_grad for params in upstream.values() for t in params.values())
    fixed = {problem: tree.constants(params) for problem, params in upstream.items()}
    params, state = tree.constants(plan.start), plan.state
    for position, (loss, hyperparameters) in enumerate(plan.updates):
        if follows and position >= plan.constant:
            params = {n: t if t.requires_grad else t.requires_grad_() for n, t in params.items()}
            gradient = _gradient(loss, params, upstream, create_graph=True)
        else:
            gradient = _gradient(loss, tree.leaves(params), fixed, create_graph=False)
        params, state = step(optimizer, params, gradient, state, hyperparameters)
    # A parameter that no update has moved depends on nothing.
    return {n: t.detach() if t.is_leaf else t for n, t in params.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """Updates to make: a start, and the loss and hyperparameters of each."""

    start: Params
    state: OptimizerState
    updates: tuple[tuple[Inner, Hyperparameters], ...]
    constant: int


def _plan(
    inner: Inner, solution: Params, context: Context, optimizer: Optimizer, steps: int | None
) -> _Plan:
    history = context.history
    if history is not None:
        updates = tuple(
            (inner.on(u.batch, u.random_state), u.hyperparameters) for u in history.updates
        )
        return _Plan(
            # What has been unfrozen since stands where it stood.
            start={**solution, **{n: t for n, t in history.start.items() if n in solution}},
            state=history.state,
            updates=updates,
            constant=0 if steps is None else max(len(updates) - steps, 0),
        )
    if steps is None:
        raise ResponseError(
            f"problem {context.problem!r}: unrolled() makes again what an engine recorded, and "
            "nothing is recorded here; say how many updates to make, as in unrolled(steps=10)"
        )
    hyperparameters = hyperparameters_of(optimizer, context.parameters)
    return _Plan(
        start=solution if context.start is None else context.start,
        state=state_of(optimizer, context.parameters),
        updates=((inner, hyperparameters),) * steps,
        constant=0,
    )


def _gradient(loss: Inner, params: Params, upstream: Upstream, *, create_graph: bool) -> Params:
    """Return the gradient; an unused parameter has none, so that its optimizer passes it over."""
    value = loss(params, upstream)
    if not value.requires_grad:
        return {}
    found = torch.autograd.grad(
        value, list(params.values()), create_graph=create_graph, allow_unused=True
    )
    return {n: g for n, g in zip(params, found, strict=True) if g is not None}


def _pulled_back(end: Params, above: Upstream, vector: Params) -> Upstream:
    variables = flat(above)
    moving = [name for name in vector if end[name].requires_grad]
    if not moving or not variables:
        return {}
    found = torch.autograd.grad(
        [end[name] for name in moving],
        list(variables.values()),
        [vector[name] for name in moving],
        allow_unused=True,
    )
    return nested(variables, found)


def _note(solution: Params, end: Params, context: Context) -> str:
    """Say if the updates, made again, end elsewhere than the first time."""
    first = next(iter(solution.values()), None)
    if context.history is None or first is None or not synchronous(first.device):
        return ""
    length = tree.norm(solution)
    distance = tree.norm(tree.minus(tree.constants(end), solution))
    # Rounding leaves less than this; a loss that draws numbers of its own, much more.
    if distance <= 1e-3 * length:
        return ""
    return (
        f"the recorded updates, made again, end {float(distance / length):.2g} of the parameters' "
        "norm away from them: the loss read something that has changed since, or random numbers "
        "of its own"
    )
