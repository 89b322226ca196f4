"""How training runs are carried out: recorded, saved and gone on with, or just run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

import mlo
from mlo.callbacks import NOTHING
from mlo.engine_state import Stateful
from mlo.record import Record
from mlo.stopping import Stopping


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Runs programs to their last round; with a record, from where an earlier process left off.

    Attributes:
        directory: Takes losses and checkpoints of each run; None for training that leaves nothing
            behind.
        parts: What is trained, from the whole to the part: the names that its record lies under.
        seed: Comes last among the names, so that a report averages over seeds.
        checkpoint_every: Rounds from one checkpoint to the next.
    """

    directory: Record | None = None
    parts: tuple[str, ...] = ()
    seed: int = 0
    checkpoint_every: int = 200

    def within(self, part: str) -> "Trainer":
        """Return the trainer of a part, whose record lies under that name."""
        return replace(self, parts=(*self.parts, part))

    @property
    def record(self) -> Record | None:
        """The record of this part at this seed; None if there is none."""
        if self.directory is None:
            return None
        return self.directory.within("/".join((*self.parts, f"seed-{self.seed}")))

    def run(
        self,
        graph: mlo.Graph,
        *,
        device: torch.device,
        until: int,
        record_every: int,
        also: Mapping[str, Stateful] | None = None,
        stopping: Stopping | None = None,
        callbacks: mlo.Callbacks = NOTHING,
    ) -> None:
        """Run a program until its round `until`, or until `stopping` stops it.

        Args:
            graph: The program, as it was before its first round.
            device: Where it runs.
            until: Its last round.
            record_every: Rounds from one line of the record to the next.
            also: What else its checkpoints hold.
            stopping: When it stops early.
            callbacks: What is called on the way.

        Raises:
            NonFiniteError: If a loss or gradient is not finite.
            CheckpointError: If a checkpoint cannot be written, or does not fit.
        """
        record = self.record
        engine = mlo.Engine(
            graph, device=device, also=also, ranks=None if record is None else record.ranks
        )
        engine.run(
            until=until,
            record=record,
            record_every=record_every,
            checkpoints=None
            if record is None
            else record.checkpoints(every=self.checkpoint_every, keep=2),
            resume=record is not None,
            stopping=stopping,
            callbacks=callbacks,
            # A comparison shows its own display, of which these runs are a small part.
            show_progress=False,
        )


ALONE = Trainer()
"""Leaves nothing behind."""
