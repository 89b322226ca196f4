"""What a trained method is: classes, groups and a size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mlo.errors import MloError
from mlo_lbg.by_part import by_part
from mlo_lbg.dispatch import dispatch
from mlo_lbg.models.size import num_parameters


class PredictorError(MloError):
    """A predictor is asked about examples that it was not made for."""


class Predictor(Protocol):
    """A trained method; it sees inputs only."""

    @property
    def num_parameters(self) -> int:
        """Number of scalars that prediction needs."""
        ...

    def predict(self, inputs: Tensor, /) -> Tensor:
        """`(examples, ...)` inputs to `(examples,)` int64 classes."""
        ...

    def probabilities(self, inputs: Tensor, /) -> Tensor:
        """`(examples, ...)` inputs to `(examples, classes)` probabilities."""
        ...

    def groups(self, inputs: Tensor, /) -> Tensor | None:
        """`(examples, ...)` inputs to `(examples,)` int64 groups; None if it forms no groups."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class OneNetwork:
    """`argmax_c z_c(x)` of one network.

    Attributes:
        network: Inputs to `(batch, classes)` logits, in evaluation mode.
    """

    network: nn.Module

    @property
    def num_parameters(self) -> int:
        """Size of the network."""
        return num_parameters(self.network)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest logit."""
        return by_part(lambda part: self.network(part).argmax(-1), inputs)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The softmax of the logits."""
        return by_part(lambda part: self.network(part).softmax(-1), inputs)

    def groups(self, _inputs: Tensor) -> None:
        """One network forms no groups."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """`argmax_c Σ_k p_k(c | x)`: every member has one vote, weighted by its probabilities.

    Attributes:
        members: Each maps inputs to `(batch, classes)` logits, in evaluation mode.
    """

    members: Sequence[nn.Module]

    @property
    def num_parameters(self) -> int:
        """Size of all members."""
        return sum(num_parameters(member) for member in self.members)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest mean probability."""
        return self.probabilities(inputs).argmax(-1)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The mean over the members."""

        def mean(part: Tensor) -> Tensor:
            return torch.stack([member(part).softmax(-1) for member in self.members]).mean(0)

        return by_part(mean, inputs)

    def groups(self, _inputs: Tensor) -> None:
        """All members see all inputs: no groups."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftMixture:
    """`argmax_c Σ_k f_k(x) p_k(c | x)`: all experts answer, weighted by the gate.

    Attributes:
        gate: Inputs to `(batch, K)` logits, in evaluation mode.
        experts: K modules, inputs to `(batch, classes)` logits, in evaluation mode.
    """

    gate: nn.Module
    experts: Sequence[nn.Module]

    @property
    def num_parameters(self) -> int:
        """Size of gate and experts."""
        return num_parameters(self.gate) + sum(num_parameters(one) for one in self.experts)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest mixture probability."""
        return self.probabilities(inputs).argmax(-1)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The mixture of all experts."""

        def mixture(part: Tensor) -> Tensor:
            weights = self.gate(part).softmax(-1).T.unsqueeze(-1)
            votes = torch.stack([expert(part).softmax(-1) for expert in self.experts])
            mixed: Tensor = (weights * votes).sum(0)
            return mixed

        return by_part(mixture, inputs)

    def groups(self, inputs: Tensor) -> Tensor:
        """The expert with the largest gate probability."""
        return by_part(lambda part: self.gate(part).argmax(-1), inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class TopOne:
    """`argmax_c z_ĵ(x)_c` with `ĵ = argmax_k` of the gate: one expert answers.

    Attributes:
        gate: Inputs to `(batch, K)` scores of any scale, in evaluation mode.
        experts: K modules, inputs to `(batch, classes)` logits, in evaluation mode.
    """

    gate: nn.Module
    experts: Sequence[nn.Module]

    @property
    def num_parameters(self) -> int:
        """Size of gate and experts."""
        return num_parameters(self.gate) + sum(num_parameters(one) for one in self.experts)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest logit of the chosen expert."""

        def classes(part: Tensor) -> Tensor:
            return dispatch(self.experts, self.gate(part).argmax(-1), part).argmax(-1)

        return by_part(classes, inputs)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The softmax of the chosen expert's logits."""

        def answers(part: Tensor) -> Tensor:
            return dispatch(self.experts, self.gate(part).argmax(-1), part).softmax(-1)

        return by_part(answers, inputs)

    def groups(self, inputs: Tensor) -> Tensor:
        """The expert that answers."""
        return by_part(lambda part: self.gate(part).argmax(-1), inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class TopK:
    """`argmax_c Σ_{k in top} f_k(x) p_k(c | x) / Σ_{k in top} f_k(x)`: the `top` likeliest answer.

    Attributes:
        gate: Inputs to `(batch, K)` logits, in evaluation mode.
        experts: K modules, inputs to `(batch, classes)` logits, in evaluation mode.
        top: How many experts answer, from 1 to K; at 1 the choice of `TopOne`.

    Raises:
        PredictorError: If `top` is out of range.
    """

    gate: nn.Module
    experts: Sequence[nn.Module]
    top: int

    def __post_init__(self) -> None:
        if not 1 <= self.top <= len(self.experts):
            raise PredictorError(
                f"top: expected 1 to {len(self.experts)}, the number of experts, got {self.top}"
            )

    @property
    def num_parameters(self) -> int:
        """Size of gate and experts."""
        return num_parameters(self.gate) + sum(num_parameters(one) for one in self.experts)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest probability."""
        return self.probabilities(inputs).argmax(-1)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The mixture of the `top` experts, their shares scaled to sum to 1."""

        def mixture(part: Tensor) -> Tensor:
            shares, chosen = self.gate(part).softmax(-1).topk(self.top, dim=-1)
            shares = shares / shares.sum(-1, keepdim=True)
            votes = [
                shares[:, place, None] * dispatch(self.experts, chosen[:, place], part).softmax(-1)
                for place in range(self.top)
            ]
            return torch.stack(votes).sum(0)

        return by_part(mixture, inputs)

    def groups(self, inputs: Tensor) -> Tensor:
        """The expert with the largest share."""
        return by_part(lambda part: self.gate(part).argmax(-1), inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class ByAttribute:
    """`argmax_c z_a(x)_c` with a the true attribute: a ceiling, not a competitor.

    Not a `Predictor`: it must be told the attribute of each example, which no other method sees.

    Attributes:
        experts: One module per attribute value, in evaluation mode.
    """

    experts: Sequence[nn.Module]

    @property
    def num_parameters(self) -> int:
        """Size of the experts."""
        return sum(num_parameters(expert) for expert in self.experts)

    def told(self, attribute: Tensor) -> Predictor:
        """The predictor for exactly the examples whose attribute is given.

        Args:
            attribute: `(examples,)` int64 attribute of the examples that will be predicted.
        """
        return _Told(experts=self.experts, attribute=attribute)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    experts: Sequence[nn.Module]
    attribute: Tensor

    @property
    def num_parameters(self) -> int:
        return sum(num_parameters(expert) for expert in self.experts)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        return self.probabilities(inputs).argmax(-1)

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        return dispatch(self.experts, self.groups(inputs), inputs).softmax(-1)

    def groups(self, inputs: Tensor) -> Tensor:
        if len(inputs) != len(self.attribute):
            raise PredictorError(
                f"inputs: expected the {len(self.attribute)} examples whose attribute was told, "
                f"got {len(inputs)}"
            )
        return self.attribute
