"""A loss of one rank as a function of parameters that all ranks hold.

With ``L = mean_r ℓ_r(θ)`` each rank computes ``ℓ_r(Copy(θ))``, where

    Copy: forward the identity, backward Mean        Mean: forward ``mean_r``, backward Copy

Each is the other's backward, so that derivatives of any order, in any order, are those of L: a
gradient is ``Mean(∇ℓ_r(Copy(θ)))``, and its derivative along v is
``Mean(∇²ℓ_r(Copy(θ)) Copy(v))``.

Backward passes must come to the same reductions on all ranks in the same order, also where the loss
of one rank happens not to depend on θ, as when none of its rows is routed to an expert. So an empty
tensor, the *token*, passes through every function beside the values, forwards and backwards: it is
a path by which autograd finds each Copy, whatever else leads to it, and goes on from there to all
that the loss of some rank may depend on.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlo.parallel.bucket import Bucket, by_dtype, spec_of
from mlo.parallel.collectives import Collectives

Tensors = tuple[Tensor, ...]


def copied(
    collectives: Collectives, tensors: Sequence[Tensor], reads: Iterable[Tensor] = ()
) -> tuple[Tensor, Tensors]:
    """Return a token and ``Copy(tensors)``: one reduction for all in a backward pass.

    Each rank must make its loss of them depend on the token, by `tied` or `averaged`.

    Args:
        collectives: The operations.
        tensors: Alike on all ranks.
        reads: What else losses depend on; on some ranks they may not.
    """
    token, *copies = _Copy.apply(collectives, _token_like(tensors), *tensors)
    # Behind Copy: what is differentiated in these alone need not pass through it.
    if roots := [tensor for tensor in reads if tensor.requires_grad]:
        token = _Root.apply(token, *roots)
    return token, tuple(copies)


def tied(token: Tensor, value: Tensor) -> Tensor:
    """Return `value`, which from now on depends on the token."""
    result: Tensor = _Tie.apply(token, value)[1]
    return result


def averaged(collectives: Collectives, token: Tensor, value: Tensor) -> Tensor:
    """Return ``Mean(value)``, which depends on the token."""
    result: Tensor = _Mean.apply(collectives, token, value)[1]
    return result


def _token_like(tensors: Sequence[Tensor]) -> Tensor:
    # No kernel is launched for an empty tensor.
    return torch.empty(0, device=tensors[0].device if tensors else None)


class _Root(torch.autograd.Function):
    """A token that depends on tensors too, though its derivative in them is nothing."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, *tensors: Tensor) -> Tensor:
        ctx.count = len(tensors)
        return token.view_as(token)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], *(None,) * ctx.count


class _Tie(torch.autograd.Function):
    """The identity of a token and values; each result depends on all arguments' history."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, *values: Tensor) -> Tensors:
        ctx.save_for_backward(token)
        return _same(token, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        token, *values = gradients
        return _Tie.apply(_onward(ctx, token), *values)


class _Copy(torch.autograd.Function):
    """The identity of a token and values, whose gradient is the mean over ranks."""

    @staticmethod
    def forward(ctx: Any, collectives: Collectives, token: Tensor, *values: Tensor) -> Tensors:
        ctx.save_for_backward(token)
        ctx.collectives = collectives
        return _same(token, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        token, *values = gradients
        # Alike on all ranks, as what is differentiated is.
        wanted = ctx.needs_input_grad[2:]
        chosen = [g for g, is_wanted in zip(values, wanted, strict=True) if is_wanted]
        token, *means = _Mean.apply(ctx.collectives, _onward(ctx, token), *chosen)
        left = iter(means)
        return None, token, *(next(left) if is_wanted else None for is_wanted in wanted)


class _Mean(torch.autograd.Function):
    """The mean over ranks of values beside a token, whose gradient each rank receives."""

    @staticmethod
    def forward(ctx: Any, collectives: Collectives, token: Tensor, *values: Tensor) -> Tensors:
        ctx.save_for_backward(token)
        ctx.collectives = collectives
        return _same(token, _means(collectives, values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        token, *values = gradients
        return None, *_Copy.apply(ctx.collectives, _onward(ctx, token), *values)


def _same(token: Tensor, values: Sequence[Tensor]) -> Tensors:
    return token.view_as(token), *(value.view_as(value) for value in values)


def _onward(ctx: Any, gradient: Tensor) -> Tensor:
    """Return a token that depends on the one that came in forwards and on its gradient."""
    token: Tensor = ctx.saved_tensors[0]
    return token + gradient


def _means(collectives: Collectives, tensors: Sequence[Tensor]) -> list[Tensor]:
    dense = [t.to_dense() if t.is_sparse else t for t in tensors]
    means: dict[int, Tensor] = {}
    for part in by_dtype({index: spec_of(tensor) for index, tensor in enumerate(dense)}):
        bucket = Bucket(part, part, has_flags=False)
        for index in part:
            bucket.fill(index, dense[index])
        bucket.begin(collectives, "copies")
        # In memory of their own: what is kept of one need not keep all.
        means.update({index: mean.clone() for index, mean in bucket.end().items()})
    return [means[index] for index in range(len(dense))]
