"""A float64 copy of a program, whose losses are functions of parameters and nothing else."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from mlo import randomness
from mlo.context import Context, context_of
from mlo.errors import MloError
from mlo.graph import Graph
from mlo.reads import BATCH, Arguments

_LOW = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class InFloat64(TorchFunctionMode):
    """Whatever a loss brings along in a lower precision takes part in float64.

    Batches, constants that a loss closes over, tensors that it makes and casts that it asks for:
    every floating-point tensor that enters a torch function is float64 first.

    >>> with InFloat64():
    ...     product = torch.ones(1, dtype=torch.float64) * torch.ones(1)
    ...     (product.float() + torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float64
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` with its tensors and dtypes raised to float64."""
        del types
        name = getattr(func, "__name__", "")
        if name == "__get__":
            # What is asked of a tensor must be asked of that tensor; only the answer is raised.
            return _raised(func(*args, **(kwargs or {})))
        if name == "__set__":
            return func(*args, **(kwargs or {}))
        called = Tensor.double if func in _CASTS else func
        if not kwargs and not any(map(_may_be_low, args)):
            return called(*args)
        return called(*tree_map(_raised, args), **tree_map(_raised, kwargs or {}))


def _may_be_low(item: Any) -> bool:
    """Return whether walking through `item` could find something to raise; cheap."""
    if isinstance(item, Tensor):
        return item.dtype in _LOW
    return isinstance(item, torch.dtype | list | tuple | dict)


def _raised(item: Any) -> Any:
    if isinstance(item, Tensor) and item.dtype in _LOW:
        return item.to(torch.float64)
    if isinstance(item, torch.dtype) and item in _LOW:
        return torch.float64
    return item


@contextmanager
def _default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def doubled(
    graph: Graph, device: torch.device, contexts: Mapping[str, Context] | None = None
) -> tuple[Graph, dict[str, Context]]:
    """Return a float64 deep copy of a program and the context of each of its problems.

    Modules and optimizers, state included, are copied together, so that an optimizer of the copy
    holds parameters of the copy. Every loss of the copy draws the same random numbers at each
    call, those that the generators would give next, and leaves the generators alone.

    Args:
        graph: The program; nothing of it is changed.
        device: Where its parameters are.
        contexts: Contexts that the user gives, in place of those of the optimizers.

    Raises:
        MloError: If a module or an optimizer cannot be copied.
    """
    made = {name: _optimizer(graph, name) for name in graph.problems}
    originals = {n: p.module for n, p in graph.problems.items()}
    try:
        modules, optimizers = copy.deepcopy((originals, made))
    # What deepcopy raises depends on the object that cannot be copied.
    except Exception as error:
        raise MloError(
            "the check works on deep copies, but a module or an optimizer of "
            f"{tuple(graph.problems)} cannot be copied: {' '.join(str(error).split())}"
        ) from error
    for module in modules.values():
        module.double()
    for optimizer in optimizers.values():
        if optimizer is not None:
            optimizer.state.update(
                {p: tree_map(_raised, state) for p, state in optimizer.state.items()}
            )
    state = randomness.capture(device)
    problems = [
        replace(
            problem,
            module=modules[name],
            loss=_pure(problem.loss, graph.arguments[name], state, device),
            optimizer=optimizers[name],
            reads=None,
            scheduler=None,
            batches=None,
        )
        for name, problem in graph.problems.items()
    ]
    given = contexts or {}
    found = {
        name: given.get(name) or context_of(name, _trained(modules[name]), optimizers[name])
        for name in graph.problems
    }
    return Graph(*problems, levels=graph.levels), found


def _optimizer(graph: Graph, name: str) -> Optimizer | None:
    problem = graph.problem(name)
    made = problem.optimizer
    if made is None or isinstance(made, Optimizer):
        return made
    return made(list(problem.parameters().values()))


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def _pure(
    loss: Callable[..., Any], arguments: Arguments, state: randomness.State, device: torch.device
) -> "_Pure":
    kind = inspect.Parameter.KEYWORD_ONLY
    taken = [inspect.Parameter(name, kind) for name in arguments.problems]
    if arguments.batch:
        default = inspect.Parameter.empty if arguments.batch_required else None
        taken.append(inspect.Parameter(BATCH, kind, default=default))
    return _Pure(loss=loss, state=state, device=device, __signature__=inspect.Signature(taken))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pure:
    """A loss in float64 with the same random numbers at every call."""

    loss: Callable[..., Any]
    state: randomness.State
    device: torch.device
    # Where `inspect` looks: the copy reads what the loss reads, however that was declared.
    __signature__: inspect.Signature

    def __call__(self, **given: Any) -> Any:
        with randomness.unchanged(self.device), _default_float64(), InFloat64():
            randomness.restore(self.state, self.device)
            return self.loss(**given)
