"""All methods on all seeds: trained, measured, recorded."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from mlo.device import resolve
from mlo.record import Record
from mlo_lbg.architecture import Architecture, linear_experts
from mlo_lbg.config import ComparisonConfig
from mlo_lbg.data.digits import NUM_CLASSES, NUM_PIXELS, digits
from mlo_lbg.diagnostics import collapse_warning
from mlo_lbg.evaluation import Evaluation, evaluate
from mlo_lbg.methods import METHODS, Task
from mlo_lbg.search import Diagnosis, Observe

Report = Callable[[str], None]
"""Told in words what is going on."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method at one seed.

    Attributes:
        method: Its name in the configuration.
        seed: The seed.
        evaluation: What was measured on the test examples.
        seconds: Wall-clock time of training.
        history: Diagnoses of the search, empty for methods without one.
        collapse: What to say of collapsed groups, or None.
    """

    method: str
    seed: int
    evaluation: Evaluation
    seconds: float
    history: tuple[Diagnosis, ...]
    collapse: str | None

    def columns(self) -> dict[str, float | None]:
        """The numbers of the table."""
        return {**self.evaluation.columns(), "seconds": self.seconds}


def architecture_of(config: ComparisonConfig) -> Architecture:
    """Return the networks that every method builds from, all of one total size."""
    return linear_experts(inputs=NUM_PIXELS, classes=NUM_CLASSES, num_groups=config.num_groups)


def runs(config: ComparisonConfig, record: Record, report: Report) -> Iterator[Run]:
    """Yield one run after the other, seed by seed, each recorded as it is done.

    Args:
        config: What to compare.
        record: Takes a line for each epoch of a search and one for each run.
        report: Told what is being trained.
    """
    architecture = architecture_of(config)
    device = resolve(config.device)
    for seed in range(config.seeds):
        split = digits(variant=config.data.variant, seed=seed).to(device)
        for method in config.methods:
            history: list[Diagnosis] = []
            observe = _observer(history, record, report, method, seed)
            report(f"seed {seed}, {METHODS[method].title}")
            start = time.perf_counter()
            task = Task(train=split.train, architecture=architecture, seed=seed, observe=observe)
            trained = METHODS[method].train(config, task)
            seconds = time.perf_counter() - start
            evaluation = evaluate(trained, split.test, num_groups=config.num_groups)
            groups = evaluation.groups
            run = Run(
                method=method,
                seed=seed,
                evaluation=evaluation,
                seconds=seconds,
                history=tuple(history),
                collapse=collapse_warning(torch.tensor(groups.load)) if groups else None,
            )
            record.metrics(
                kind="run",
                method=method,
                seed=seed,
                collapse=run.collapse,
                load=groups.load if groups else None,
                **run.columns(),
            )
            yield run


def _observer(
    history: list[Diagnosis], record: Record, report: Report, method: str, seed: int
) -> Observe:
    def observe(diagnosis: Diagnosis) -> None:
        history.append(diagnosis)
        record.metrics(kind="epoch", method=method, seed=seed, **asdict(diagnosis))
        report(
            f"seed {seed}, {METHODS[method].title}: NMI {diagnosis.nmi_attribute:.2f}, "
            f"agreement {diagnosis.agreement:.2f}"
        )

    return observe
