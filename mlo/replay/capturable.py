"""What can be captured in a CUDA graph, and what cannot."""

import pickle
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor
from torch.optim import SGD, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mlo.errors import MloError, ProblemError
from mlo.problem import Problem
from mlo.randomness import capture, restore

_ON_DEVICE_ALONE = (SGD, Muon)
"""Optimizers without ``capturable``, as they count no steps."""


def check_capturable(
    optimizers: Mapping[str, Optimizer],
    schedulers: Mapping[str, LRScheduler],
    recorded: Collection[str],
    device: torch.device,
) -> None:
    """Refuse a program whose rounds are more than work of the device.

    Args:
        optimizers: The live optimizer of each problem.
        schedulers: The live scheduler of each problem that has one.
        recorded: Problems whose response makes their recorded updates again.
        device: Where the rounds run.

    Raises:
        ProblemError: If an optimizer, a scheduler or a response works on the host.

    >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    >>> check_capturable({"model": optimizer}, {}, (), torch.device("cpu"))
    Traceback (most recent call last):
        ...
    mlo.errors.ProblemError: problem 'model': its Adam counts steps on the host, which a captured \
round cannot; give it capturable=True
    """
    for name in recorded:
        raise ProblemError(
            f"problem {name!r}: its response makes the recorded updates again, on the host, which "
            "a captured round cannot; use an implicit one such as mlo.cg()"
        )
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            _check_group(name, optimizer, group, name in schedulers, device)
    for name, scheduler in schedulers.items():
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ProblemError(
                f"problem {name!r}: ReduceLROnPlateau reads the loss on the host, which a captured "
                "round cannot; use a scheduler that follows the number of steps"
            )


def check_plain_rounds(problems: Mapping[str, Problem], *, scales: bool, ranks: bool) -> None:
    """Refuse rounds that differ from each other in more than their numbers.

    Args:
        problems: The problems by name.
        scales: Whether losses are scaled, so that updates may be skipped.
        ranks: Whether batches are shared between processes.

    Raises:
        MloError: If rounds cannot be captured.

    >>> check_plain_rounds({}, scales=False, ranks=True)
    Traceback (most recent call last):
        ...
    mlo.errors.MloError: cuda_graph=True captures the rounds of one process; got ranks=...
    """
    if ranks:
        raise MloError("cuda_graph=True captures the rounds of one process; got ranks=...")
    if scales:
        raise MloError(
            "cuda_graph=True cannot skip an update whose gradient overflows, as autocast to "
            "float16 must; use mlo.Autocast(dtype=torch.bfloat16)"
        )
    for name, problem in problems.items():
        for field, least in (("accumulate", 1), ("warmup", 0)):
            if getattr(problem, field) > least:
                raise ProblemError(
                    f"problem {name!r}: a captured round takes {field}={least}, got "
                    f"{getattr(problem, field)}"
                )


def _check_group(
    name: str,
    optimizer: Optimizer,
    group: Mapping[str, object],
    scheduled: bool,
    device: torch.device,
) -> None:
    kind, rate = type(optimizer), group["lr"]
    if not group.get("capturable", kind in _ON_DEVICE_ALONE):
        way = "give it capturable=True" if "capturable" in group else "use Adam(capturable=True)"
        raise ProblemError(
            f"problem {name!r}: its {kind.__name__} counts steps on the host, which a captured "
            f"round cannot; {way}"
        )
    if not isinstance(rate, Tensor):
        if scheduled:
            raise ProblemError(
                f"problem {name!r}: it has a scheduler, so the learning rate of its "
                f"{kind.__name__} must be a tensor on {device}, got {rate!r}; give "
                f"lr=torch.tensor({rate!r}, device={str(device)!r})"
            )
        return
    if rate.device.type != device.type or device.index not in (None, rate.device.index):
        raise ProblemError(
            f"problem {name!r}: the learning rate of its {kind.__name__} is a tensor on "
            f"{rate.device}, which a captured round would read once only; expected {device}"
        )
    if kind is SGD and not group.get("fused"):
        raise ProblemError(
            f"problem {name!r}: its SGD reads a learning rate that is a tensor on the host, which "
            "a captured round cannot; give it fused=True"
        )
    if kind is Muon:
        raise ProblemError(
            f"problem {name!r}: its Muon reads a learning rate that is a tensor on the host, which "
            "a captured round cannot; give a number"
        )


def check_draws(
    name: str, loss: Callable[[], object], *, evaluated_again: bool, device: torch.device
) -> None:
    """Refuse a loss whose random numbers a captured round would repeat, or could not repeat.

    The loss is evaluated once; the generators are left as they were.

    Args:
        name: Its problem.
        loss: The loss with its arguments.
        evaluated_again: Whether a response evaluates it several times with the same numbers.
        device: Where the rounds run.

    Raises:
        ProblemError: If it draws on the host; or on the device, if it is evaluated again.

    >>> check_draws("p", lambda: torch.ones(1), evaluated_again=True, device=torch.device("cpu"))
    """
    before = capture(device)
    try:
        loss()
        after = capture(device)
    finally:
        restore(before, device)
    on_host = _bytes(before[:3]) != _bytes(after[:3])
    if on_host:
        raise ProblemError(
            f"problem {name!r}: its loss draws random numbers on the host, which a captured round "
            "would repeat in every replay; draw them on the device, or in its batches"
        )
    if evaluated_again and _bytes(before[3:]) != _bytes(after[3:]):
        raise ProblemError(
            f"problem {name!r}: its loss draws random numbers on {device}, and its response has to "
            "draw the same ones again, which a captured round cannot; draw them in its batches, or "
            "put its module in eval mode"
        )


def not_captured(name: str, error: BaseException) -> MloError:
    """Return one line on an update that waits for the host or cannot be captured otherwise.

    >>> str(not_captured("model", RuntimeError("called a synchronizing CUDA operation")))
    "problem 'model': its update cannot be captured: called a synchronizing CUDA operation; a loss \
or response that reads numbers on the host, such as mlo.nystrom() or .item(), needs \
cuda_graph=False"
    """
    # Where a capture breaks off, what broke it is behind the complaint that it broke.
    while error.__context__ is not None:
        error = error.__context__
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return MloError(
        f"problem {name!r}: its update cannot be captured: {reason}; a loss or response that reads "
        "numbers on the host, such as mlo.nystrom() or .item(), needs cuda_graph=False"
    )


def _bytes(state: tuple[object, ...]) -> bytes:
    # A pickled tensor says where it lies.
    return pickle.dumps([s.tolist() if isinstance(s, Tensor) else s for s in state])
