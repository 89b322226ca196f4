"""The loop: problems are updated from the lowest level up, each by its own optimizer."""

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mlo import finite, progress, tree
from mlo.batch import Feed
from mlo.compiled_loss import Compile, compile_losses, compiler_of
from mlo.context import Context, context_of
from mlo.device import resolve, synchronous
from mlo.errors import BatchError, MloError, NonFiniteError, ProblemError
from mlo.functional import buffer_slots, checked
from mlo.graph import Graph
from mlo.history import Recorder
from mlo.outcome import Outcome
from mlo.replay.capturable import check_capturable, check_draws
from mlo.replay.capture import Capture, CudaCapture
from mlo.replay.captured import CapturedRound, Moved, Rounds
from mlo.runnable import check_runnable, optimizer_of, scheduler_of
from mlo.schedule import updates_of_round
from mlo.separable import scalar
from mlo.sweep import Point, Swept, sweep
from mlo.tree import Params


class ResponseWarning(UserWarning):
    """A solved problem answered its cotangent badly; training goes on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """What happened in one round.

    Attributes:
        number: Counted from 1 over the life of the engine.
        losses: Loss of each problem at its last update, 0-dim tensors on the engine's device.
        outcomes: For each differentiated problem, how the problems below it answered.
    """

    number: int
    losses: dict[str, Tensor]
    outcomes: dict[str, dict[str, Outcome]]


class Engine:
    """Runs a `Graph`: a round is one update of the outermost problem.

    Before each update of a problem, the level below it makes its ``steps`` updates. The gradient of
    a problem is its hypergradient wherever lower problems depend on it; those are differentiated
    at their current parameters, on the batch of their last update. An update changes the
    parameters and buffers of its own problem and nothing else. Optimizers and schedulers are the
    user's own objects.

    Args:
        graph: The program. Its modules are moved to the device.
        device: A device, or ``"auto"``: the accelerator if there is one, else the CPU.
        compiled: True to compile losses with `torch.compile`, or a function that compiles one. The
            compiled loss serves wherever only first derivatives are taken backwards; see
            `mlo.compiled_loss`.
        cuda_graph: True to capture a whole round in a CUDA graph, after a few that run as always,
            and to replay it from then on; see `mlo.replay.captured`. Batches must keep their
            shapes, optimizers be capturable, and nothing may read numbers on the host.

    Attributes:
        graph: The program.
        device: Where it runs.
        optimizers: The live optimizer of each problem.
        schedulers: The live scheduler of each problem that has one.
        round: Rounds run so far.

    Raises:
        ProblemError: If a problem lacks what running takes, such as an optimizer, or cannot be
            captured.

    >>> from mlo.problem import Problem
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> engine = Engine(Graph(Problem(
    ...     name="line", module=line, loss=lambda line: (line.weight - 2).square().sum(),
    ...     optimizer=lambda p: torch.optim.SGD(p, lr=0.25))), device="cpu")
    >>> engine.run(rounds=60).number
    60
    >>> round(line.weight.item(), 6)
    2.0
    """

    def __init__(
        self,
        graph: Graph,
        device: str | torch.device = "auto",
        *,
        compiled: bool | Compile = False,
        cuda_graph: bool | Capture = False,
    ) -> None:
        if not isinstance(graph, Graph):
            raise MloError(f"an engine runs a mlo.Graph, got {type(graph).__name__}")
        self.graph = graph
        self.device = resolve(device)
        self.round = 0
        for problem in graph.problems.values():
            check_runnable(problem, graph)
        for problem in graph.problems.values():
            problem.module.to(self.device)
        # Walking a module costs as much as a small update, so it is done once.
        self._parameters = {n: p.parameters() for n, p in graph.problems.items()}
        self._buffers = {n: buffer_slots(p.module) for n, p in graph.problems.items()}
        self.optimizers = {n: optimizer_of(p) for n, p in graph.problems.items()}
        self.schedulers = {
            n: scheduler_of(p, self.optimizers[n])
            for n, p in graph.problems.items()
            if p.scheduler is not None
        }
        self._feeds = {
            n: Feed(n, p.batches, self.device)
            for n, p in graph.problems.items()
            if p.batches is not None
        }
        for feed in self._feeds.values():
            feed.check()
        self._batches: dict[str, Any] = {}
        self._losses = {n: graph.pure_loss(n) for n in graph.problems}
        self._recorders = _recorders(graph)
        if (compiler := compiler_of(compiled)) is not None:
            compile_losses(graph.problems, self._losses, compiler, but=self._recorders)
        self._memories: dict[tuple[str, str], dict[str, Any]] = {}
        self._schedule = tuple(
            updates_of_round(graph.levels, {n: p.steps for n, p in graph.problems.items()})
        )
        # On an accelerator flags are read once in a while, so that no update waits for it.
        self._unread: list[tuple[str, int, Tensor]] = []
        self._warned: set[tuple[str, str, int]] = set()
        self._captured = None if cuda_graph is False else self._capturing(cuda_graph)

    def run(self, rounds: int, *, show_progress: bool = True) -> Round:
        """Run `rounds` rounds and return the last, with a live display in a terminal.

        Raises:
            NonFiniteError: If a loss or gradient is not finite; the update is not applied.
            MloError: If `rounds` is less than 1.
        """
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise MloError(f"rounds must be an integer >= 1, got {rounds!r}")
        return deque(self.rounds(rounds, show_progress=show_progress), maxlen=1).pop()

    def rounds(self, count: int, *, show_progress: bool = False) -> Iterator[Round]:
        """Run up to `count` rounds, one each time the iterator is advanced.

        Raises:
            NonFiniteError: If a loss or gradient is not finite; the update is not applied.
        """
        stream = self._stream(count)
        if show_progress:
            return progress.shown(stream, count, lambda r: r.losses)
        return stream

    def _stream(self, count: int) -> Iterator[Round]:
        for _ in range(count):
            yield self._one_round()
        self._read_flags()

    def _one_round(self) -> Round:
        self.round += 1
        # The round before may have broken off within a block of updates.
        for recorder in self._recorders.values():
            recorder.begin_block()
        for name, loss in self._losses.items():
            loss.check_parameters(name, self._parameters[name])
        try:
            return self._updates_of_round()
        except BaseException:
            # A round that did not end has not happened.
            self.round -= 1
            raise

    def _updates_of_round(self) -> Round:
        losses: dict[str, Tensor] = {}
        outcomes: dict[str, dict[str, Outcome]] = {}
        for name, swept in self._swept_one_by_one():
            losses[name] = swept.loss
            if swept.outcomes:
                outcomes[name] = swept.outcomes
                if synchronous(self.device) or self.round % 100 == 1:
                    self._warn(name, swept.outcomes)
        if len(self._unread) > 1000:
            self._read_flags()
        return Round(number=self.round, losses=losses, outcomes=outcomes)

    def _swept_one_by_one(self) -> Iterator[tuple[str, Swept]]:
        if self._captured is None:
            for name in self._schedule:
                yield name, self.update(name)
            return
        for name, (swept, usable) in self._captured.run():
            self._unread.append((name, self.round, usable))
            yield name, swept

    def update(self, name: str) -> Swept:
        """Update one problem once, as a round does when its turn comes.

        Returns:
            Its loss before the update, its gradient, and how the problems below it answered.

        Raises:
            NonFiniteError: If its loss or gradient is not finite; the update is not applied.
        """
        plan = self.graph.sweeps[self.graph.problem(name).name]
        for lower in plan.flows:
            if lower in self._feeds and lower not in self._batches:
                raise BatchError(
                    f"problem {name!r}: it is differentiated through {lower!r}, which has not made "
                    "an update yet, so that there is no batch of its last update"
                )
        if name in self._feeds:
            self._batches[name] = self._feeds[name].draw()
        if name in self._recorders:
            self._recorders[name].before_update(
                self._trained(name), self.optimizers[name], self._batches.get(name), self.device
            )
        swept, usable = self._moved(name)
        if not synchronous(self.device):
            self._unread.append((name, self.round, usable))
        self._step_scheduler(name, swept.loss)
        for lower, recorder in self._recorders.items():
            if self.graph.levels[lower] < self.graph.levels[name]:
                recorder.begin_block()
        return swept

    def _moved(self, name: str) -> Moved:
        """Update one problem on its last batch, but for its scheduler."""
        eager = synchronous(self.device)
        buffers = [(o, k, o[k].clone()) for o, k in self._buffers[name]] if eager else []
        try:
            swept = self._gradient(name)
            usable = finite.is_finite(swept.loss, swept.gradient, swept.size)
            if eager and not usable:
                raise self._non_finite(name, swept)
        except BaseException:
            # By now running statistics may have taken in the batch that is refused.
            for owner, key, before in buffers:
                owner[key].copy_(before)
            raise
        gradient, flag = tree.unshared(swept.gradient), torch.as_tensor(usable)
        if not eager:
            gradient = finite.zero_unless(flag, gradient)
        parameters = self._trained(name)
        for key, parameter in parameters.items():
            parameter.grad = gradient.get(key)
        self.optimizers[name].step()
        for parameter in parameters.values():
            parameter.grad = None
        return Moved(swept, flag)

    def _capturing(self, capture: bool | Capture) -> CapturedRound:
        if not isinstance(capture, bool | Capture):
            raise MloError(
                "cuda_graph must be a bool or a mlo.replay.capture.Capture, got "
                f"{type(capture).__name__}"
            )
        captures = CudaCapture(self.device) if isinstance(capture, bool) else capture
        check_capturable(self.optimizers, self.schedulers, self._recorders, self.device)
        parts = Rounds(
            schedule=self._schedule,
            move=self._moved,
            feeds=self._feeds,
            batches=self._batches,
            optimizers=self.optimizers,
            schedulers=self.schedulers,
            modules={n: p.module for n, p in self.graph.problems.items()},
            memories=self._memories,
            check=self._check_draws,
        )
        return CapturedRound(parts, captures)

    def _check_draws(self) -> None:
        responding = {n for plan in self.graph.sweeps.values() for n in plan.flows}
        for name, loss in self._losses.items():
            evaluated = partial(loss.value, {}, self._batches.get(name))
            again = name in responding
            check_draws(name, evaluated, evaluated_again=again, device=self.device)

    def _trained(self, name: str) -> Params:
        """Return what is trained now: a parameter may be frozen between two rounds."""
        return {n: p for n, p in self._parameters[name].items() if p.requires_grad}

    def _gradient(self, name: str) -> Swept:
        plan = self.graph.sweeps[name]
        if not plan.order:
            return self._direct_gradient(name)
        point = Point(
            values={n: self._trained(n) for n in self._parameters},
            batches=self._batches,
            contexts={n: self._context(name, n) for n in plan.flows},
            losses=self._losses,
        )
        return sweep(self.graph, name, point, moves=True)

    def _context(self, target: str, name: str) -> Context:
        recorder = self._recorders.get(name)
        return context_of(
            name,
            self._parameters[name],
            self.optimizers[name],
            memory=self._memories.setdefault((target, name), {}),
            history=None if recorder is None else recorder.history,
        )

    @torch.enable_grad()
    def _direct_gradient(self, name: str) -> Swept:
        """Return the gradient of a loss below which nothing responds: plain training."""
        problem = self.graph.problems[name]
        parameters = self._trained(name)
        reads = self.graph.reads(name)
        batch = self._batches.get(name)
        if reads == (name,):
            taken = {"batch": batch} if name in self._batches else {}
            chosen = self._losses[name].compiled or problem.loss
            loss = scalar(checked(chosen(**{name: problem.module}, **taken), name))
        else:
            held = {n: tree.constants(self._parameters[n]) for n in reads if n != name}
            loss = scalar(self._losses[name].value(held, batch, moves=name, first_order=True))
        if not loss.requires_grad:
            raise ProblemError(
                f"problem {name!r}: its loss does not depend on any of its parameters; was it "
                "computed under torch.no_grad(), or from .item() or .detach()?"
            )
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradient = {k: g for k, g in zip(parameters, found, strict=True) if g is not None}
        return Swept(loss.detach(), gradient, {})

    def _step_scheduler(self, name: str, loss: Tensor) -> None:
        scheduler = self.schedulers.get(name)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(loss))
        elif scheduler is not None:
            scheduler.step()

    def _non_finite(self, name: str, swept: Swept) -> NonFiniteError:
        through = "".join(
            f" Through {n!r}: {o.message}." for n, o in swept.outcomes.items() if o.failed
        )
        what = "gradient is not finite" if torch.isfinite(swept.loss) else f"loss is {swept.loss:g}"
        return NonFiniteError(
            f"problem {name!r}, round {self.round}: {what}, expected a finite number; the update "
            f"was not applied.{through} Lower its learning rate or look at its batch",
            problem=name,
            round=self.round,
        )

    def _read_flags(self) -> None:
        unread, self._unread = self._unread, []
        if not unread or torch.stack([usable for _, _, usable in unread]).all():
            return
        name, number, _ = next(entry for entry in unread if not entry[2])
        raise NonFiniteError(
            f"problem {name!r}, round {number}: its loss or gradient is not finite; the update was "
            "replaced by a zero gradient. Lower its learning rate or look at its batch",
            problem=name,
            round=number,
        )

    def _warn(self, name: str, outcomes: dict[str, Outcome]) -> None:
        for lower, outcome in outcomes.items():
            key = (name, lower, int(outcome.status))
            if outcome.failed and key not in self._warned:
                self._warned.add(key)
                warnings.warn(
                    f"round {self.round}, gradient of {name!r} through {lower!r}: "
                    f"{outcome.message}",
                    ResponseWarning,
                    stacklevel=2,
                )


def _recorders(graph: Graph) -> dict[str, Recorder]:
    """Return a recorder for each problem whose response replays its last updates."""
    responding = {n for sweep in graph.sweeps.values() for n in sweep.flows}
    makers = {n: graph.response(n).recorder for n in graph.problems if n in responding}
    return {n: make(graph.problems[n].steps) for n, make in makers.items() if make is not None}
