"""Groups with a threshold each: what fair grouping trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mlo_lbg.by_part import by_part
from mlo_lbg.dispatch import dispatch
from mlo_lbg.predictors import TopOne


@dataclass(frozen=True, kw_only=True, eq=False)
class Thresholds:
    """`argmax_c (z_ĵ(x) + b_ĵ)_c` with `ĵ = argmax_k` of the gate; inputs alone decide.

    Attributes:
        gate: Inputs to `(batch, K)` scores, in evaluation mode.
        experts: K modules, inputs to `(batch, 2)` logits, in evaluation mode; one module K times
            is groups that share all weights but their offset.
        offsets: `(K,)`, of the logit of class 1.

    >>> halves = Thresholds(
    ...     gate=nn.Identity(), experts=[nn.Identity()] * 2, offsets=torch.tensor([0.0, 2.0])
    ... )
    >>> halves.predict(torch.tensor([[1.0, 0.0], [0.5, 1.0]])).tolist()
    [0, 1]
    """

    gate: nn.Module
    experts: Sequence[nn.Module]
    offsets: Tensor

    @property
    def num_parameters(self) -> int:
        """Size of gate, experts and offsets; a shared expert counts once."""
        return sum(
            parameter.numel()
            # ModuleList yields a parameter once however often its module is listed.
            for parameter in nn.ModuleList([self.gate, *self.experts]).parameters()
        ) + len(self.offsets)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest logit after the offset."""
        return self.probabilities(inputs).argmax(-1)

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """The softmax of the chosen expert's logits after the offset."""
        logits, groups = self.logits(inputs)
        logits[:, 1] += self.offsets[groups]
        return logits.softmax(-1)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`(examples, 2)` logits without offsets, and `(examples,)` groups."""
        groups = self.groups(inputs)
        return by_part(partial(dispatch, self.experts), groups, inputs), groups

    def groups(self, inputs: Tensor) -> Tensor:
        """The group whose expert and offset decide."""
        return TopOne(gate=self.gate, experts=self.experts).groups(inputs)
