"""A loader, and the state that decides which batches it gives."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.utils.data import DataLoader, DistributedSampler

from mlo.batch import length_of
from mlo.errors import BatchError, CheckpointError
from mlo.loader_state import (
    State,
    device_of_generators,
    found_in,
    global_state,
    set_global,
    set_states,
    states_of,
)
from mlo.loader_workers import (
    dismiss,
    has_kept_workers,
    has_workers,
    keeps_workers,
    started,
)
from mlo.ranks import Ranks
from mlo.shares import Cut, Rows, Share, Whole, is_by_rows, shares


class Source:
    """A loader as seen by one process, with what it draws its order from.

    Args:
        batches: The loader.
        device: Whose random generator it may draw from, beside those of the CPU.
        ranks: The processes that share each batch; None if there is but this one.

    Attributes:
        batches: The loader.
        device: Where the generators are that it may draw from.
        shares: What of it this process sees.
        is_fixed: Whether it gives the same batches at any time, as a list does.
        is_one_shot: Whether it cannot be begun again.
        saves_itself: Whether it has a position of its own, as torchdata's loaders have.

    Raises:
        BatchError: If ranks cannot share it.
    """

    def __init__(
        self, batches: Iterable[Any], device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.batches = batches
        self.device = device_of_generators(device)
        self.is_fixed = type(batches) in (list, tuple)
        self.is_one_shot = isinstance(batches, Iterator)
        self.saves_itself = all(
            callable(getattr(batches, name, None)) for name in ("state_dict", "load_state_dict")
        )
        if ranks is not None and isinstance(batches, DataLoader):
            _check_shareable(batches)
        self._ranks = ranks
        self.shares: Whole | Cut | Rows = shares(batches, ranks)
        self._stands_once = self.saves_itself or keeps_workers(self.shares.loader)

    def begun(self, shares: Whole | Cut | Rows | None = None) -> Iterator[Share]:
        """Return the batches of a new epoch, in the same form as `shares`, if that is given."""
        one = shares or self.shares
        if self._stands_once:
            _BEGUN[id(one.loader)] = self
        with started(one.loader):
            return iter(one)

    @property
    def is_taken(self) -> bool:
        """Whether somebody else has begun the loader since, and it stands at one place alone."""
        return self._stands_once and _BEGUN.get(id(self.shares.loader)) is not self

    def without_loading(self) -> Rows | None:
        """Return the same batches in a form that can leave out some, if there is one."""
        # What a worker process draws for its rows it has to draw again.
        if is_by_rows(self.batches) and not has_workers(self.batches):
            return Rows(self.batches, self._ranks)
        return None

    def found(self) -> dict[str, Any]:
        """Return the generators and counters of epochs of the loader itself, by path."""
        return {} if self.is_fixed else found_in(self.batches)

    def state(self) -> State:
        """Return the states of the loader's own generators and of the global ones."""
        return {
            "own": states_of(self.found()),
            "global": None if self.is_fixed else global_state(self.device),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Set what is there to a state that `state` returned."""
        set_states(self.found(), state["own"])
        if state["global"] is not None:
            set_global(state["global"], self.device)

    def set_own(self, states: Mapping[str, Any]) -> None:
        """Set the loader's own generators and counters.

        Raises:
            CheckpointError: If they are elsewhere than in the states.
        """
        found = self.found()
        if found.keys() != states.keys():
            raise CheckpointError(
                f"its loader had random generators or epochs at {sorted(states)}, now it has them "
                f"at {sorted(found)}"
            )
        set_states(found, states)

    def set_counters(self, states: Mapping[str, Any]) -> None:
        """Set the counters of epochs alone."""
        counters = {path: state for path, state in states.items() if isinstance(state, int)}
        set_states(self.found(), counters)

    @property
    def num_workers(self) -> int:
        """How many processes of their own load batches."""
        loader = self.batches
        return loader.num_workers if isinstance(loader, DataLoader) else 0

    @property
    def has_kept_workers(self) -> bool:
        """Whether the next epoch is loaded by processes that have loaded one before."""
        return has_kept_workers(self.shares.loader)

    def dismiss_workers(self) -> None:
        """Let new processes load the next epoch."""
        dismiss(self.shares.loader)

    def employ_workers(self) -> None:
        """Let processes load the next epoch that have begun one before, if it keeps any."""
        if keeps_workers(self.shares.loader) and not self.has_kept_workers:
            self.begun()

    def described(self) -> dict[str, Any]:
        """Return what must be the same for the same batches to come, by names for messages.

        >>> loader = DataLoader(torch.arange(4), batch_size=2, shuffle=True)
        >>> for name, value in Source(loader, torch.device("cpu")).described().items():
        ...     print(name, value)
        type of loader DataLoader
        number of batches 2
        type of data set Tensor
        number of rows 4
        type of sampler RandomSampler
        type of batch_sampler BatchSampler
        batch_size 2
        drop_last False
        """
        loader = self.batches
        found: dict[str, Any] = {
            "type of loader": type(loader).__name__,
            "number of batches": length_of(loader),
        }
        if isinstance(loader, DataLoader):
            found |= {
                "type of data set": type(loader.dataset).__name__,
                "number of rows": length_of(loader.dataset),
                "type of sampler": type(loader.sampler).__name__,
                "type of batch_sampler": type(loader.batch_sampler).__name__,
                "batch_size": loader.batch_size,
                "drop_last": loader.drop_last,
            }
        return found


_BEGUN: WeakValueDictionary[int, Source] = WeakValueDictionary()
"""Who has begun a loader last, of those that serve one iteration at a time."""


def _check_shareable(loader: DataLoader[Any]) -> None:
    for path, one in found_in(loader).items():
        if isinstance(one, DistributedSampler) and one.num_replicas > 1:
            raise BatchError(
                f"the DistributedSampler at {path!r} shares rows out among ranks, which is done "
                "with every batch already; give a loader of the whole batches"
            )
    if has_workers(loader) and not loader.in_order:
        raise BatchError(
            "ranks that share batches must all get them in one order, got a DataLoader with "
            "in_order=False"
        )
