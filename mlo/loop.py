"""The loop around an engine: what is shown, recorded and saved, and when it stops."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from mlo import progress
from mlo.callbacks import NOTHING, Callbacks
from mlo.checkpoint.checkpoints import Checkpoints
from mlo.checkpoint.positions import latest_position, position_in
from mlo.errors import BatchError, CheckpointError, MloError
from mlo.graph import Graph
from mlo.interrupts import Interrupted, Interrupts
from mlo.loader_workers import described
from mlo.measure import Measure, check_measure, check_named, value_of
from mlo.measures import measures_of
from mlo.ranks import Ranks
from mlo.record import Record
from mlo.round import Round
from mlo.schedule import updates_per_round
from mlo.stopping import EarlyStopping, Remembers, Stopping


class Runs(Protocol):
    """What the loop asks of an engine; see `mlo.Engine`."""

    graph: Graph
    device: torch.device
    round: int
    ranks: Ranks | None
    optimizers: dict[str, Optimizer]
    after_update: Any

    def rounds(self, count: int, /) -> Iterator[Round]:
        """Run up to `count` rounds."""
        ...

    def read_flags(self) -> None:
        """Wait for the device and raise if an update was not finite."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run goes on from."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Stand where that state was taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What goes on around the rounds of an engine; see `mlo.Engine.run` for the attributes."""

    record: Record | None = None
    record_every: int = 10
    checkpoints: Checkpoints | None = None
    score: Measure | None = None
    stopping: Stopping | None = None
    callbacks: Callbacks = NOTHING
    show_progress: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked alone."""
        _check_count("record_every", self.record_every)
        if self.checkpoints is not None and not isinstance(self.checkpoints, Checkpoints):
            raise MloError(
                "checkpoints must be mlo.Checkpoints(directory=...), got "
                f"{type(self.checkpoints).__name__}"
            )
        if self.score is not None:
            check_measure("score", self.score)
        if not isinstance(self.callbacks, Callbacks):
            raise MloError(
                f"callbacks must be mlo.Callbacks(...), got {type(self.callbacks).__name__}"
            )
        if self.stopping is not None and not callable(self.stopping):
            raise MloError(
                "stopping must be mlo.EarlyStopping(...) or a function of a round, got "
                f"{type(self.stopping).__name__}"
            )

    def run(self, engine: Runs, rounds: int | None, until: int | None, *, resume: bool) -> Round:
        """Run the engine and return the last round; see `mlo.Engine.run`."""
        _check_length(rounds, until)
        check_named("score", self.score, engine.graph.problems)
        if isinstance(self.stopping, EarlyStopping):
            check_named("early stopping", self.stopping.measure, engine.graph.problems)
        if resume:
            if self._resume(engine):
                return Round(number=engine.round, losses={}, outcomes={})
        elif self.checkpoints is not None and engine.round == 0 and self.checkpoints.paths():
            raise CheckpointError(
                f"{str(self.checkpoints.directory)!r} holds the checkpoints of another run; give "
                "resume=True to go on with it, or another directory"
            )
        last = until if until is not None else engine.round + (rounds or 0)
        if (
            self.record is not None
            and self.checkpoints is not None
            and not self.checkpoints.paths()
        ):
            # A run that dies before its first checkpoint leaves lines that must be cut off too.
            self._save(engine, self.checkpoints, None, stopped=False)
        before = engine.after_update
        if self.callbacks.after_update is not None:
            engine.after_update = self.callbacks.after_update
        try:
            return self._rounds(engine, last)
        except RuntimeError as error:
            # torch says so wherever the process stands when a worker dies.
            if str(error).startswith("DataLoader worker (pid"):
                raise BatchError(described(error)) from error
            raise
        finally:
            engine.after_update = before

    def _rounds(self, engine: Runs, last: int) -> Round:
        done = Round(number=engine.round, losses={}, outcomes={})
        saved: Path | None = None
        with self._interrupts() as interrupts, self._display(engine, last) as display:
            for done in engine.rounds(max(0, last - engine.round)):
                if self.callbacks.after_round is not None:
                    self.callbacks.after_round(done)
                if display is not None:
                    display.update(done.number, done.losses, done.outcomes)
                stops = self.stopping is not None and bool(self.stopping(done))
                asked = interrupts.asked if interrupts else 0
                signal, stops = _agreed(asked, stops, engine)
                ends = stops or signal != 0 or done.number == last
                # That a run is interrupted must not show in its record.
                self._take_down(engine, done, ends=stops or done.number == last)
                checkpoints = self.checkpoints
                if checkpoints is not None and (ends or done.number % checkpoints.every == 0):
                    saved = self._save(engine, checkpoints, done, stopped=stops)
                if signal:
                    raise Interrupted(round=done.number, checkpoint=saved, signal=signal)
                if stops:
                    engine.read_flags()
                    break
            # It may have come while the last state was written.
            signal, _ = _agreed(interrupts.asked if interrupts else 0, False, engine)
            if signal:
                raise Interrupted(round=done.number, checkpoint=saved, signal=signal)
        return done

    def _resume(self, engine: Runs) -> bool:
        """Go on from the newest checkpoint; return whether the run had stopped there."""
        if self.checkpoints is None:
            raise MloError("resume=True takes checkpoints=..., got None")
        found = self.checkpoints.load()
        if found is None:
            return False
        try:
            engine.load_state_dict(found.state["engine"])
            remembered = found.state["stopping"]
            # Without a state, as where it has been added since, it begins to look from here.
            if isinstance(self.stopping, Remembers) and remembered is not None:
                self.stopping.load_state_dict(remembered)
            stopped = bool(found.state["stopped"])
            if self.record is not None:
                # The record may have gone on with other parts of the run, saved in other folders.
                latest = latest_position(self.record.directory / "checkpoints")
                own = position_in(found.state)
                self.record.rewind({n: max(size, latest.get(n, 0)) for n, size in own.items()})
            return stopped
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {str(found.path)!r}: {error}") from error
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {str(found.path)!r} does not hold the state of this engine: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def _save(
        self, engine: Runs, checkpoints: Checkpoints, done: Round | None, *, stopped: bool
    ) -> Path | None:
        # A state with an update that was not finite is no place to go on from.
        engine.read_flags()
        stopping = self.stopping if isinstance(self.stopping, Remembers) else None
        state = {
            "engine": engine.state_dict(),
            "stopping": None if stopping is None else stopping.state_dict(),
            "stopped": stopped,
            "record": None if self.record is None else self.record.position(),
        }
        if engine.ranks is not None and engine.ranks.rank != 0:
            return None
        score = None
        if self.score is not None and done is not None:
            score = value_of(self.score, done, "score")
        path = checkpoints.save(state, round=engine.round, score=score)
        if self.callbacks.after_checkpoint is not None:
            self.callbacks.after_checkpoint(path)
        return path

    def _take_down(self, engine: Runs, done: Round, *, ends: bool) -> None:
        if self.record is not None and (ends or done.number % self.record_every == 0):
            self.record.scalars(measures_of(done, engine.optimizers), step=done.number)

    def _interrupts(self) -> Interrupts | nullcontext[None]:
        # Where nothing can be saved there is nothing to wait for.
        return Interrupts() if self.checkpoints is not None else nullcontext()

    def _display(self, engine: Runs, last: int) -> Any:
        if not self.show_progress or (engine.ranks is not None and engine.ranks.rank != 0):
            return nullcontext()
        steps = {n: p.steps for n, p in engine.graph.problems.items()}
        return progress.watch(
            updates_per_round(engine.graph.levels, steps),
            total=last,
            first=engine.round,
            console=None if self.record is None else self.record.console,
        )


def _agreed(signal: int, stops: bool, engine: Runs) -> tuple[int, bool]:
    """Return whether a signal has reached any rank, and whether any of them stops.

    All must end after the same round.
    """
    if engine.ranks is None:
        return signal, stops
    here = torch.tensor(float(signal) + float(stops), device=engine.device)
    [mean] = engine.ranks.mean([here], like=[here])
    assert mean is not None
    # Both are rare, and differ from rank to rank only while a signal is on its way.
    if float(mean) == 0:
        return 0, False
    every = engine.ranks.gathered((signal, stops))
    return max(number for number, _ in every), any(stop for _, stop in every)


def _check_length(rounds: int | None, until: int | None) -> None:
    if (rounds is None) == (until is None):
        raise MloError(f"give either rounds or until, got rounds={rounds!r} and until={until!r}")
    if rounds is not None:
        _check_count("rounds", rounds)
    if until is not None:
        _check_count("until", until)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MloError(f"{name} must be an integer >= 1, got {value!r}")
