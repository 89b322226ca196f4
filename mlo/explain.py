"""A graph in words and as a drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlo.order import Sweep
from mlo.schedule import updates_per_round


@dataclass(frozen=True, kw_only=True)
class View:
    """What is said of one problem."""

    name: str
    level: int
    steps: int
    reads: tuple[str, ...]
    takes_batch: bool
    sweep: Sweep
    response: str
    evaluations: int | None  # None where it depends on the number of parameters or on solves within
    num_parameters: int


def explanation(views: Sequence[View]) -> str:
    """Return levels, edges, sweep order and gradient evaluations per round."""
    by_name = {view.name: view for view in views}
    updates = updates_per_round({v.name: v.level for v in views}, {v.name: v.steps for v in views})
    differentiated = {n for view in views for n in view.sweep.order}
    lines = ["levels (highest first)"]
    for view in sorted(views, key=lambda v: -v.level):
        response = f", response {view.response}" if view.name in differentiated else ""
        lines.append(
            f"  {view.level}  {view.name}: {_times(view.num_parameters, 'parameter')}, "
            f"{_times(updates[view.name], 'update')} per round{response}"
        )
    lines.append("edges (loss <- what it reads)")
    for view in views:
        batch = ["batch"] if view.takes_batch else []
        lines.append(f"  {view.name} <- {', '.join([*view.reads, *batch]) or 'nothing'}")
    lines.append("sweeps (how each problem's gradient is found)")
    for view in views:
        lines.append(f"  {view.name}: {_sweep_text(view)}")
    lines.append("gradient evaluations per round")
    total, open_ended = 0, False
    for view in views:
        costs = {n: by_name[n].evaluations for n in view.sweep.order}
        known = 1 + sum(c for c in costs.values() if c is not None)
        uncounted = [n for n, cost in costs.items() if cost is None]
        total += updates[view.name] * known
        open_ended |= bool(uncounted)
        more = f" + those of the response of {' and '.join(uncounted)}" if uncounted else ""
        lines.append(f"  {view.name}: {updates[view.name]} x {known}{more}")
    lines.append(f"  total: {'at least ' if open_ended else ''}{total}")
    return "\n".join(lines)


def _sweep_text(view: View) -> str:
    direct = f"direct gradient of {view.name}" if view.name in view.reads else ""
    through = ", then ".join(
        f"{name} answers to {' and '.join(view.sweep.flows[name])}" for name in view.sweep.order
    )
    return "; ".join(part for part in (direct, through) if part)


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def mermaid(views: Sequence[View]) -> str:
    """Return Mermaid text: solid arrows are reads, dotted ones carry cotangents back."""
    lines = ["flowchart BT"]
    for level in sorted({view.level for view in views}):
        lines.append(f"  subgraph level_{level} [level {level}]")
        lines += [f'    p_{view.name}["{view.name}"]' for view in views if view.level == level]
        lines.append("  end")
    for view in views:
        lines += [
            f"  p_{name} -->|read by| p_{view.name}" for name in view.reads if name != view.name
        ]
    answers = {
        (name, above): None
        for view in views
        for name in view.sweep.order
        for above in view.sweep.flows[name]
    }
    lines += [f"  p_{name} -.->|responds to| p_{above}" for name, above in answers]
    return "\n".join(lines)
