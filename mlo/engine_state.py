"""What an engine goes on from, as plain data, and back.

Everything that can be checked is checked before anything is changed, and what fails later is undone
again, so that a state that does not fit leaves the engine as it was.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlo import randomness
from mlo.errors import CheckpointError, nearest
from mlo.feed import Feed
from mlo.graph import Graph
from mlo.parallel.sharded import let_go
from mlo.parallel.sharded_state import parts_of_state, put, whole, whole_state
from mlo.precision import LossScale
from mlo.ranks import Ranks

_EXTRA = "_extra_state"
"""How torch names what a module keeps beside tensors (``get_extra_state``)."""


class Stateful(Protocol):
    """Anything that can be saved and restored."""

    def state_dict(self) -> Any:
        """Return plain data: tensors, numbers, texts, and dicts, lists and tuples of them."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from what `state_dict` returned."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The parts of an engine that change while it runs; attributes as there."""

    graph: Graph
    device: torch.device
    round: int
    optimizers: Mapping[str, Optimizer]
    schedulers: Mapping[str, LRScheduler]
    feeds: Mapping[str, Feed]
    memories: dict[tuple[str, str], dict[str, Any]]
    scales: Mapping[str, LossScale]
    also: Mapping[str, Stateful]
    ranks: Ranks | None


def state_of(parts: Parts) -> dict[str, Any]:
    """Return the state; tensors are not copied."""
    python, numpy, torch_cpu, on_device = randomness.capture(parts.device)
    drawn = {
        "python": python,
        "numpy": numpy,
        "torch": torch_cpu,
        "device": on_device,
        "device_type": parts.device.type,
    }
    return {
        "round": parts.round,
        "problems": {
            name: {
                "kinds": _kinds(parts, name),
                "module": module_state(problem.module),
                "optimizer": whole_state(parts.optimizers[name].state_dict()),
                "scheduler": _state_dict(parts.schedulers.get(name)),
                "batches": _state_dict(parts.feeds.get(name)),
                "scale": _state_dict(parts.scales.get(name)),
            }
            for name, problem in parts.graph.problems.items()
        },
        "memories": [
            {"target": target, "solved": solved, "memory": memory}
            for (target, solved), memory in parts.memories.items()
        ],
        # Each rank may draw from a stream of its own.
        "random": [drawn] if parts.ranks is None else parts.ranks.gathered(drawn),
        "also": {name: other.state_dict() for name, other in parts.also.items()},
    }


def load(parts: Parts, state: Mapping[str, Any]) -> int:
    """Set the parts to a state and return its round.

    Raises:
        CheckpointError: If it does not fit; nothing has been changed then.
    """
    before: dict[str, Any] = {}
    try:
        number = _checked_round(parts, state)
        before = _copied(state_of(replace(parts, ranks=None)), torch.device("cpu"))
        _change(parts, state)
    except BaseException as error:
        if before:
            _change(parts, before)
        if isinstance(error, CheckpointError) or not isinstance(error, Exception):
            raise
        # What comes from outside can be wrong in more ways than can be told apart.
        reason = ascii(str(error).splitlines()[0])[1:-1] if str(error) else ""
        raise CheckpointError(
            f"it is not the state of this engine: {type(error).__name__}: {reason[:200]}"
        ) from error
    return number


def _checked_round(parts: Parts, state: Mapping[str, Any]) -> int:
    """Return the round of a state after a look at everything that tells whether it fits."""
    _check_names("problems", state["problems"], parts.graph.problems)
    _check_names("also", state["also"], parts.also)
    for name, problem in parts.graph.problems.items():
        saved = state["problems"][name]
        check_module(name, problem.module, saved["module"])
        for kind, present in (
            ("scheduler", parts.schedulers),
            ("batches", parts.feeds),
            ("scale", parts.scales),
        ):
            _check_presence(name, kind, saved[kind] is not None, name in present)
        for kind, present_kind in _kinds(parts, name).items():
            if saved["kinds"][kind] != present_kind:
                raise CheckpointError(
                    f"problem {name!r}: its {kind} was {saved['kinds'][kind]!r:.80}, now it is "
                    f"{present_kind!r}"
                )
        _check_groups(name, parts.optimizers[name], saved["optimizer"])
    return int(state["round"])


def _change(parts: Parts, state: Mapping[str, Any]) -> None:
    for name, problem in parts.graph.problems.items():
        saved = state["problems"][name]
        load_module(problem.module, saved["module"])
        _load_optimizer(parts.optimizers[name], saved["optimizer"])
        if name in parts.schedulers:
            parts.schedulers[name].load_state_dict(copy.deepcopy(saved["scheduler"]))
        if name in parts.feeds:
            parts.feeds[name].load_state_dict(saved["batches"])
        if name in parts.scales:
            parts.scales[name].load_state_dict(saved["scale"])
    parts.memories.clear()
    for entry in state["memories"]:
        key = (entry["target"], entry["solved"])
        parts.memories[key] = _copied(entry["memory"], parts.device)
    for name, other in parts.also.items():
        other.load_state_dict(state["also"][name])
    # Last, as everything before may have drawn.
    rank = 0 if parts.ranks is None else parts.ranks.rank
    drawn = state["random"][rank % len(state["random"])]
    same_kind = drawn["device_type"] == parts.device.type
    randomness.restore(
        (drawn["python"], drawn["numpy"], drawn["torch"], drawn["device"] if same_kind else None),
        parts.device,
    )


def module_state(module: nn.Module) -> dict[str, Any]:
    """Return parameters, all buffers, what is trained and which parts are in training mode.

    >>> sorted(module_state(nn.BatchNorm1d(2))["buffers"])
    ['num_batches_tracked', 'running_mean', 'running_var']
    """
    let_go(module)
    return {
        "parameters": {n: whole(p.detach()) for n, p in module.named_parameters()},
        # Those that are not persistent too, which state_dict() of torch leaves out.
        "buffers": dict(module.named_buffers()),
        "trained": [n for n, p in module.named_parameters() if p.requires_grad],
        "training": [n for n, part in module.named_modules() if part.training],
        "extra": {n: v for n, v in module.state_dict().items() if n.endswith(_EXTRA)},
    }


def check_module(problem: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse the state of another module.

    Raises:
        CheckpointError: If names, shapes or dtypes differ.
    """
    present: dict[str, dict[str, Tensor]] = {
        "parameters": dict(module.named_parameters()),
        "buffers": dict(module.named_buffers()),
    }
    for kind, tensors in present.items():
        _check_names(f"problem {problem!r}: {kind}", state[kind], tensors)
        for name, tensor in tensors.items():
            saved = state[kind][name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise CheckpointError(
                    f"problem {problem!r}: {kind[:-1]} {name!r} is {_shown(saved)} in the "
                    f"checkpoint, expected {_shown(tensor)} as in the program"
                )


@torch.no_grad()
def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy a state that `check_module` has let through into the module."""
    let_go(module)
    trained, training = set(state["trained"]), set(state["training"])
    for name, part in module.named_modules():
        key = f"{name}.{_EXTRA}" if name else _EXTRA
        if key in state["extra"]:
            part.set_extra_state(state["extra"][key])
    for name, parameter in module.named_parameters():
        put(parameter, state["parameters"][name])
        parameter.requires_grad_(name in trained)
    for name, buffer in module.named_buffers():
        buffer.copy_(state["buffers"][name])
    for name, part in module.named_modules():
        part.training = name in training


def _check_names(what: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    for name in saved:
        if name not in present:
            raise CheckpointError(
                f"{what}: the checkpoint has {name!r}, which the program has not; it has "
                f"{tuple(present)}{nearest(name, present)}"
            )
    for name in present:
        if name not in saved:
            raise CheckpointError(
                f"{what}: the program has {name!r}, which the checkpoint has not; it has "
                f"{tuple(saved)}{nearest(name, saved)}"
            )


def _kinds(parts: Parts, problem: str) -> dict[str, str | None]:
    scheduler = parts.schedulers.get(problem)
    return {
        "optimizer": type(parts.optimizers[problem]).__name__,
        "scheduler": None if scheduler is None else type(scheduler).__name__,
    }


def _check_groups(problem: str, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved:
        raise CheckpointError(
            f"problem {problem!r}: the optimizer of the checkpoint has groups of {saved} "
            f"parameters, that of the program of {sizes}"
        )


def _load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    groups = optimizer.param_groups
    rates = [{k: v for k, v in g.items() if isinstance(v, Tensor)} for g in groups]
    # What a later torch has added to the options keeps its value.
    saved_groups = [{**g, **saved} for g, saved in zip(groups, state["param_groups"], strict=True)]
    # It would go on in the very tensors of the state, which may be needed again.
    states = parts_of_state(optimizer, copy.deepcopy(state["state"]))
    optimizer.load_state_dict({"state": states, "param_groups": saved_groups})
    for group, saved, before in zip(optimizer.param_groups, saved_groups, rates, strict=True):
        for parameter, number in zip(group["params"], saved["params"], strict=True):
            for key, value in states.get(number, {}).items():
                loaded = optimizer.state[parameter][key]
                # torch casts what an optimizer keeps in float32 to the dtype of the parameter.
                if isinstance(value, Tensor) and loaded.dtype != value.dtype:
                    optimizer.state[parameter][key] = value.to(loaded.device)
        for key, tensor in before.items():
            # A learning rate that is a tensor is known by its identity to schedulers and captures.
            tensor.copy_(torch.as_tensor(group[key]))
            group[key] = tensor


def _check_presence(problem: str, kind: str, saved: bool, present: bool) -> None:
    if saved != present:
        holder, other = ("checkpoint", "program") if saved else ("program", "checkpoint")
        raise CheckpointError(
            f"problem {problem!r}: the {holder} has a {kind}, which the {other} has not"
        )


def _state_dict(part: Stateful | None) -> Any:
    return None if part is None else part.state_dict()


def _copied(value: Any, device: torch.device) -> Any:
    """Return a copy of plain data, its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if type(value) is dict:
        return {key: _copied(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item, device) for item in value)
    return copy.deepcopy(value)


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
