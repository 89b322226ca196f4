"""The loop: problems are updated from the lowest level up, each by its own optimizer."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mlo import engine_state, progress
from mlo.batch import in_channels_last
from mlo.callbacks import NOTHING, Callbacks
from mlo.checkpoint.checkpoints import Checkpoints
from mlo.compiled_loss import Compile, compile_losses, compiler_of
from mlo.device import resolve, synchronous
from mlo.engine_state import Stateful
from mlo.errors import BatchError, MloError
from mlo.feed import Feed
from mlo.flags import Flags
from mlo.graph import Graph
from mlo.loop import Loop
from mlo.measure import Measure
from mlo.micro_batches import joined
from mlo.outcome import Outcome
from mlo.parallel.sharded_ranks import with_sharded
from mlo.precision import Autocast
from mlo.ranks import Ranks
from mlo.record import Record
from mlo.replay.capturable import check_capturable, check_draws, check_plain_rounds
from mlo.replay.capture import Capture, CudaCapture
from mlo.replay.captured import CapturedRound, Rounds
from mlo.response_warning import ResponseWarnings
from mlo.round import Round
from mlo.runnable import check_runnable, optimizer_of, recorders_of, scheduler_of
from mlo.schedule import updates_of_round
from mlo.stopping import Stopping
from mlo.sweep import Swept
from mlo.updater import Moved, Updater


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
        autocast: In which precision losses run; None for that of their parameters.
        ranks: The processes that share each batch, as `mlo.parallel.launch.joined` gives them;
            None if there is but this one. Modules start from the values of rank 0.
        channels_last: Keep images and the weights of convolutions in the memory format
            `torch.channels_last`, which is the faster one on recent GPUs.
        also: What else a checkpoint must hold, by name: objects with ``state_dict()`` and
            ``load_state_dict(state)``, such as a sampler or a generator that losses close over.
        cuda_graph: True to capture a whole round in a CUDA graph, after a few that run as always,
            and to replay it from then on; see `mlo.replay.captured`. Batches must keep their
            shapes, optimizers be capturable, and nothing may read numbers on the host.

    Attributes:
        graph: The program.
        device: Where it runs.
        optimizers: The live optimizer of each problem.
        schedulers: The live scheduler of each problem that has one.
        ranks: The processes that share each batch, or None.
        after_update: Called with the problem and what its update found; None for nothing.
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
        autocast: Autocast | None = None,
        ranks: Ranks | None = None,
        channels_last: bool = False,
        also: Mapping[str, Stateful] | None = None,
        cuda_graph: bool | Capture = False,
    ) -> None:
        if not isinstance(graph, Graph):
            raise MloError(f"an engine runs a mlo.Graph, got {type(graph).__name__}")
        self.graph = graph
        self.device = resolve(device)
        self.round = 0
        options = {"compiled": compiled, "channels_last": channels_last, "cuda_graph": cuda_graph}
        modules = [problem.module for problem in graph.problems.values()]
        ranks = with_sharded(ranks, modules, options=options)
        self.ranks = ranks
        self._channels_last = channels_last
        self._also = dict(also or {})
        for problem in graph.problems.values():
            check_runnable(problem, graph)
        for problem in graph.problems.values():
            self._place(problem.module)
        self.optimizers = {n: optimizer_of(p) for n, p in graph.problems.items()}
        self.schedulers = {
            n: scheduler_of(p, self.optimizers[n])
            for n, p in graph.problems.items()
            if p.scheduler is not None
        }
        self._feeds = {
            n: Feed(n, p.batches, self.device, ranks)
            for n, p in graph.problems.items()
            if p.batches is not None
        }
        for feed in self._feeds.values():
            feed.check()
        losses = {n: graph.pure_loss(n) for n in graph.problems}
        self._recorders = recorders_of(graph)
        if (compiler := compiler_of(compiled)) is not None:
            compile_losses(graph.problems, losses, compiler, but=self._recorders)
        self._updater = Updater(
            graph,
            self.device,
            self.optimizers,
            losses,
            self._recorders,
            autocast=autocast,
            ranks=ranks,
        )
        self._schedule = tuple(
            updates_of_round(graph.levels, {n: p.steps for n, p in graph.problems.items()})
        )
        self._flags = Flags()
        self._warnings = ResponseWarnings()
        self.after_update: Callable[[str, Swept], object] | None = None
        self._capture = cuda_graph
        self._captured = self._capturing()

    def run(
        self,
        rounds: int | None = None,
        *,
        until: int | None = None,
        record: Record | None = None,
        record_every: int = 10,
        checkpoints: Checkpoints | None = None,
        resume: bool = False,
        score: Measure | None = None,
        stopping: Stopping | None = None,
        callbacks: Callbacks = NOTHING,
        show_progress: bool = True,
    ) -> Round:
        """Run `rounds` rounds and return the last, with a live display in a terminal.

        With checkpoints a Ctrl-C, or the SIGTERM of a scheduler, lets the round end, saves and
        raises `Interrupted`; a second one stops at once.

        Args:
            rounds: How many rounds to run.
            until: Instead of `rounds`: the number of the last round, counted over the life of the
                engine, so that a resumed run makes up what is left.
            record: Takes losses, learning rates and how solves went.
            record_every: Rounds from one line of the record to the next.
            checkpoints: Where, how often and how many states are saved; the last round always is.
            resume: Go on from the newest checkpoint, if there is one. Without it checkpoints of
                another run are refused.
            score: By which the best checkpoint is kept too: the name of a problem, for its loss, or
                a function of a round; lower is better.
            stopping: Asked after each round whether to stop.
            callbacks: Called after each update, round and checkpoint.
            show_progress: Whether to show it.

        Raises:
            NonFiniteError: If a loss or gradient is not finite; the update is not applied.
            CheckpointError: If a checkpoint cannot be written, read or fitted to the engine.
            Interrupted: By Ctrl-C or SIGTERM, with the path of what was saved.
            MloError: If an argument cannot be right.
        """
        return Loop(
            record=record,
            record_every=record_every,
            checkpoints=checkpoints,
            score=score,
            stopping=stopping,
            callbacks=callbacks,
            show_progress=show_progress,
        ).run(self, rounds, until, resume=resume)

    def rounds(self, count: int, *, show_progress: bool = False) -> Iterator[Round]:
        """Run up to `count` rounds, one each time the iterator is advanced.

        Raises:
            NonFiniteError: If a loss or gradient is not finite; the update is not applied.
        """
        stream = self._stream(count)
        if show_progress:
            return progress.shown(stream, count, lambda r: r.losses)
        return stream

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run goes on from: plain data, parameters and states not copied.

        Together with equal loaders and losses it is enough for the same rounds, bitwise on a CPU.
        With ranks every rank must call it.
        """
        return engine_state.state_of(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where the engine stood that gave this state.

        Raises:
            CheckpointError: If the state does not fit the program; nothing has been changed then.
        """
        self.round = engine_state.load(self._parts(), state)
        self._updater.batches.clear()
        self._flags.clear()
        # What was captured reads the optimizer states that have just been replaced.
        self._captured = self._capturing()

    def read_flags(self) -> None:
        """Wait for the device and look whether every update was finite.

        Raises:
            NonFiniteError: If one was not.
        """
        self._flags.read()

    def _parts(self) -> engine_state.Parts:
        return engine_state.Parts(
            graph=self.graph,
            device=self.device,
            round=self.round,
            optimizers=self.optimizers,
            schedulers=self.schedulers,
            feeds=self._feeds,
            memories=self._updater.memories,
            scales=self._updater.scales,
            also=self._also,
            ranks=self.ranks,
        )

    def _place(self, module: nn.Module) -> None:
        module.to(self.device)
        if self._channels_last:
            module.to(memory_format=torch.channels_last)
        if self.ranks is not None:
            self.ranks.broadcast(module)

    def _stream(self, count: int) -> Iterator[Round]:
        for _ in range(count):
            yield self._one_round()
        self._flags.read()

    def _one_round(self) -> Round:
        self.round += 1
        # The round before may have broken off within a block of updates.
        for recorder in self._recorders.values():
            recorder.begin_block()
        self._updater.check_parameters()
        try:
            return self._updates_of_round()
        except BaseException:
            # A round that did not end has not happened.
            self.round -= 1
            raise

    def _updates_of_round(self) -> Round:
        losses: dict[str, Tensor] = {}
        outcomes: dict[str, dict[str, Outcome]] = {}
        skipped: dict[str, None] = {}
        for name, moved in self._moved_one_by_one():
            losses[name] = moved.swept.loss
            if moved.skipped:
                skipped[name] = None
            elif self.after_update is not None:
                self.after_update(name, moved.swept)
            if moved.swept.outcomes:
                outcomes[name] = moved.swept.outcomes
                if synchronous(self.device) or self.round % 100 == 1:
                    self._warnings.warn(self.round, name, moved.swept.outcomes)
        self._flags.read_some()
        return Round(
            number=self.round,
            losses=losses,
            outcomes=outcomes,
            skipped=tuple(skipped),
            warming=tuple(n for n, p in self.graph.problems.items() if self.round <= p.warmup),
        )

    def _moved_one_by_one(self) -> Iterator[tuple[str, Moved]]:
        if self._captured is None:
            for name in self._schedule:
                if self.round > self.graph.problems[name].warmup:
                    yield name, self._update(name)
                else:
                    self._begin_blocks_below(name)
            return
        for name, moved in self._captured.run():
            self._flags.add(name, self.round, moved.usable)
            yield name, moved

    def update(self, name: str) -> Swept:
        """Update one problem once, as a round does when its turn comes.

        Returns:
            Its loss before the update, its gradient, and how the problems below it answered.

        Raises:
            NonFiniteError: If its loss or gradient is not finite; the update is not applied.
        """
        return self._update(self.graph.problem(name).name).swept

    def _update(self, name: str) -> Moved:
        batches = self._updater.batches
        for lower in self.graph.sweeps[name].flows:
            if lower in self._feeds and lower not in batches:
                raise BatchError(
                    f"problem {name!r}: it is differentiated through {lower!r}, which has not made "
                    "an update yet, so that there is no batch of its last update"
                )
        if name in self._feeds:
            batches[name] = self._drawn(name)
        self._updater.before_update(name)
        moved = self._updater.update(name, self.round)
        if not synchronous(self.device):
            self._flags.add(name, self.round, moved.usable)
        if not moved.skipped:
            self._step_scheduler(name, moved.swept.loss)
        self._begin_blocks_below(name)
        return moved

    def _drawn(self, name: str) -> Any:
        drawn = [
            self._feeds[name].draw_weighted() for _ in range(self.graph.problems[name].accumulate)
        ]
        batch = joined([(weight, batch) for batch, weight in drawn])
        return in_channels_last(batch) if self._channels_last else batch

    def _begin_blocks_below(self, name: str) -> None:
        for lower, recorder in self._recorders.items():
            if self.graph.levels[lower] < self.graph.levels[name]:
                recorder.begin_block()

    def _capturing(self) -> CapturedRound | None:
        capture = self._capture
        if capture is False:
            return None
        if not isinstance(capture, bool | Capture):
            raise MloError(
                "cuda_graph must be a bool or a mlo.replay.capture.Capture, got "
                f"{type(capture).__name__}"
            )
        captures = CudaCapture(self.device) if isinstance(capture, bool) else capture
        check_capturable(self.optimizers, self.schedulers, self._recorders, self.device)
        check_plain_rounds(
            self.graph.problems, scales=bool(self._updater.scales), ranks=self.ranks is not None
        )
        parts = Rounds(
            schedule=self._schedule,
            move=lambda name: self._updater.update(name, self.round),
            feeds=self._feeds,
            batches=self._updater.batches,
            optimizers=self.optimizers,
            schedulers=self.schedulers,
            modules={n: p.module for n, p in self.graph.problems.items()},
            memories=self._updater.memories,
            check=self._check_draws,
        )
        return CapturedRound(parts, captures)

    def _check_draws(self) -> None:
        responding = {n for plan in self.graph.sweeps.values() for n in plan.flows}
        for name in self.graph.problems:
            loss = self.graph.pure_loss(name)
            evaluated = partial(loss.value, {}, self._updater.batches.get(name))
            again = name in responding
            check_draws(name, evaluated, evaluated_again=again, device=self.device)

    def _step_scheduler(self, name: str, loss: Tensor) -> None:
        scheduler = self.schedulers.get(name)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(loss))
        elif scheduler is not None:
            scheduler.step()
