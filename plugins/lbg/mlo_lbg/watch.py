"""What goes on beside a search: diagnoses, projection, and the way back to the best epoch."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from torch import Tensor

import mlo
from mlo.record import Record
from mlo_lbg.assignments import ClippedAssignments
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Halves
from mlo_lbg.diagnosis import Diagnosis, diagnose
from mlo_lbg.problems import Modules, SearchSettings

Observe = Callable[[Diagnosis], None]
_HISTOGRAM_EVERY = 20
"""Epochs from one histogram to the next."""


def unobserved(diagnosis: Diagnosis) -> None:
    """Ignore a diagnosis."""


class Watch:
    """Called after each round; its state is part of the search's checkpoints.

    Args:
        modules: What is trained.
        settings: Its routing gives the validation loss.
        halves: Training and validation half.
        budget: When the search has gone on without success for long enough.
        record: Takes the diagnoses; None for none.
        observe: Told each diagnosis as it comes.

    Attributes:
        history: The diagnosis after each epoch, and after the last round.
    """

    def __init__(
        self,
        modules: Modules,
        settings: SearchSettings,
        halves: Halves,
        budget: Budget,
        *,
        record: Record | None,
        observe: Observe,
    ) -> None:
        self._modules = modules
        self._settings = settings
        self._halves = halves
        self._budget = budget
        self._record = record
        self._observe = observe
        self._groups = modules.assignments.all_rows().argmax(-1)
        self._best_loss = float("inf")
        self._best_epoch = 0
        self._best = self._now()
        self.history: list[Diagnosis] = []

    def __call__(self, done: mlo.Round) -> None:
        """Project what must be projected, keep groups from collapsing; after an epoch, diagnose."""
        if isinstance(self._modules.assignments, ClippedAssignments):
            self._modules.assignments.project()
        remedy = self._settings.remedy
        if remedy is not None and done.number % remedy.every == 0:
            modules = self._modules
            remedy.act(modules.gam, modules.assignments, self._halves.train.inputs)
        period = self._budget.rounds_per_epoch(self._halves)
        if done.number % period and done.number != self._budget.rounds:
            return
        epoch = -(-done.number // period)
        before, self._groups = self._groups, self._modules.assignments.all_rows().argmax(-1)
        diagnosis = diagnose(
            self._modules, self._settings, self._halves, done, epoch=epoch, before=before
        )
        self.history.append(diagnosis)
        if self._budget.patience is not None and diagnosis.validation_loss < self._best_loss:
            self._best_loss, self._best_epoch = diagnosis.validation_loss, epoch
            self._best = self._now()
        if self._record is not None:
            self._record.scalars(diagnosis.scalars(), step=done.number)
            if epoch % _HISTOGRAM_EVERY == 0:
                rows = self._modules.assignments.all_rows()
                self._record.histogram("largest entry of a row of C", rows.amax(-1), step=epoch)
        self._observe(diagnosis)

    def stops(self, _done: mlo.Round) -> bool:
        """Return whether the budget's patience is at its end."""
        if self._budget.patience is None or not self.history:
            return False
        return self.history[-1].epoch - self._best_epoch >= self._budget.patience

    def go_back(self) -> None:
        """Give the modules their best state, if the budget asks for it."""
        if self._budget.patience is None:
            return
        for module, state in zip(self._modules.parts(), self._best, strict=True):
            module.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {
            "groups": self._groups,
            "best_loss": self._best_loss,
            "best_epoch": self._best_epoch,
            "best": [dict(state) for state in self._best],
            "history": [asdict(diagnosis) for diagnosis in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._groups = state["groups"].to(self._groups.device)
        self._best_loss = float(state["best_loss"])
        self._best_epoch = int(state["best_epoch"])
        self._best = [dict(each) for each in state["best"]]
        self.history = [Diagnosis(**each) for each in state["history"]]

    def _now(self) -> list[dict[str, Tensor]]:
        return [deepcopy(part.state_dict()) for part in self._modules.parts()]
