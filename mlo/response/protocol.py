"""What a response is: how a solved problem answers a cotangent."""

from collections.abc import Callable
from dataclasses import dataclass

from mlo.context import Context
from mlo.history import Recorder
from mlo.inner import Inner, Upstream
from mlo.inverse.protocol import InverseProduct
from mlo.outcome import Outcome
from mlo.second_derivatives import Product
from mlo.tree import Params

Answer = Callable[[Inner, Params, Upstream, Params, Context], tuple[Upstream, Outcome]]
Solution = Callable[[Inner, Params, Upstream, Context], Params]


@dataclass(frozen=True, kw_only=True)
class Response:
    """``v ↦ {a: vᵀ ∂θ*/∂a}`` for a solved problem ``θ*(a, b, ...) = argmin_θ g(θ; a, b, ...)``.

    Attributes:
        label: How `explain` and outcomes call it.
        answer: ``(inner, solution, upstream, vector, context) -> ({problem: Params}, Outcome)``;
            tensors that the derivative does not touch may be left out. It owns the vector and may
            overwrite it.
        evaluations: Gradient evaluations of one call at most, or None if that depends on the
            number of parameters.
        differentiates: False if the problem is taken as a constant, so that no gradient can flow.
        linear: Whether the answer is linear in the vector, to rounding.
        sharded: Whether it works on modules sharded by `fully_shard`: it takes first derivatives
            only, and does no more with vectors than `mlo.tree` does.
        solver: What stands for the inverse Hessian, where the response is an implicit one.
        product: How it takes second derivatives, where it does.
        solution: ``(inner, solution, upstream, context) -> θ*`` as autograd sees it: its value,
            differentiable any number of times in every tensor of `upstream`. None if the problem
            cannot be part of another problem's objective, as in a nested program.
        advances: Whether the response makes updates of its own from the given solution, so that
            the upper loss belongs at the value of `solution` and not where the problem stands.
        recorder: Makes what records the problem's last updates in the engine, given how many it
            makes between two updates of the level above; None if nothing is to be recorded.
    """

    label: str
    answer: Answer
    evaluations: int | None
    differentiates: bool = True
    linear: bool = False
    sharded: bool = False
    solver: InverseProduct | None = None
    product: Product | None = None
    solution: Solution | None = None
    advances: bool = False
    recorder: Callable[[int], Recorder] | None = None

    def __call__(
        self, inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        """Return the cotangent of every upstream problem and how the solve went."""
        return self.answer(inner, solution, upstream, vector, context)


def response_of(response: Response | Answer) -> Response:
    """Return `response`, a plain function wrapped under its own name.

    >>> def frozen(inner, solution, upstream, vector, context): ...
    >>> response_of(frozen).label
    'frozen'
    """
    if isinstance(response, Response):
        return response
    label = getattr(response, "__name__", type(response).__name__)
    return Response(label=label, answer=response, evaluations=None)
