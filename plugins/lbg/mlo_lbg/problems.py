"""LBG as a three-level program: group assignment model, experts, assignments.

    T*(C)  = argmin_T  mean_n  -C_{n j_n} log f_{j_n}(x_n; T),   j_n = argmax_k C_nk      (Eq. 1)
    S*(T*) = argmin_S  mean_n  routed training loss of the experts under f(x_n; T*)        (Eq. 3)
    min_C    mean_i  routed validation loss of S* under f(x_i; T*)                         (Eq. 4)

Indices j and ĵ carry no gradient; the probabilities that they pick do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mlo
from mlo.product import ProductName
from mlo.second_derivatives import Product
from mlo.separable import Weighted
from mlo_lbg.assignments import Assignments, ClippedAssignments
from mlo_lbg.data.batches import Batch
from mlo_lbg.remedies import Remedy, uneven
from mlo_lbg.routing import Routing

GamLoss = Callable[[Tensor, Tensor], Weighted]
"""`(rows of C, log f)`, each `(batch, K)`, to losses of the GAM, weighted by C alone."""


def assigned(rows: Tensor, log_f: Tensor) -> Weighted:
    """`mean_n -C_nj log f_j(x_n)` with `j = argmax_k C_nk`: the group that the row names, Eq. 1.

    >>> assigned(torch.tensor([[0.5, 0.25]]), torch.log(torch.tensor([[0.5, 0.5]]))).value
    tensor(0.3466)
    """
    probability, group = rows.max(-1)
    return mlo.weighted(-log_f.gather(-1, group.unsqueeze(-1)).squeeze(-1), probability)


def distributed(rows: Tensor, log_f: Tensor) -> Weighted:
    """`mean_n -Σ_k C_nk log f_k(x_n)`: cross-entropy with the whole row, K derivatives, not one.

    >>> distributed(torch.tensor([[0.5, 0.25]]), torch.log(torch.tensor([[0.5, 0.5]]))).value
    tensor(0.5199)
    """
    # The mean is over all K entries of a row, where the sum of the row is meant.
    return mlo.weighted(-log_f, rows.shape[-1] * rows)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How the three levels are optimised.

    Attributes:
        routing: Eq. 3 and Eq. 4.
        gam_loss: Eq. 1: `assigned` or `distributed`.
        gam_learning_rate: Of Adam for the GAM. It should be slower than the experts: once its
            choices are certain, rows of C no longer hear of the alternative and groups freeze.
        experts_learning_rate: Of Adam for the experts.
        assignments_learning_rate: Of the sparse Adam for the logits of C.
        gam_rate: ξ_T, the step that is unrolled through the GAM; None for its learning rate. It
            only scales the gradient of C, which Adam undoes.
        experts_rate: ξ_S, likewise; None for their learning rate. It weighs the path through the
            experts against the direct one. Adam divides a step by the size of its gradient, so a
            ξ_S far above the learning rate is what its steps amount to.
        weight_decay: Of the GAM and the experts, as an L2 penalty.
        upper_balance: Weight of `remedies.uneven` in the loss of the assignments, 0 for none.
        remedy: What is done against collapse beside the problems; None for nothing.
        product: How second derivatives are taken.
    """

    routing: Routing
    gam_loss: GamLoss = assigned
    gam_learning_rate: float = 3e-3
    experts_learning_rate: float = 1e-2
    assignments_learning_rate: float = 0.1
    gam_rate: float | None = 0.5
    experts_rate: float | None = 3.0
    weight_decay: float = 0.0
    upper_balance: float = 0.0
    remedy: Remedy | None = None
    product: ProductName | Product = "autograd"


@dataclass(frozen=True, kw_only=True, eq=False)
class Modules:
    """What is trained.

    Attributes:
        gam: T, inputs to `(batch, K)` scores.
        experts: S_1 .. S_K, inputs to `(batch, classes)` logits.
        assignments: C, row numbers to `(batch, K)` probabilities.
    """

    gam: nn.Module
    experts: nn.ModuleList
    assignments: Assignments | ClippedAssignments

    def parts(self) -> tuple[nn.Module, ...]:
        """Return all modules, lowest level first."""
        return self.gam, self.experts, self.assignments


