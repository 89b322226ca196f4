"""All methods on all seeds: trained, measured, recorded."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mlo.device import resolve
from mlo.record import Record
from mlo_lbg.architecture import Architecture
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.data.dataset import Split
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.diagnostics import collapse_warning
from mlo_lbg.evaluation import Evaluation, evaluate
from mlo_lbg.ledger import Ledger
from mlo_lbg.methods.task import Task
from mlo_lbg.trainer import Trainer

Report = Callable[[str], None]
"""Told in words what is going on."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method at one seed.

    Attributes:
        method: Its name in the configuration.
        title: Its name in the table.
        seed: The seed.
        evaluation: What was measured on the test examples.
        seconds: Wall-clock time of training; since it was last resumed, if it was.
        history: Diagnoses of the search, empty for methods without one.
        collapse: What to say of collapsed groups, or None.
    """

    method: str
    title: str
    seed: int
    evaluation: Evaluation
    seconds: float
    history: tuple[Diagnosis, ...]
    collapse: str | None

    def columns(self) -> dict[str, float | None]:
        """The numbers of the table."""
        return {**self.evaluation.columns(), "seconds": self.seconds}


def runs(config: ComparisonConfig, record: Record, report: Report) -> Iterator[Run]:
    """Yield one run after the other, seed by seed, each recorded as it is done.

    In a record that resumes, runs that were done are read and not made again.

    Args:
        config: What to compare.
        record: Takes a line for each epoch of a search and one for each run.
        report: Told what is being trained.
    """
    device = resolve(config.device)
    ledger = Ledger(record, Run)
    for seed in range(config.seeds):
        done = {method: ledger.read(f"{method}/seed-{seed}") for method in config.methods}
        if None in done.values():
            collection = config.data.load(seed)
            networks = {
                groups: config.networks.build(collection, groups)
                for groups in {config.num_groups_of(method) for method in config.methods}
            }
            split = collection.split.to(device)
        for method in config.methods:
            name = f"{method}/seed-{seed}"
            if (known := done[method]) is not None:
                yield known
                continue
            report(f"seed {seed}, {config.rows[method].title}")
            architecture = networks[config.num_groups_of(method)]
            run = _run(config, architecture, split, method, seed, record, report)
            groups = run.evaluation.groups
            record.metrics(
                kind="run",
                method=method,
                seed=seed,
                collapse=run.collapse,
                load=groups.load if groups else None,
                **{key: value for key, value in run.columns().items() if key != "seconds"},
            )
            if record.ranks is not None:
                # No rank may still be reading the checkpoints that are about to go.
                record.ranks.gathered(None)
            ledger.write(name, run)
            if record.writes:
                _forget_checkpoints(record, method, seed)
            yield run


def _run(
    config: ComparisonConfig,
    architecture: Architecture,
    split: Split,
    method: str,
    seed: int,
    record: Record,
    report: Report,
) -> Run:
    title = config.rows[method].title

    def observe(diagnosis: Diagnosis) -> None:
        report(
            f"seed {seed}, {title}: NMI {diagnosis.nmi_attribute:.2f}, "
            f"agreement {diagnosis.agreement:.2f}"
        )

    start = time.perf_counter()
    task = Task(
        train=split.train,
        architecture=architecture,
        seed=seed,
        trainer=Trainer(
            directory=record, parts=(method,), seed=seed, checkpoint_every=config.checkpoint_every
        ),
        observe=observe,
    )
    trained, history = config.rows[method].train(task)
    seconds = time.perf_counter() - start
    evaluation = evaluate(trained, split.test, num_groups=architecture.num_groups)
    groups = evaluation.groups
    return Run(
        method=method,
        title=title,
        seed=seed,
        evaluation=evaluation,
        seconds=seconds,
        history=history,
        collapse=collapse_warning(torch.tensor(groups.load)) if groups else None,
    )


def _forget_checkpoints(record: Record, method: str, seed: int) -> None:
    """Remove the checkpoints of a run that is done."""
    for folder in (record.directory / "checkpoints" / method).rglob(f"seed-{seed}"):
        shutil.rmtree(folder, ignore_errors=True)
