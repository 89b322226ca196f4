"""Where a program stands: parameters, batches and what is known of each solved problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlo.context import Context
from mlo.functional import PureLoss
from mlo.ranks import Ranks
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Where a program stands.

    Attributes:
        values: Parameters of every problem: the trained ones themselves, or constants elsewhere.
        batches: Batch of each problem in the sweep that takes one.
        contexts: Context of each solved problem.
        losses: Pure loss of each problem in the sweep.
        moved: Problems whose values are not where their modules stand.
        ranks: The processes that share each batch; None if there is but this one.
    """

    values: Mapping[str, Params]
    batches: Mapping[str, Any]
    contexts: Mapping[str, Context]
    losses: Mapping[str, PureLoss]
    moved: frozenset[str] = frozenset()
    ranks: Ranks | None = None

    def exchanged(self, known: Mapping[str, Params]) -> dict[str, Params]:
        """Return those of `known` that a loss would not find in the modules anyway."""
        return {
            name: params
            for name, params in known.items()
            if params is not self.values[name] or name in self.moved
        }

    def present(self, name: str) -> Params | None:
        """Return the problem's own parameters, if they are where it stands."""
        return None if name in self.moved else self.values[name]
