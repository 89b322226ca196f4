"""Weights of a published network for a form of it that is shallower or has other classes."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mlo_lbg.models.size import ModelError


def load_common(
    network: nn.Module, published: Mapping[str, Tensor], *, differing: Sequence[str]
) -> None:
    """Take over every published tensor whose name and shape the network has.

    A shallower form has the first blocks of each stage, under the same names. Blocks that the
    published network does not have stay as they were initialised.

    Args:
        network: Changed in place.
        published: State of the whole network.
        differing: Names of the layers that may have another shape, and then stay initialised.

    Raises:
        ModelError: If another layer has another shape, or the two networks share no name.

    >>> import torch
    >>> small = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    >>> whole = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 9))
    >>> load_common(small, whole.state_dict(), differing=["1"])
    >>> torch.equal(small[0].weight, whole[0].weight)
    True
    """
    own = network.state_dict()
    common = [name for name in own if name in published]
    if not common:
        raise ModelError(
            f"published: expected weights named like {next(iter(own), 'nothing')}, "
            f"got {next(iter(published), 'nothing')}"
        )
    for name in common:
        wanted, found = tuple(own[name].shape), tuple(published[name].shape)
        if wanted == found:
            own[name] = published[name]
        elif name.rpartition(".")[0] not in differing:
            raise ModelError(f"{name}: expected published weights of shape {wanted}, got {found}")
    network.load_state_dict(own)
