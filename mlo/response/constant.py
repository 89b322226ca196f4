"""A solved problem that is taken as a constant."""

from mlo.context import Context
from mlo.inner import Inner, Upstream
from mlo.outcome import Outcome, Status
from mlo.response.protocol import Response
from mlo.tree import Params


def constant() -> Response:
    """``∂θ*/∂a = 0`` on purpose: no gradient flows through this problem.

    Use it to drop a path deliberately, or for a lower problem that is only trained beside the
    upper one.

    >>> constant().differentiates
    False
    """

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        del inner, solution, upstream, vector, context
        return {}, Outcome(solver="constant()", code=Status.ONE_STEP)

    return Response(label="constant()", answer=answer, evaluations=0, differentiates=False)
