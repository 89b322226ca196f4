"""Comparisons as programs: Learning by Grouping beside what users would pick instead."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files

import torch
from torch import nn

from mlo import progress
from mlo.graph import Graph
from mlo.program import Program
from mlo.record import Record
from mlo_lbg.comparison import Run, runs
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.config import LbgConfig
from mlo_lbg.data.batches import Batches
from mlo_lbg.methods.lbg import Lbg
from mlo_lbg.pictures import draw, draw_frontiers
from mlo_lbg.problems import Modules, three_levels
from mlo_lbg.results import document, result
from mlo_lbg.table import Comparison, as_rich, as_rows, compare, grouping_columns


def graph(config: ComparisonConfig) -> Graph:
    """Declare the three-level graph of the first row of LBG, as its search would run it."""
    collection = config.data.load(0)
    architecture = config.networks.build(collection, config.num_groups)
    halves = collection.split.halves(seed=0)
    found = [row for name in config.methods if isinstance(row := config.rows[name], Lbg)]
    settings = found[0] if found else LbgConfig()
    grouping = settings.grouping(learned=True)

    def batches(part: int) -> Batches:
        return Batches(halves[part], size=settings.search.batch_size, seed=0)

    return three_levels(
        Modules(
            gam=architecture.make_gate(),
            experts=nn.ModuleList(architecture.make_expert() for _ in range(config.num_groups)),
            assignments=grouping.make_assignments(len(halves.train), config.num_groups),
        ),
        grouping.search,
        gam_batches=batches(0),
        expert_batches=batches(0),
        validation_batches=batches(1),
    )


def run(config: ComparisonConfig, record: Record, *, command: str) -> None:
    """Compare all methods over all seeds; write table, results and pictures.

    Args:
        config: What to compare.
        record: Takes everything that is written.
        command: What a user types to run it.
    """
    # On the CPU these networks are too small for a second thread to pay.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = _all_runs(config, record)
    finally:
        torch.set_num_threads(threads)
    collection = config.data.load(0)
    by_method = {
        config.rows[name].title: [r for r in done if r.method == name] for name in config.methods
    }
    columns = {title: [r.columns() for r in own] for title, own in by_method.items()}
    comparison = compare(columns, grouping_columns(collection.attribute))
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    title = f"{config.title}: mean ± standard error over {seeds}"
    record.print(as_rich(comparison, title=title))
    networks = config.networks.build(collection, config.num_groups).row
    record.print(networks)
    warnings = _collapses(done)
    for warning in warnings:
        record.print(warning)
    record.text(
        "table.md",
        document(config, collection, columns, command=command, networks=networks, notes=warnings),
    )
    # Without the times: a resumed run's record is that of an uninterrupted one.
    timeless = tuple(c for c in comparison.columns if c.key != "seconds")
    record.table("comparison", as_rows(replace(comparison, columns=timeless)))
    record.result(
        {
            "headline": _headline(comparison),
            **result(config, collection, columns, command=command, networks=networks),
            "runs": [
                {"method": r.method, "seed": r.seed, "collapse": r.collapse, **r.columns()}
                for r in done
            ],
        }
    )
    draw(done, record, attribute=collection.attribute, values=collection.values)
    if config.frontier:
        draw_frontiers(done, record, attribute=collection.attribute)
    record.print(f"one page about it: mlo report {record.directory}")


def _all_runs(config: ComparisonConfig, record: Record) -> list[Run]:
    done: list[Run] = []
    with progress.bar(record.console) as display:
        task = display.add_task("training", total=config.seeds * len(config.methods), status="")
        for each in runs(config, record, lambda text: display.update(task, status=text)):
            done.append(each)
            display.advance(task)
            if not record.console.is_terminal:
                error = each.evaluation.fairness.error
                record.print(
                    f"seed {each.seed}, {each.title}: error {error:.2%}, {each.seconds:.1f} s"
                )
    return done


def _headline(comparison: Comparison) -> str:
    """The method with the lowest error, in a few words."""
    errors = {name: row["error"] for name, row in comparison.rows.items()}
    found = {name: error.mean for name, error in errors.items() if error is not None}
    best = min(found, key=lambda name: found[name])
    return f"lowest error {found[best]:.2%}, {best}, of {len(found)} methods"


def _collapses(done: Sequence[Run]) -> list[str]:
    return [f"{r.title}, seed {r.seed}: {r.collapse}" for r in done if r.collapse]


def comparison(name: str, *, summary: str, command: str) -> Program[ComparisonConfig]:
    """Return the comparison whose packaged configuration is `configs/NAME.yaml`.

    Args:
        name: Of the configuration.
        summary: What it compares, in one line.
        command: What a user types to run it.
    """
    return Program(
        summary=summary,
        config=ComparisonConfig,
        graph=graph,
        run=partial(run, command=command),
        defaults=files("mlo_lbg") / "configs" / f"{name}.yaml",
    )


program = comparison(
    "digits",
    summary="Learning by Grouping on digits with a hidden orientation, beside its rivals.",
    command="mlo run lbg",
)
