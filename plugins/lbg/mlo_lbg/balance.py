"""A term that keeps a gate from sending everything to one expert."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def switch_balance(scores: Tensor) -> Tensor:
    """`K Σ_k (share of rows whose top choice is k) · mean_n f_k(x_n)`, f the softmax of the scores.

    1 at perfect balance, K when one expert is certain to get all. Only the second factor carries
    gradient.

    Args:
        scores: `(batch, K)` logits of the gate.

    References:
        Fedus, Zoph and Shazeer (2022), Switch transformers, arXiv 2101.03961, Eq. 4.

    >>> round(switch_balance(torch.tensor([[9.0, -9.0], [9.0, -9.0]])).item(), 4)
    2.0
    """
    groups = scores.shape[-1]
    shares = one_hot(scores.argmax(-1), groups).to(scores.dtype).mean(0)
    return groups * torch.dot(shares, scores.softmax(-1).mean(0))
