"""Random orthonormal rows over named tensors, the same on every device."""

import torch
from torch import Tensor

from mlo.device import synchronous
from mlo.tree import Params

_BLOCK = 1 << 12


def orthonormal_rows(like: Params, rows: int, seed: int) -> Params:
    """Return `rows` random orthonormal vectors, each tensor stacked to shape ``(rows, *shape)``.

    Up to 4096 entries a tensor is Gaussian. Longer ones are a Gaussian applied to a CountSketch: a
    block of 4096 columns is repeated with an independent sign for every entry, so that a million
    entries cost a million random bits and not ``rows`` million normal numbers. All of them are
    drawn on the CPU from a generator of their own, so no device is waited for, the global random
    numbers are untouched and every device gets the same rows.

    Args:
        like: Names, shapes, dtype and device; it needs at least `rows` entries in all.
        rows: Number of vectors.
        seed: Seed of the generator.

    References:
        Clarkson and Woodruff, 2013, arXiv 1207.6365.

    >>> rows = orthonormal_rows({"x": torch.zeros(3, 2)}, 2, seed=0)["x"].flatten(1)
    >>> torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-6)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    stacked = {name: _random_rows(t, rows, generator) for name, t in like.items()}
    if sum(t.numel() for t in like.values()) < 16 * rows:
        return _by_householder(stacked)
    # So many Gaussian columns have a condition number below 2, for which one Cholesky step is
    # exact to rounding.
    products = gram(stacked, stacked)
    lower, _ = torch.linalg.cholesky_ex(products)
    inverse = torch.linalg.solve_triangular(lower, identity_like(products), upper=False)
    for tensor in stacked.values():
        for columns in _pieces(tensor):
            columns.copy_(inverse.to(columns.dtype) @ columns)
    return stacked


def gram(left: Params, right: Params) -> Tensor:
    """Return the inner products of two stacks of vectors, in float32 or, of float64, float64.

    >>> gram({"x": torch.eye(2)}, {"x": torch.ones(1, 2)})
    tensor([[1.],
            [1.]])
    """
    products = [
        one @ other.T
        for name in left
        for one, other in zip(_pieces(left[name]), _pieces(right[name]), strict=True)
    ]
    total = torch.stack(products).sum(dim=0)
    return total.to(precise(total.dtype))


def identity_like(matrix: Tensor) -> Tensor:
    """Return the identity of the size, dtype and device of a square matrix.

    >>> identity_like(torch.zeros(1, 1))
    tensor([[1.]])
    """
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def precise(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which small matrices are factorised: at least float32.

    >>> precise(torch.bfloat16), precise(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def _random_rows(like: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    size = like.numel()
    width = min(size, _BLOCK)
    block = torch.randn(rows, width, generator=generator).to(like, non_blocking=True)
    if size <= _BLOCK:
        return block.reshape(rows, *like.shape)
    octets = torch.randint(256, (-(-size // 8),), dtype=torch.uint8, generator=generator)
    octets = octets.to(like.device, non_blocking=True)
    bits = octets.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=like.device)
    signs = (bits & 1).view(-1)[:size].to(like.dtype).mul_(2).sub_(1)
    whole = size - size % width
    filled = like.new_empty(rows, size)
    torch.mul(
        signs[:whole].view(1, -1, width),
        block.unsqueeze(1),
        out=filled[:, :whole].view(rows, -1, width),
    )
    torch.mul(signs[whole:], block[:, : size - whole], out=filled[:, whole:])
    return filled.view(rows, *like.shape)


def _pieces(stacked: Tensor) -> tuple[Tensor, ...]:
    """Return all columns, on a CPU in pieces that fit its cache: faster and with less rounding."""
    flat = stacked.reshape(len(stacked), -1)
    return torch.split(flat, 1 << 14, dim=1) if synchronous(flat.device) else (flat,)


def _by_householder(stacked: Params) -> Params:
    flat = torch.cat([t.reshape(len(t), -1) for t in stacked.values()], dim=1)
    basis, _ = torch.linalg.qr(flat.T.to(precise(flat.dtype)))
    pieces = torch.split(basis.T, [t[0].numel() for t in stacked.values()], dim=1)
    return {
        name: piece.reshape(t.shape).to(t.dtype).contiguous()
        for (name, t), piece in zip(stacked.items(), pieces, strict=True)
    }
