"""The declaration of one problem."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlo.batch import length_of
from mlo.clipping import Clipping
from mlo.errors import ProblemError
from mlo.parallel.sharded import let_go
from mlo.response.protocol import Answer, Response
from mlo.separable import LossValue

Loss = Callable[..., LossValue]
OptimizerFactory = Callable[[list[Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """``θ* = argmin_θ loss(θ; what it reads)``, one node of a multilevel program.

    The argument names of `loss` say what it reads: each is the name of a problem, whose module is
    passed, or ``batch``. It is ordinary PyTorch and returns a 0-dim tensor, or `mlo.weighted` of
    one loss and one weight an example::

        def train_loss(model, weights, batch):
            x, y = batch
            losses = F.cross_entropy(model(x), y, reduction="none")
            return mlo.weighted(losses, weights(losses.detach()))

    Attributes:
        name: An identifier, unique in the graph.
        module: Holds the parameters; those with ``requires_grad`` are trained.
        loss: Called by keyword with the modules it names and, if it takes one, a batch.
        batches: What the engine draws batches from: any iterable that can be iterated again, such
            as a `DataLoader` or a list. None if the loss takes no batch.
        optimizer: Makes the optimizer from the list of trained parameters, or the optimizer
            itself. Only the engine, and responses that ask for a learning rate, need it.
        scheduler: Makes a learning-rate scheduler from the optimizer, or is the scheduler if
            `optimizer` is the optimizer itself; stepped once per update.
        steps: Updates per update of the level above.
        accumulate: Batches of one update: their mean gradient is taken, one batch at a time. What
            is differentiated through the problem sees all of them, and its own hypergradient is
            solved for once.
        warmup: Rounds at the start in which it is not updated, while the problems below it are.
        clipping: Bounds the norms of the direct and the indirect part of its gradient.
        response: How the solved problem is differentiated. By default
            ``mlo.finite_difference()``, where anything above differentiates through it. A plain
            function with the signature of `Response` will do.
        reads: Every problem whose module the loss takes, itself included: for a loss whose
            signature does not tell (``**modules``, `functools.partial`).

    Raises:
        ProblemError: If a field cannot be right.

    >>> line = nn.Linear(2, 1)
    >>> Problem(name="line", module=line, loss=lambda line: line.weight.square().sum()).steps
    1
    """

    name: str
    module: nn.Module
    loss: Loss
    batches: Iterable[Any] | None = None
    optimizer: OptimizerFactory | Optimizer | None = None
    scheduler: SchedulerFactory | LRScheduler | None = None
    steps: int = 1
    accumulate: int = 1
    warmup: int = 0
    clipping: Clipping | None = None
    response: Response | Answer | None = None
    reads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field that can be checked alone."""
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name == "batch":
            raise ProblemError(
                f"problem {self.name!r}: name must be an identifier other than 'batch', as losses "
                f"take modules by name; got {self.name!r}"
            )
        if not isinstance(self.module, nn.Module):
            self._refuse("module", "a torch.nn.Module", self.module)
        if not callable(self.loss):
            self._refuse("loss", "a function that returns a 0-dim tensor", self.loss)
        for field, least in (("steps", 1), ("accumulate", 1), ("warmup", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                self._refuse(field, f"an integer >= {least}", value)
        if self.clipping is not None and not isinstance(self.clipping, Clipping):
            self._refuse("clipping", "mlo.Clipping(direct=..., indirect=...)", self.clipping)
        if self.batches is not None:
            self._check_batches(self.batches)
        if self.optimizer is not None and not (
            isinstance(self.optimizer, Optimizer) or callable(self.optimizer)
        ):
            self._refuse("optimizer", "an optimizer or a function of parameters", self.optimizer)
        if self.scheduler is not None:
            self._check_scheduler(self.scheduler)
        if self.response is not None and not callable(self.response):
            self._refuse("response", "a response such as mlo.cg(steps=10)", self.response)
        if self.reads is not None and not (
            isinstance(self.reads, list | tuple) and all(isinstance(r, str) for r in self.reads)
        ):
            self._refuse("reads", "a tuple of problem names", self.reads)
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ProblemError(
                f"problem {self.name!r}: module {type(self.module).__name__} has no parameter "
                "with requires_grad, so there is nothing to optimise; let the losses close over a "
                "fixed module instead of making it a problem"
            )

    def _check_batches(self, batches: Iterable[Any]) -> None:
        if not isinstance(batches, Iterable) or isinstance(batches, str | Tensor):
            self._refuse("batches", "an iterable of batches", batches)
        if length_of(batches) == 0:
            raise ProblemError(
                f"problem {self.name!r}: batches is empty (length 0), expected at least one batch; "
                "a DataLoader with drop_last=True is empty if the data set is smaller than a batch"
            )

    def _check_scheduler(self, scheduler: object) -> None:
        if isinstance(scheduler, LRScheduler):
            if scheduler.optimizer is not self.optimizer:
                raise ProblemError(
                    f"problem {self.name!r}: scheduler belongs to another optimizer than the "
                    "problem's; give optimizer= the same object, or a function of the optimizer"
                )
        elif not callable(scheduler):
            self._refuse("scheduler", "a scheduler or a function of the optimizer", scheduler)

    def _refuse(self, field: str, expected: str, received: object) -> None:
        shown = f"shape {tuple(received.shape)}" if isinstance(received, Tensor) else repr(received)
        raise ProblemError(
            f"problem {self.name!r}: {field} must be {expected}, "
            f"got {shown[:80]} ({type(received).__name__})"
        )

    def parameters(self) -> dict[str, Parameter]:
        """Return the trained parameters, keyed like ``module.named_parameters()``."""
        let_go(self.module)
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}
