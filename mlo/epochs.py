"""The batches of a loader on the host, epoch after epoch, from a position that can be saved.

A position is the state in which the epoch began and the number of batches since. From there the
epoch is begun again and as many batches are passed over. That is exact, as a loader draws its order
and the seeds of its workers when it is begun; what it draws later comes from generators whose state
is in the position too, or in the checkpoint.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch.utils.data import DataLoader

from mlo.errors import BatchError, CheckpointError
from mlo.loader_state import (
    State,
    differing,
    global_state,
    set_global,
    set_states,
    states_of,
    takes_epochs,
)
from mlo.loader_workers import described, is_lost, without_frames
from mlo.randomness import unchanged
from mlo.ranks import Ranks
from mlo.resumption import LoaderWarning, pass_over, replayed, set_began
from mlo.shares import Share
from mlo.source import Source


class Epochs:
    """A loader whose batches have no end: when an epoch has ended the next one begins.

    Args:
        problem: Name of the problem, for messages.
        source: The loader.
        ranks: The processes that share each batch; None if there is but this one.

    Attributes:
        number: How many epochs have ended.
        drawn: Batches of this epoch that have been asked for.
        before: The position before the last batch, if it was the first of its epoch or `next` was
            to keep it.
    """

    def __init__(self, problem: str, source: Source, ranks: Ranks | None = None) -> None:
        self.number = 0
        self.drawn = 0
        self.before: State = {}
        self._problem = problem
        self._source = source
        self._ranks = ranks
        self._batches: Iterator[Share] | None = None
        self._began: State | None = None
        self._reused = False
        self._drew = False
        self._found: dict[str, Any] | None = None

    def next(self, *, keep: bool) -> Share:
        """Return this rank's share of the next batch, on the host, and what multiplies its loss.

        Args:
            keep: Whether to leave the position before it in `before`.

        Raises:
            BatchError: If there is none, or it cannot be loaded. The next call gives the batch
                after it, or the first one of a new epoch if this one has no more.
        """
        if self._batches is not None:
            if self._source.is_taken:
                raise self._error(
                    "its loader has been begun again elsewhere, and stands at one place alone, as "
                    "it has persistent_workers or state_dict(); give each problem its own"
                )
            if keep:
                self.before = self.position()
            self.drawn += 1
            share = self._asked(self._batches)
            if share is not None:
                return share
            self.drawn -= 1
            if self._source.is_one_shot:
                raise self._error(
                    "batches is a one-shot iterator that has ended; give an iterable that can be "
                    "iterated again, such as a DataLoader or a list"
                )
            self._end()
        return self._first()

    @property
    def mark(self) -> tuple[State, int]:
        """The position before the last batch, and how many epochs had ended at that batch."""
        return self.before, self.number

    def put_back(self, share: Share) -> None:
        """Make a batch the next one again; only of a one-shot iterator, which cannot go back."""
        if self._source.is_one_shot and self._batches is not None:
            self._batches = chain([share], self._batches)
            self.drawn -= 1

    def position(self) -> State:
        """Return plain data from which `load` goes on."""
        source, is_running = self._source, self._batches is not None
        if self._found is None:
            self._found = source.found()
        return {
            "epoch": self.number,
            "drawn": self.drawn,
            "running": is_running,
            "reused": self._reused if is_running else source.has_kept_workers,
            "began": self._began if is_running else None,
            "own": states_of(self._found),
            "global": None if source.is_fixed else global_state(source.device),
            "loader": (
                copy.deepcopy(source.batches.state_dict())  # type: ignore[attr-defined]
                if is_running and source.saves_itself
                else None
            ),
        }

    def load(self, position: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Go on from a position. All random generators are changed.

        Args:
            position: What `position` returned.
            own: The states of the loader's own generators when it was saved.

        Raises:
            CheckpointError: If the loader cannot be brought there.
        """
        source = self._source
        then = position["began"] or position
        if made_since := source.found().keys() & own.keys() - then["own"].keys():
            self._warn(
                f"its loader has made random generators since, at {sorted(made_since)}, so that "
                "what it drew from them before may be drawn anew; make them with the loader"
            )
        if source.is_one_shot:
            if self._drew and self._began and differing(self._began["global"], then["global"]):
                self._warn(
                    "its one-shot iterator has drawn from global random generators already, and "
                    "they stood elsewhere then; seed them alike before it is made, or give an "
                    "iterable that can be iterated again"
                )
            self._go_forward(position)
        elif not position["running"]:
            self._batches = None
            # Kept workers that begin once in vain are not in their first epoch the next time.
            (source.employ_workers if position["reused"] else source.dismiss_workers)()
        elif position["loader"] is not None:
            self._load_itself(position)
        else:
            self._batches = self._replayed(position)
        if position["loader"] is None:
            set_states(source.found(), position["own"])
        self.number, self.drawn = int(position["epoch"]), int(position["drawn"])
        # A one-shot iterator that had been begun already keeps its own beginning.
        self._began = position["began"] or self._began
        self._reused = bool(position["reused"])
        self._found = None

    def inexact(self) -> str | None:
        """Return why batches may differ after a resumption, or None if they do not."""
        if self._reused:
            return (
                "its loader keeps its workers from epoch to epoch (persistent_workers=True), and "
                "with them random numbers that no checkpoint can hold; what they draw for the data "
                "will differ after a resumption, unless persistent_workers=False"
            )
        loader = self._source.batches
        if isinstance(loader, DataLoader) and self._source.num_workers and not loader.in_order:
            return (
                "its loader hands out batches as they come (in_order=False), so that their order "
                "cannot be had again"
            )
        return None

    def _asked(self, batches: Iterator[Share]) -> Share | None:
        """Return what the loader gives, or None if it has ended."""
        try:
            return next(batches, None)
        # Whatever goes wrong in a user's data set, he is told where.
        except Exception as error:
            raise self._fault(error) from without_frames(error)

    def _fault(self, error: Exception) -> BatchError:
        where = f"batch {self.drawn} of epoch {self.number + 1}"
        if isinstance(error, BatchError):
            return self._error(f"{where}: {error}")
        after = ""
        if is_lost(self._source.shares.loader, error):
            self._source.dismiss_workers()
            self._batches = None
            after = "; the next one will begin a new epoch"
        return self._error(f"{where} could not be loaded: {described(error)}{after}")

    def _error(self, message: str) -> BatchError:
        return BatchError(f"problem {self._problem!r}: {message}")

    def _first(self) -> Share:
        self._batches, self.drawn = None, 0
        self.before = self.position()
        self._reused = self.before["reused"]
        mine = {"own": self.before["own"], "global": self.before["global"]}
        self._began = self._of_first_rank(mine)
        # Nothing may come between the state that is kept, iter() and the first batch: a loader may
        # draw its order in either.
        with self._as_on_first_rank(mine):
            self.drawn = 1
            self._batches = self._begun()
            share = self._asked(self._batches)
        if self._source.is_one_shot:
            self._drew = bool(differing(mine["global"], global_state(self._source.device)))
        self._found = None
        if share is None:
            self._batches, self.drawn = None, 0
            raise self._error("batches is empty, expected at least one batch")
        return share

    def _begun(self) -> Iterator[Share]:
        try:
            return self._source.begun()
        except Exception as error:
            raise self._fault(error) from error

    def _end(self) -> None:
        self.number += 1
        self._found = self._source.found()
        began = {} if self._began is None else self._began["own"]
        for path, one in self._found.items():
            # Unless somebody else tells the sampler.
            if takes_epochs(one) and one.epoch == began.get(path):
                one.set_epoch(one.epoch + 1)

    def _of_first_rank(self, mine: State) -> State:
        """Return the state of rank 0, as all must begin alike to see the same batches."""
        if self._ranks is None or self._source.is_fixed:
            return mine
        every: list[State] = self._ranks.gathered(mine)
        for rank, state in enumerate(every):
            if state["own"].keys() != every[0]["own"].keys():
                raise self._error(
                    "all ranks must have the same loader, but random generators or epochs are at "
                    f"{sorted(every[0]['own'])} on rank 0 and at {sorted(state['own'])} on rank "
                    f"{rank}"
                )
        return every[0]

    @contextmanager
    def _as_on_first_rank(self, mine: State) -> Iterator[None]:
        began = self._began
        if began is None or began is mine:
            yield
            return
        set_states(self._source.found(), began["own"])
        if not differing(mine["global"], began["global"]):
            yield
            return
        # What a rank draws for itself, such as dropout, goes on from where it was.
        with unchanged(self._source.device):
            set_global(began["global"], self._source.device)
            yield

    def _go_forward(self, position: Mapping[str, Any]) -> None:
        wanted = int(position["drawn"]) if position["running"] else 0
        if self.drawn > wanted:
            raise CheckpointError(
                f"{wanted} batches of its one-shot iterator had been drawn, {self.drawn} have been "
                "now, and it cannot go back; give a new one"
            )
        if self._batches is None and wanted:
            set_began(self._source, position)
            self._batches = self._source.begun()
        if self._batches is not None:
            pass_over(self._source, self._batches, self.drawn, wanted, wanted)

    def _load_itself(self, position: Mapping[str, Any]) -> None:
        source = self._source
        if not source.saves_itself:
            raise CheckpointError(
                "its loader saved a state of its own, now it has no load_state_dict()"
            )
        # An epoch is told to a sampler by others; generators are the loader's own business.
        source.set_counters(position["own"])
        source.batches.load_state_dict(position["loader"])  # type: ignore[attr-defined]
        self._batches = source.begun()

    def _replayed(self, position: Mapping[str, Any]) -> Iterator[Share]:
        batches, drifted = replayed(self._source, position)
        if drifted:
            self._warn(
                f"its loader draws from {', '.join(sorted(drifted))} in the middle of an epoch, "
                "and so does something else; if it draws ahead, as for a shuffle buffer, other "
                "batches come after this resumption than without it, unless it is given a "
                "generator of its own"
            )
        return batches

    def _warn(self, message: str) -> None:
        warnings.warn(f"problem {self._problem!r}: {message}", LoaderWarning, stacklevel=2)
