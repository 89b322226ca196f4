"""What `mlo run` needs to know of a program: its schema, its graph and its main function."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from mlo.config import Config
from mlo.errors import ProgramError
from mlo.record import Record

if TYPE_CHECKING:
    from mlo.graph import Graph

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True)
class Program(Generic[C]):
    """A multilevel program that can be listed, shown and run from a configuration.

    A module registers one by the entry point ``name = "module:program"`` in the group
    ``mlo.programs``; a file that defines `program` can be given by its path.

    Attributes:
        summary: What the program does, in one line.
        config: The schema of its configuration.
        graph: Declares the graph that `mlo show` explains; trains nothing.
        run: Runs the program and writes its results to the record.
        defaults: YAML whose values hold where the user gives none; beside those of the schema.

    Raises:
        ProgramError: The summary is not one line, or the schema is no `Config`.

    >>> class Training(Config):
    ...     steps: int = 10
    >>> def graph(config: Training) -> "Graph": ...
    >>> def run(config: Training, record: Record) -> None:
    ...     record.result({"steps": config.steps})
    >>> Program(summary="Count steps.", config=Training, graph=graph, run=run).summary
    'Count steps.'
    """

    summary: str
    config: type[C]
    graph: Callable[[C], "Graph"]
    run: Callable[[C, Record], None]
    defaults: Traversable | Path | None = None

    def __post_init__(self) -> None:
        if len(self.summary.splitlines()) != 1:
            raise ProgramError(f"program summary: expected one line, got {self.summary!r}")
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise ProgramError(
                f"program config: expected a subclass of mlo.config.Config, got {self.config!r}"
            )
