"""Each example goes to the k experts that a noisy gate likes best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from mlo_lbg.architecture import Architecture
from mlo_lbg.by_part import by_part
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.dispatch import dispatch
from mlo_lbg.models.size import ModelError, num_parameters
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit

_LEAST_NOISE = 0.01
"""Keeps the load defined where the learned noise vanishes."""


def top_k_mixture(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, *, k: int
) -> Tensor:
    """`Σ_{i in top k} G_i z_i(x)` with G the softmax of the k largest scores alone, O(Nk).

    An expert runs on the rows that have it among their k only.

    Args:
        scores: `(batch, K)`.
        experts: K modules, inputs to `(batch, classes)` logits.
        inputs: `(batch, ...)`.
        k: Experts of each row, at most K.

    Returns:
        `(batch, classes)` logits.

    >>> top_k_mixture(torch.tensor([[0.0, 0.0, -9.0]]), [nn.Identity()] * 3, torch.ones(1, 2), k=2)
    tensor([[1., 1.]])
    """
    best, chosen = scores.topk(k, dim=-1)
    logits = dispatch(experts, chosen.flatten(), inputs.repeat_interleave(k, dim=0))
    shares = best.softmax(-1).unsqueeze(-1)
    return (shares * logits.reshape(len(inputs), k, logits.shape[-1])).sum(1)


def importance(scores: Tensor, *, k: int) -> Tensor:
    """`Σ_n G_i(x_n)` of each expert, `(K,)`: G is 0 outside the k largest scores.

    >>> importance(torch.tensor([[0.0, 0.0, -9.0]]), k=2)
    tensor([0.5000, 0.5000, 0.0000])
    """
    best, chosen = scores.topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, chosen, best.softmax(-1)).sum(0)


def load(clean: Tensor, scale: Tensor, noisy: Tensor, *, k: int) -> Tensor:
    """`Σ_n P(expert i is among the k when its own noise is drawn anew)`, `(K,)`.

    `P = Φ((clean_i − t_i) / scale_i)` with t_i the k-th largest noisy score of the *other*
    experts. Smooth in clean and scale, where a count would have no gradient.

    Args:
        clean: `(batch, K)` scores without noise.
        scale: `(batch, K)` standard deviations of the noise.
        noisy: `(batch, K)` scores with the noise that was drawn.
        k: Experts of each row, below K.

    >>> load(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2), k=1)
    tensor([0.5000, 0.5000])
    """
    best = noisy.topk(k + 1, dim=-1).values
    inside, outside = best[:, k : k + 1], best[:, k - 1 : k]
    others = torch.where(noisy > inside, inside, outside)
    return (0.5 * (1 + torch.erf((clean - others) / scale / math.sqrt(2)))).sum(0)


def squared_variation(amounts: Tensor) -> Tensor:
    """`Var(a) / Mean(a)²` over the entries, the variance that of a population.

    >>> squared_variation(torch.tensor([1.0, 3.0]))
    tensor(0.2500)
    """
    return amounts.var(correction=0) / amounts.mean().square()


@dataclass(frozen=True, kw_only=True, eq=False)
class TopK:
    """`argmax_c Σ_{i in top k} G_i(x) z_i(x)_c`, without noise.

    Attributes:
        gate: Inputs to `(batch, K)` scores, in evaluation mode.
        experts: K modules, inputs to `(batch, classes)` logits, in evaluation mode.
        k: Experts that answer for an example.
    """

    gate: nn.Module
    experts: Sequence[nn.Module]
    k: int

    @property
    def num_parameters(self) -> int:
        """Size of gate and experts; the source of the noise is not needed any more."""
        return num_parameters(self.gate) + sum(num_parameters(one) for one in self.experts)

    def predict(self, inputs: Tensor) -> Tensor:
        """The class with the largest mixed logit."""
        return self.probabilities(inputs).argmax(-1)

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """The softmax of the mixed logits."""

        def mixed(part: Tensor) -> Tensor:
            return top_k_mixture(self.gate(part), self.experts, part, k=self.k).softmax(-1)

        return by_part(mixed, inputs)

    @torch.no_grad()
    def groups(self, inputs: Tensor) -> Tensor:
        """The expert with the largest share."""
        return by_part(lambda part: self.gate(part).argmax(-1), inputs)


def noisy_top_k(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    k: int = 2,
    importance_weight: float = 0.01,
    load_weight: float = 0.01,
    seed: int,
    trainer: Trainer = ALONE,
) -> TopK:
    """Minimise `mean_n l(Σ_{i in top k} G_i z_i(x_n), y_n) + w_i CV²(importance) + w_l CV²(load)`.

    The k are those with the largest `H_i = clean_i + ε_i (softplus(noise_i) + 0.01)`, ε standard
    normal; G is the softmax of H over them. The network of the noise is built like the gate; it is
    used in training only and is not part of the result.

    With K of at most k every expert answers every example: the mixture is dense, and the load is
    even whatever the gate does. So top-2 is sparse from three experts on. k = 1 is refused, as the
    softmax of one score is 1 and the gate would get no gradient: see `top_one_mixture`.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_gate` is built twice and `make_expert` `num_groups` times.
        optimisation: AdamW settings of gates and experts.
        k: Experts that answer for an example, at least 2; all of them if there are fewer.
        importance_weight: Weight of the importance term, 0 or more.
        load_weight: Weight of the load term, 0 or more.
        seed: Decides initial weights, batches and noise.
        trainer: How it is run.

    Raises:
        ModelError: If k is below 2, or a weight is negative.

    References:
        Shazeer et al. (2017), Outrageously large neural networks, arXiv 1701.06538.
    """
    if k < 2:
        raise ModelError(f"k: expected at least 2, as a gate learns nothing from 1, got {k}")
    for name, weight in (("importance_weight", importance_weight), ("load_weight", load_weight)):
        if not weight >= 0:
            raise ModelError(f"{name}: expected 0 or more, got {weight}")
    num_groups = architecture.num_groups
    k = min(k, num_groups)
    init, order = spawn(seed, 2)
    with seeded(init):
        made = [architecture.make_gate(), architecture.make_gate()]
        made += [architecture.make_expert() for _ in range(num_groups)]
        modules = nn.ModuleList(made).to(train.inputs.device)
        gate, noise, *experts = modules

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            clean, scale = gate(inputs), softplus(noise(inputs)) + _LEAST_NOISE
            noisy = clean + torch.randn_like(clean) * scale
            total = cross_entropy(top_k_mixture(noisy, experts, inputs, k=k), targets)
            total = total + importance_weight * squared_variation(importance(noisy, k=k))
            if k < num_groups:
                total = total + load_weight * squared_variation(load(clean, scale, noisy, k=k))
            return total

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(modules, loss, batches, optimisation, trainer=trainer)
    return TopK(gate=gate, experts=experts, k=k)
