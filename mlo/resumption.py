"""How an epoch is begun again and brought to where it stood."""

from collections.abc import Iterator, Mapping
from typing import Any

from mlo.errors import CheckpointError
from mlo.loader_state import State, differing
from mlo.loader_workers import described, is_lost, without_frames
from mlo.shares import Cut, Rows, Share, Whole
from mlo.source import Source


class LoaderWarning(UserWarning):
    """Batches after a resumption may differ from those of a run that was never interrupted."""


def replayed(source: Source, position: Mapping[str, Any]) -> tuple[Iterator[Share], set[str]]:
    """Return an epoch at a position, and which generators cannot have been replayed.

    Those are the ones from which more is drawn after the first batch, and which have not come out
    where they had been. If there is any, batches that were drawn ahead may be others.

    Raises:
        CheckpointError: If the epoch ends before.
    """
    rows = source.without_loading()
    if rows is not None:
        # Most often the order alone matters.
        found = _passed_over(source, position, rows, without_loading=True)
        if not found[1]:
            return found
    return _passed_over(source, position, source.shares)


def pass_over(source: Source, batches: Iterator[Share], start: int, stop: int, of: int) -> None:
    """Load batches `start` to `stop` of those `of` an epoch that had been drawn, for nothing.

    Raises:
        CheckpointError: If there are fewer.
    """
    failure = ""
    for passed in range(start, stop):
        try:
            share = next(batches, None)
        except Exception as error:
            if is_lost(source.shares.loader, error):
                raise CheckpointError(
                    f"its batches cannot be loaded again: {described(error)}"
                ) from error
            # Nobody wants this one, and the next may be there.
            failure = f": {described(without_frames(error))}"
            continue
        if share is None:
            raise _ends_early(of, passed, failure)


def set_began(source: Source, position: Mapping[str, Any]) -> None:
    """Bring everything to the state in which the epoch of a position began."""
    began = position["began"]
    if not source.is_one_shot and began["own"].keys() - source.found().keys():
        # Some loaders make their generators when they are begun for the first time.
        next(source.begun(), None)
    source.set_state(began)
    if not position["reused"]:
        source.dismiss_workers()
    else:
        source.employ_workers()
        # The first epoch of workers that are kept draws their seeds, the others do not.
        source.set_state(began)


def _passed_over(
    source: Source,
    position: Mapping[str, Any],
    shares: Whole | Cut | Rows,
    *,
    without_loading: bool = False,
) -> tuple[Iterator[Share], set[str]]:
    count = int(position["drawn"])
    set_began(source, position)
    batches = source.begun(shares)
    drawn_from = []
    for start, stop in ((0, 1), (1, count)):
        if without_loading:
            assert isinstance(shares, Rows)
            passed = start + shares.pass_over(stop - start)
            if passed < stop:
                raise _ends_early(count, passed)
        else:
            pass_over(source, batches, start, stop, count)
        drawn_from.append(_by_name(source.state()))
    after_first, after_last = drawn_from
    saved = _by_name(position)
    return batches, differing(after_first, after_last) & differing(after_last, saved)


def _by_name(state: Mapping[str, Any]) -> State:
    """Return the states of generators by names for messages."""
    found = {f"{path!r}": one for path, one in state["own"].items()}
    for name in ("python", "numpy", "torch"):
        if state["global"] is not None:
            found[f"the global generator of {name}"] = state["global"][name]
    return found


def _ends_early(count: int, passed: int, failure: str = "") -> CheckpointError:
    return CheckpointError(
        f"{count} batches of its epoch had been drawn, but now it ends after {passed}{failure}"
    )
