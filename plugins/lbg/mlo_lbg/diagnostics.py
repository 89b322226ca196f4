"""What groups look like: sizes, certainty, stability, and what they coincide with.

Pure functions on tensors. A *grouping* is `(examples,)` int64 group numbers; *rows* are
`(examples, K)` probabilities that sum to 1 in each row. Entropies are in nats.
"""

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from mlo.errors import MloError


class DiagnosticsError(MloError):
    """Groupings that cannot be compared."""


def load(groups: Tensor, num_groups: int) -> Tensor:
    """`(K,)` share of the examples in each group; sums to 1.

    Raises:
        DiagnosticsError: If there are no examples.

    >>> load(torch.tensor([0, 0, 0, 1]), 3)
    tensor([0.7500, 0.2500, 0.0000])
    """
    if not len(groups):
        raise DiagnosticsError("groups: expected at least one example, got none")
    return torch.bincount(groups, minlength=num_groups) / len(groups)


def _entropies(rows: Tensor) -> Tensor:
    """`(..., K)` probabilities to `(...)` entropies; unlike p log p, entr is 0 at p = 0."""
    terms: Tensor = torch.special.entr(rows)
    return terms.sum(-1)


def mean_entropy(rows: Tensor) -> Tensor:
    """`mean_n H(row_n)` in nats: 0 when every row is certain, log K when every row is uniform.

    >>> round(mean_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).item(), 4)
    0.3466
    """
    return _entropies(rows).mean()


def entropy_of_mean(rows: Tensor) -> Tensor:
    """`H(mean_n row_n)` in nats: log K when groups are used evenly, 0 when one takes all.

    >>> round(entropy_of_mean(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item(), 4)
    0.6931
    """
    return _entropies(rows.mean(0))


def mean_confidence(rows: Tensor) -> Tensor:
    """`mean_n max_k row_nk`, in `1/K .. 1`.

    >>> round(mean_confidence(torch.tensor([[0.9, 0.1], [0.4, 0.6]])).item(), 4)
    0.75
    """
    return rows.amax(-1).mean()


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Share of examples that two groupings put in the group of the same number.

    Raises:
        DiagnosticsError: If the groupings differ in length.

    >>> agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    tensor(0.7500)
    """
    if first.shape != second.shape:
        raise DiagnosticsError(
            f"second: expected shape {tuple(first.shape)} as first has, got {tuple(second.shape)}"
        )
    return (first == second).float().mean()


def flip_rate(before: Tensor, after: Tensor) -> Tensor:
    """Share of examples whose group number changed: `1 − agreement`.

    >>> flip_rate(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    tensor(0.2500)
    """
    return 1 - agreement(before, after)


def nmi(groups: Tensor, codes: Tensor) -> float:
    """Normalised mutual information `I(g; c) / mean(H(g), H(c))`.

    0 if independent, 1 if the same partition, however groups are numbered. A single group has 0,
    unless the codes are constant too. Finite samples of independent groups are a little above 0.

    Args:
        groups: `(examples,)` int64.
        codes: `(examples,)` int64, such as labels or an attribute.

    >>> nmi(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0]))
    1.0
    """
    return float(normalized_mutual_info_score(codes.cpu().numpy(), groups.cpu().numpy()))


def contingency(groups: Tensor, codes: Tensor, num_groups: int, num_codes: int) -> Tensor:
    """`(K, codes)` int64 counts of examples in group k with code c.

    >>> contingency(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), 2, 2).tolist()
    [[0, 2], [1, 0]]
    """
    cells = torch.bincount(groups * num_codes + codes, minlength=num_groups * num_codes)
    return cells.reshape(num_groups, num_codes)


def collapsed(load: Tensor) -> list[int]:
    """Groups with less than a tenth of an equal share: `load_k < 1 / (10 K)`.

    >>> collapsed(torch.tensor([0.96, 0.04]))
    [1]
    """
    threshold = 1 / (10 * len(load))
    return [group for group, share in enumerate(load.tolist()) if share < threshold]


def collapse_warning(load: Tensor) -> str | None:
    """Name the collapsed groups, their share and what to change; None if there are none.

    >>> collapse_warning(torch.tensor([0.96, 0.04])).split(";")[0]
    'collapse: group 1 has 4.0% of the examples (below 5.0%, a tenth of an equal share)'
    >>> collapse_warning(torch.tensor([0.5, 0.5])) is None
    True
    """
    groups = collapsed(load)
    if not groups:
        return None
    shares = load.tolist()
    if len(groups) == 1:
        found = f"group {groups[0]} has {shares[groups[0]]:.1%}"
    else:
        named = ", ".join(f"{group} ({shares[group]:.1%})" for group in groups)
        found = f"groups {named} have too few"
    return (
        f"collapse: {found} of the examples (below {1 / (10 * len(load)):.1%}, a tenth of an equal "
        f"share); search with routing: soft, a lower gam_learning_rate or more rounds, raise the "
        f"balance of a mixture, or ask for fewer groups than num_groups: {len(load)}"
    )