def three_levels(
    modules: Modules,
    settings: SearchSettings,
    *,
    gam_batches: Iterable[Batch],
    expert_batches: Iterable[Batch],
    validation_batches: Iterable[Batch],
) -> mlo.Graph:
    """Declare GAM -> experts -> assignments.

    GAM and experts should draw the same batches: then a row of C hears how its own example's
    expert would adapt, and not only how those of other examples would.

    Args:
        modules: What is trained.
        settings: How.
        gam_batches: Training examples with their row numbers in C.
        expert_batches: Training examples.
        validation_batches: Examples that no lower level sees.
    """

    def assignments_loss(gam: nn.Module, experts: nn.ModuleList, batch: Batch) -> Tensor:
        _, inputs, targets = batch
        scores = gam(inputs)
        loss = settings.routing.validation(scores, list(experts), inputs, targets).mean()
        return loss + settings.upper_balance * uneven(scores) if settings.upper_balance else loss

    return mlo.Graph(
        _gam_problem(
            modules,
            settings,
            gam_batches,
            _eq1(settings),
            response=mlo.identity(rate=settings.gam_rate, product=settings.product),
        ),
        _experts_problem(
            modules,
            settings,
            expert_batches,
            response=mlo.identity(rate=settings.experts_rate, product=settings.product),
        ),
        mlo.Problem(
            name="assignments",
            module=modules.assignments,
            loss=assignments_loss,
            batches=validation_batches,
            optimizer=lambda parameters: torch.optim.SparseAdam(
                parameters, lr=settings.assignments_learning_rate, betas=(0.9, 0.99)
            ),
        ),
    )


def frozen_assignments(
    modules: Modules,
    settings: SearchSettings,
    *,
    gam_batches: Iterable[Batch],
    expert_batches: Iterable[Batch],
) -> mlo.Graph:
    """Declare the two lower levels alone, with C as it is: what learning C is compared with."""
    eq1 = _eq1(settings)

    def gam_loss(gam: nn.Module, batch: Batch) -> Weighted:
        return eq1(gam=gam, assignments=modules.assignments, batch=batch)

    gam = _gam_problem(modules, settings, gam_batches, gam_loss, response=mlo.constant())
    return mlo.Graph(gam, _experts_problem(modules, settings, expert_batches))


def _eq1(settings: SearchSettings) -> Callable[..., Weighted]:
    def gam_loss(gam: nn.Module, assignments: nn.Module, batch: Batch) -> Weighted:
        index, inputs, _ = batch
        return settings.gam_loss(assignments(index), gam(inputs).log_softmax(-1))

    return gam_loss


def _gam_problem(
    modules: Modules,
    settings: SearchSettings,
    batches: Iterable[Batch],
    loss: Callable[..., Weighted],
    response: mlo.Response,
) -> mlo.Problem:
    return mlo.Problem(
        name="gam",
        module=modules.gam,
        loss=loss,
        batches=batches,
        optimizer=_adam(settings.gam_learning_rate, settings.weight_decay),
        response=response,
    )


def _experts_problem(
    modules: Modules,
    settings: SearchSettings,
    batches: Iterable[Batch],
    response: mlo.Response | None = None,
) -> mlo.Problem:
    def experts_loss(experts: nn.ModuleList, gam: nn.Module, batch: Batch) -> Weighted:
        _, inputs, targets = batch
        return settings.routing.training(gam(inputs), list(experts), inputs, targets)

    return mlo.Problem(
        name="experts",
        module=modules.experts,
        loss=experts_loss,
        batches=batches,
        optimizer=_adam(settings.experts_learning_rate, settings.weight_decay),
        response=response,
    )


def _adam(
    learning_rate: float, weight_decay: float
) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(
        parameters, lr=learning_rate, weight_decay=weight_decay
    )
