"""A whole round captured in a CUDA graph and replayed, at the cost of one launch.

What a round does on the device is recorded once, after a few rounds that run as always. From then
on the host only draws batches, copies them to where the recorded round reads them, steps the
schedulers and launches the recording.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlo.errors import MloError
from mlo.outcome import Outcome
from mlo.replay.capturable import not_captured
from mlo.replay.capture import Capture
from mlo.replay.carried import Carried
from mlo.replay.staged_rates import StagedRates
from mlo.replay.static_batch import StaticBatch
from mlo.sweep import Swept
from mlo.updater import Moved

WARM_UP = 3
"""Rounds before the capture, in which optimizers make their state and libraries their plans."""


class ReplayWarning(UserWarning):
    """A captured round does not fit any more and is captured again."""


class Draws(Protocol):
    """Draws batches, as `mlo.feed.Feed` does."""

    def draw(self) -> Any:
        """Return the next batch on the device."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """What the rounds of an engine are made of.

    Attributes:
        schedule: The problems in the order of their updates.
        move: Makes one update, on the batches that stand in `batches`, without its scheduler.
        feeds: What batches are drawn from, by problem.
        batches: The last batch of each problem.
        optimizers: By problem.
        schedulers: By problem.
        modules: By problem.
        memories: What responses keep from round to round.
        check: Refuses losses that cannot be captured, once there are batches.
    """

    schedule: Sequence[str]
    move: Callable[[str], Moved]
    feeds: Mapping[str, Draws]
    batches: dict[str, Any]
    optimizers: Mapping[str, Optimizer]
    schedulers: Mapping[str, LRScheduler]
    modules: Mapping[str, nn.Module]
    memories: Mapping[Any, dict[str, Any]]
    check: Callable[[], None] = lambda: None


Made = list[tuple[str, Moved]]
"""The updates of a round in their order."""


class CapturedRound:
    """Runs rounds: the first ones as always, later ones by replaying a recording.

    Every round computes what it would compute uncaptured, up to the order of atomic additions on
    the device. Training modes, frozen parameters and optimizer states may change between rounds;
    the round is then warmed up and captured again, with a `ReplayWarning`.

    Args:
        parts: What the rounds are made of.
        capture: What records them.
    """

    def __init__(self, parts: Rounds, capture: Capture) -> None:
        self._parts = parts
        self._capture = capture
        self._static: dict[int, StaticBatch] = {}
        self._warm = 0
        self._updating = ""
        self._made: Made = []
        self._options: dict[str, list[dict[str, Any]]] = {}
        self._standing: list[object] = []
        self._replay: Callable[[], None] | None = None

    def run(self) -> Made:
        """Make a round and return its updates, in tensors that later rounds leave alone.

        Raises:
            MloError: If a round cannot be captured, or its hyperparameters have changed.
            BatchError: If a batch differs from the first of its update in more than values.
        """
        self._look_for_changes()
        self._check_options()
        self._draw()
        if self._warm < WARM_UP:
            self._warm_up()
            return _kept(self._made)
        if self._replay is None:
            self._replay = self._recorded()
        self._replay()
        return _kept(self._made)

    def _draw(self) -> None:
        for position, name in enumerate(self._parts.schedule):
            if name not in self._parts.feeds:
                continue
            batch = self._parts.feeds[name].draw()
            if position in self._static:
                self._static[position].fill(batch)
            else:
                self._static[position] = StaticBatch(name, batch)

    def _warm_up(self) -> None:
        if self._warm == 0:
            for position, name in enumerate(self._parts.schedule):
                if position in self._static:
                    self._parts.batches[name] = self._static[position].batch
            self._parts.check()
        self._warm += 1
        if self._warm < WARM_UP:
            self._capture.warm_up(self._updates)
        else:
            self._attempt(self._capture.rehearse, self._updates)
        # Schedulers may move more than learning rates, which no recording would follow.
        self._check_options()

    def _recorded(self) -> Callable[[], None]:
        """Record the updates so that all that differs from round to round is read from tensors."""
        parts = self._parts
        for memory in parts.memories.values():
            _own(memory)
        buffers = [part._buffers for m in parts.modules.values() for part in m.modules()]
        carried = Carried([*parts.memories.values(), *buffers])
        rates = StagedRates(parts.schedule, parts.optimizers, parts.schedulers)

        def updates() -> None:
            self._made = self._each(rates.advance)
            carried.settle()

        launch = self._attempt(self._capture.record, updates)

        def replay() -> None:
            # An update made outside a round may have replaced what the recording reads.
            carried.settle()
            rates.stage()
            launch()

        return replay

    def _attempt(self, how: Callable[[Callable[[], None]], Any], run: Callable[[], None]) -> Any:
        try:
            return how(run)
        except MloError:
            raise
        except RuntimeError as error:
            raise not_captured(self._updating, error) from error

    def _updates(self) -> None:
        """Make the updates as they are made uncaptured."""

        def step(position: int) -> None:
            scheduler = self._parts.schedulers.get(self._parts.schedule[position])
            if scheduler is not None:
                scheduler.step()

        self._made = self._each(step)

    def _each(self, after: Callable[[int], None]) -> Made:
        made: Made = []
        for position, name in enumerate(self._parts.schedule):
            self._updating = name
            if position in self._static:
                self._parts.batches[name] = self._static[position].batch
            moved = self._parts.move(name)
            # Gradients have been applied; held any longer, they would keep their memory.
            made.append((name, moved._replace(swept=moved.swept._replace(gradient={}))))
            after(position)
        return made

    def _check_options(self) -> None:
        """Refuse a hyperparameter that is a number and has changed: it is part of the recording."""
        for name, groups in _options(self._parts.optimizers).items():
            for now, before in zip(groups, self._options[name], strict=True):
                for key in now.keys() | before.keys():
                    if not _is_same(now.get(key), before.get(key)):
                        raise MloError(
                            f"problem {name!r}: {key} of its optimizer changed from "
                            f"{before.get(key)!r} to {now.get(key)!r}, which a captured round "
                            "cannot follow; only a learning rate that is a tensor may change, by "
                            "its scheduler or in place with fill_()"
                        )

    def _look_for_changes(self) -> None:
        standing = self._stands()
        if self._warm and standing == self._standing:
            return
        self._standing, self._options = standing, _options(self._parts.optimizers)
        if self._warm:
            warnings.warn(
                "training modes, trained parameters or optimizer states have changed, so the next "
                f"{WARM_UP} rounds are not replayed, and the round is captured again",
                ReplayWarning,
                stacklevel=2,
            )
        self._warm, self._replay = 0, None

    def _stands(self) -> list[object]:
        """Return what a recording takes for granted and the user may change between rounds."""
        modules = self._parts.modules.values()
        states = [_Same(optimizer.state) for optimizer in self._parts.optimizers.values()]
        modes = [part.training for module in modules for part in module.modules()]
        trained = [(p.data_ptr(), p.requires_grad) for m in modules for p in m.parameters()]
        return [*states, *modes, *trained]


class _Same:
    """Equal to itself alone, whatever its object is equal to; keeps the object alive."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _options(optimizers: Mapping[str, Optimizer]) -> dict[str, list[dict[str, Any]]]:
    """Return the hyperparameters of each optimizer, group by group."""
    return {
        name: [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        for name, optimizer in optimizers.items()
    }


def _is_same(now: Any, before: Any) -> bool:
    if now is before:
        return True
    if isinstance(now, Tensor) or isinstance(before, Tensor):
        return False
    return bool(now == before)


def _own(memory: dict[str, Any]) -> None:
    """Replace every tensor by a copy, which shares its storage with nothing."""
    for key, value in memory.items():
        if isinstance(value, dict):
            _own(value)
        elif isinstance(value, Tensor):
            memory[key] = value.clone()


def _kept(made: Made) -> Made:
    """Return copies, as the next replay writes to the same tensors."""
    return [
        (name, Moved(Swept(m.swept.loss.clone(), {}, _copies(m.swept.outcomes)), m.usable.clone()))
        for name, m in made
    ]


def _copies(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {lower: _copied(outcome) for lower, outcome in outcomes.items()}


def _copied(outcome: Outcome) -> Outcome:
    return replace(
        outcome,
        code=_clone(outcome.code),
        relative_residual=_clone(outcome.relative_residual),
        products=_clone(outcome.products),
    )


def _clone(number: Any) -> Any:
    return number.clone() if isinstance(number, Tensor) else number
