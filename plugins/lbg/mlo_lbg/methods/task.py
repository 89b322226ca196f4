"""One training run of one method, and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from mlo.config import Config
from mlo_lbg.architecture import Architecture
from mlo_lbg.data.dataset import Examples
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.evaluation import Trained
from mlo_lbg.trainer import Trainer
from mlo_lbg.training import Optimisation
from mlo_lbg.watch import Observe

Learned = tuple[Trained, tuple[Diagnosis, ...]]
"""A trained method, and the diagnoses of its search for groups if it makes one."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run of one method.

    Attributes:
        train: All training examples.
        architecture: What networks it may build.
        seed: Decides everything random.
        trainer: How it is run.
        observe: Told the diagnosis of each epoch by methods that search for groups.
    """

    train: Examples
    architecture: Architecture
    seed: int
    trainer: Trainer
    observe: Observe

    def trained(
        self, method: Callable[..., Trained], optimisation: Optimisation, **options: Any
    ) -> Learned:
        """Return what a method without a search makes of this task.

        Args:
            method: `(train, architecture, optimisation, *, seed, trainer, ...)`.
            optimisation: Of its networks.
            options: Of the method.
        """
        trained = method(
            self.train,
            self.architecture,
            optimisation,
            seed=self.seed,
            trainer=self.trainer,
            **options,
        )
        return trained, ()


class Row(Config):
    """A row of a table: how one method is set.

    Attributes:
        title: How the table calls it.
        num_groups: K of this row; null for that of the comparison.
    """

    title: str
    num_groups: Annotated[int, Field(ge=1, le=64)] | None = None

    def train(self, task: Task) -> Learned:
        """Train the method."""
        raise NotImplementedError
