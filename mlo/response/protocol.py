"""What a response is: how a solved problem answers a cotangent."""

from collections.abc import Callable
from dataclasses import dataclass

from mlo.context import Context
from mlo.outcome import Outcome
from mlo.product import Inner, Upstream
from mlo.tree import Params

Answer = Callable[[Inner, Params, Upstream, Params, Context], tuple[Upstream, Outcome]]


@dataclass(frozen=True, kw_only=True)
class Response:
    """``v ↦ {a: vᵀ ∂θ*/∂a}`` for a solved problem ``θ*(a, b, ...) = argmin_θ g(θ; a, b, ...)``.

    Attributes:
        label: How `explain` and outcomes call it.
        answer: ``(inner, solution, upstream, vector, context) -> ({problem: Params}, Outcome)``;
            tensors that the derivative does not touch may be left out.
        evaluations: Gradient evaluations of one call at most, or None if that depends on the
            number of parameters.
        differentiates: False if the problem is taken as a constant, so that no gradient can flow.
    """

    label: str
    answer: Answer
    evaluations: int | None
    differentiates: bool = True

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
