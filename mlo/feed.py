"""Batches of one problem, drawn for ever, and gone on with from a saved position."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mlo.batch import length_of
from mlo.epochs import Epochs
from mlo.errors import BatchError, CheckpointError
from mlo.loader_state import State, set_global, set_states, states_of
from mlo.loader_workers import described
from mlo.prefetch import Prefetch, copier
from mlo.randomness import unchanged
from mlo.ranks import Ranks
from mlo.resumption import LoaderWarning
from mlo.source import Source


class Feed:
    """Draws batches for one problem for ever: an exhausted loader is iterated again.

    Samplers and data sets with ``set_epoch`` are told when an epoch begins, unless somebody else
    has told them. On an accelerator the next batch is loaded and copied ahead of time.

    A batch that cannot be loaded is passed over by the next call, or a new epoch is begun where
    workers have died; the message says so.

    Args:
        problem: Name of the problem, for error messages.
        batches: The loader.
        device: Where the batches go.
        ranks: The processes that share each batch; None if there is but this one. Of a DataLoader
            with a data set that is indexed each loads its own rows; other batches are loaded by all
            and cut.

    Attributes:
        epochs: How many epochs had ended when the last batch was loaded.

    Raises:
        BatchError: If ranks cannot share the loader.

    >>> feed = Feed("model", [[1, 2], [3, 4]], torch.device("cpu"))
    >>> feed.draw(), feed.draw(), feed.draw(), feed.epochs
    ([1, 2], [3, 4], [1, 2], 1)
    >>> again = Feed("model", [[1, 2], [3, 4]], torch.device("cpu"))
    >>> again.load_state_dict(feed.state_dict())
    >>> again.draw()
    [3, 4]
    """

    def __init__(
        self,
        problem: str,
        batches: Iterable[Any],
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.epochs = 0
        self._problem = problem
        try:
            self._source = Source(batches, device, ranks)
        except BatchError as error:
            raise BatchError(f"problem {problem!r}: {error}") from error
        self._epochs = Epochs(problem, self._source, ranks)
        # A loader that saves itself can only say where it stands now.
        copy = None if self._source.saves_itself else copier(device)
        self._prefetch = Prefetch(device, copy)
        self._has_warned = False

    def check(self) -> None:
        """Refuse an empty loader whose length does not tell; its first batch is kept for `draw`.

        Raises:
            BatchError: If it is empty, or its first batch cannot be loaded.
        """
        if length_of(self._source.batches) is not None:
            return
        self._prefetch.fill(self._epochs)
        waiting = self._prefetch.waiting
        if waiting is not None and waiting.error is not None:
            self._prefetch.waiting = None
            raise waiting.error

    def draw(self) -> Any:
        """Return the next batch on the device.

        Raises:
            BatchError: If there is none, or it cannot be loaded: with the number of the batch and
                of its epoch, and what went wrong.
        """
        return self.draw_weighted()[0]

    def draw_weighted(self) -> tuple[Any, float]:
        """Return the next batch on the device, and what its loss is to be multiplied by.

        That is 1 but where ranks hold unequal numbers of rows: each then has its own share of the
        mean over all rows.

        Raises:
            BatchError: As `draw` does, or if there are fewer rows than ranks.
        """
        batch, weight, (_, self.epochs) = self._prefetch.next(self._epochs)
        return batch, weight

    def state_dict(self) -> State:
        """Return the position after the last batch that was handed out: plain data, no batches.

        Warns:
            LoaderWarning: Once, if the loader cannot be brought there exactly.
        """
        reason = self._epochs.inexact()
        if reason is not None and not self._has_warned:
            self._has_warned = True
            self._warn(reason)
        waiting = self._prefetch.waiting
        return {
            "loader": self._source.described(),
            "epochs": self.epochs,
            # Of a batch that was loaded ahead of time this is the position before it, with the
            # random numbers of that moment: there it is loaded again, to the same bits.
            "position": self._epochs.position() if waiting is None else waiting.mark[0],
            "ahead": waiting is not None,
            "own": states_of(self._source.found()),
            "workers": self._source.num_workers,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the global random generators stay as they are.

        The epoch is begun again and its batches up to the position are passed over, without being
        loaded where nothing but their order matters. A loader with ``state_dict`` goes on from
        that.

        Raises:
            CheckpointError: If the loader is another one or cannot be brought there. The feed then
                stands where it stood, unless the loader stands at one place alone, as one-shot
                iterators do.

        Warns:
            LoaderWarning: If other batches may come than in a run that was never interrupted.
        """
        try:
            self._check(state["loader"])
            if state["workers"] != self._source.num_workers:
                self._warn(
                    f"its loader had {state['workers']} workers, now it has "
                    f"{self._source.num_workers}; what they draw for the data differs, and so does "
                    "the order of a data set that has no rows"
                )
            self._go_on(state)
        except CheckpointError as error:
            raise CheckpointError(f"problem {self._problem!r}: {error}") from error
        # A state that is none, or a loader that fails in its own code.
        except Exception as error:
            raise CheckpointError(
                f"problem {self._problem!r}: its loader cannot be brought to where it stood: "
                f"{described(error)}"
            ) from error

    def _warn(self, message: str) -> None:
        warnings.warn(f"problem {self._problem!r}: {message}", LoaderWarning, stacklevel=3)

    def _check(self, saved: Mapping[str, Any]) -> None:
        present = self._source.described()
        for name, value in present.items():
            if name not in saved or saved[name] != value:
                raise CheckpointError(
                    f"{name} was {saved.get(name)!r}, now it is {value!r}; batches can only go on "
                    "from a loader that is built as it was"
                )

    def _go_on(self, state: Mapping[str, Any]) -> None:
        source, position = self._source, state["position"]
        epochs, waiting, own = self._epochs, self._prefetch.waiting, states_of(source.found())
        # All of this is undone if it fails.
        self._epochs, self._prefetch.waiting = copy.copy(epochs), None
        try:
            with unchanged(source.device):
                if waiting is not None and waiting.share is not None:
                    self._epochs.put_back(waiting.share)
                self._epochs.load(position, state["own"])
                if state["ahead"]:
                    if position["global"] is not None:
                        set_global(position["global"], source.device)
                    self._prefetch.fill(self._epochs)
                if position["loader"] is None:
                    source.set_own(state["own"])
                self.epochs = int(state["epochs"])
        except BaseException:
            self._epochs, self._prefetch.waiting = epochs, waiting
            set_states(source.found(), own)
            raise
