"""First-order gradients of an inner loss, only those that are wanted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlo import tree
from mlo.inner import Inner, Upstream, inner_of
from mlo.second_derivatives import flat, nested
from mlo.tree import Params


def gradients_of(
    inner: Inner, solution: Params, upstream: Upstream, *, own: bool, above: bool
) -> tuple[Params, Upstream]:
    """Return ``∂g/∂θ`` if `own` and ``{a: ∂g/∂a}`` if `above`, from one forward and one backward.

    What is not wanted is empty and costs nothing. The first holds zeros for parameters that the
    loss does not use; from the second they are left out.

    >>> def loss(solution, upstream):
    ...     return (solution["w"] * upstream["a"]["u"]).sum()
    >>> given = {"w": torch.ones(1)}, {"a": {"u": torch.ones(1)}}
    >>> gradients_of(loss, *given, own=False, above=True)
    ({}, {'a': {'u': tensor([1.])}})
    """
    if not own and not above:
        return {}, {}
    # As variables, though nobody may ask: a loss may look which parameters are trained.
    inner = inner_of(inner)
    make = tree.leaves if above else tree.constants
    variables = {problem: make(params) for problem, params in upstream.items()}
    with inner.standing_at(solution) as standing:
        point = tree.leaves(standing)
        loss = inner(point, variables)
        solved, read = (point if own else {}), (flat(variables) if above else {})
        inputs = [*solved.values(), *read.values()]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if loss.requires_grad and inputs:
            found = inner.sharded.gradients(loss, inputs)
    gradient = {
        name: torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(solved.items(), found[: len(solved)], strict=True)
    }
    return tree.dense(gradient), nested(read, found[len(solved) :])


def difference(ahead: Upstream, behind: Upstream, factor: Tensor) -> Upstream:
    """Return ``factor·(ahead - behind)`` of what both hold.

    >>> difference({"a": {"u": torch.ones(1)}}, {"a": {"u": torch.zeros(1)}}, torch.tensor(3.0))
    {'a': {'u': tensor([3.])}}
    """
    answer: Upstream = {}
    for problem, params in ahead.items():
        both = {n: t for n, t in params.items() if n in behind.get(problem, {})}
        if both:
            answer[problem] = tree.scaled(tree.minus(both, behind[problem]), factor)
    return answer
