"""The program `lbg`: Learning by Grouping beside what users would pick instead."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import torch
from torch import nn

from mlo import progress
from mlo.graph import Graph
from mlo.program import Program
from mlo.record import Record
from mlo_lbg.comparison import Run, architecture_of, runs
from mlo_lbg.config import ComparisonConfig
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.digits import digits
from mlo_lbg.methods import METHODS
from mlo_lbg.pictures import draw
from mlo_lbg.problems import Modules, three_levels
from mlo_lbg.table import (
    Comparison,
    as_dict,
    as_markdown,
    as_rich,
    as_rows,
    compare,
    grouping_columns,
)


def graph(config: ComparisonConfig) -> Graph:
    """Declare the three-level graph of LBG with soft routing, as the search would run it."""
    architecture = architecture_of(config)
    halves = digits(variant=config.data.variant, seed=0).halves(seed=0)
    grouping = config.lbg_soft.grouping(learned=True)

    def batches(part: int) -> Batches:
        return Batches(halves[part], size=config.lbg_soft.search.batch_size, seed=0)

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


def run(config: ComparisonConfig, record: Record) -> None:
    """Compare all methods over all seeds; write table, results and pictures."""
    # These networks are too small for a second thread to pay.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = _all_runs(config, record)
    finally:
        torch.set_num_threads(threads)
    by_method = {name: [r for r in done if r.method == name] for name in config.methods}
    comparison = compare(
        {METHODS[name].title: [r.columns() for r in own] for name, own in by_method.items()},
        grouping_columns("orientation"),
    )
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    title = f"digits, {config.data.variant}: mean ± standard error over {seeds}"
    record.print(as_rich(comparison, title=title))
    warnings = _collapses(done)
    for warning in warnings:
        record.print(warning)
    record.text("table.txt", "\n".join([title, "", as_markdown(comparison), *warnings, ""]))
    # Without the times: a resumed run's record is that of an uninterrupted one.
    timeless = tuple(c for c in comparison.columns if c.key != "seconds")
    record.table("comparison", as_rows(replace(comparison, columns=timeless)))
    record.result(
        {
            "headline": _headline(comparison),
            "table": as_dict(comparison),
            "runs": [
                {"method": r.method, "seed": r.seed, "collapse": r.collapse, **r.columns()}
                for r in done
            ],
        }
    )
    draw(done, record)
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
                    f"seed {each.seed}, {METHODS[each.method].title}: error {error:.2%}, "
                    f"{each.seconds:.1f} s"
                )
    return done


def _headline(comparison: Comparison) -> str:
    """The method with the lowest error, in a few words."""
    errors = {name: row["error"] for name, row in comparison.rows.items()}
    found = {name: error.mean for name, error in errors.items() if error is not None}
    best = min(found, key=lambda name: found[name])
    return f"lowest error {found[best]:.2%}, {best}, of {len(found)} methods"


def _collapses(done: Sequence[Run]) -> list[str]:
    return [f"{METHODS[r.method].title}, seed {r.seed}: {r.collapse}" for r in done if r.collapse]


program = Program(
    summary="Learning by Grouping on digits with a hidden orientation, beside its rivals.",
    config=ComparisonConfig,
    graph=graph,
    run=run,
    defaults=files("mlo_lbg") / "configs" / "digits.yaml",
)
