"""A comparison on paper: its table, its tests and what made it, in Markdown and as plain data."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlo.bench.machine import machine
from mlo.device import resolve
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.data.collection import Collection
from mlo_lbg.paired import paired
from mlo_lbg.table import Column, as_dict, as_markdown, compare

Measured = Mapping[str, Sequence[Mapping[str, float | None]]]
"""Title of a method to one mapping for each seed, measurement to value."""

_TESTED = {"error": "error", "equalized_odds": "DEO"}


def all_columns(attribute: str) -> tuple[Column, ...]:
    """Return every column, more than fit a terminal.

    Args:
        attribute: Name of the sensitive attribute.

    >>> [column.title for column in all_columns("sex")][:5]
    ['error %', 'worst sex %', 'DP, SPD', 'DEO', 'EOD']
    """
    return (
        Column(key="error", title="error %", decimals=2, scale=100),
        Column(key="worst_group_error", title=f"worst {attribute} %", decimals=2, scale=100),
        Column(key="demographic_parity", title="DP, SPD"),
        Column(key="equalized_odds", title="DEO"),
        Column(key="equal_opportunity", title="EOD"),
        Column(key="average_odds", title="AOD"),
        Column(key="nmi_attribute", title=f"NMI with {attribute}", decimals=2),
        Column(key="nmi_label", title="NMI with label", decimals=2),
        Column(key="largest_load", title="max load", decimals=2),
        Column(key="num_parameters", title="parameters", decimals=0),
        Column(key="seconds", title="training, s", decimals=1),
    )


def document(
    config: ComparisonConfig,
    collection: Collection,
    measured: Measured,
    *,
    command: str,
    networks: str,
    notes: Sequence[str],
) -> str:
    """Return the comparison as a page of Markdown.

    Args:
        config: What was compared.
        collection: The data of the first seed.
        measured: All measurements.
        command: What a user types to run it.
        networks: The parameter counts in one line.
        notes: What else must be said.
    """
    table = as_markdown(compare(measured, all_columns(collection.attribute)))
    train, test = collection.split.train, collection.split.test
    lines = [
        f"# {config.title}",
        "",
        f"`{command}`",
        "",
        f"{len(train):,} training and {len(test):,} test examples, {len(collection.classes)} "
        f"classes, attribute {collection.attribute} ({', '.join(collection.values)}); inputs of "
        f"shape {tuple(train.inputs.shape[1:])}; K = {config.num_groups}; "
        f"mean ± standard error over {config.seeds} seed{'s' if config.seeds > 1 else ''}.",
        f"Networks: {networks}.",
        f"Measured on {_machine(config)}.",
        "",
        table,
        "",
        *_tests(config, measured),
        *(f"- {note}" for note in notes),
        "",
    ]
    return "\n".join(lines)


def result(
    config: ComparisonConfig,
    collection: Collection,
    measured: Measured,
    *,
    command: str,
    networks: str,
) -> dict[str, Any]:
    """Return the comparison as plain data; the folder of the data is left out.

    Args:
        config: What was compared.
        collection: The data of the first seed.
        measured: All measurements.
        command: What a user types to run it.
        networks: The parameter counts in one line.
    """
    settings = config.model_dump(mode="json")
    settings["data"].pop("root", None)
    return {
        "command": command,
        "machine": _machine(config),
        "networks": networks,
        "examples": {
            "train": len(collection.split.train),
            "test": len(collection.split.test),
        },
        "table": as_dict(compare(measured, all_columns(collection.attribute))),
        "config": settings,
    }


def _tests(config: ComparisonConfig, measured: Measured) -> list[str]:
    """Every row against the reference row, seed by seed."""
    reference = config.rows[config.reference].title if config.reference in config.methods else None
    if reference is None or config.seeds < 2:
        return []
    lines = [
        f"Differences from {reference}, seed by seed (the seeds divide one data set anew, so p is "
        "too small where training sets overlap):",
        "",
    ]
    for title, runs in measured.items():
        if title == reference:
            continue
        for key, name in _TESTED.items():
            first = [run[key] for run in runs]
            second = [run[key] for run in measured[reference]]
            if any(value is None or value != value for value in (*first, *second)):
                continue
            known = paired([float(v or 0) for v in first], [float(v or 0) for v in second])
            lines.append(f"- {title}, {name}: {known.decision}")
    return [*lines, ""]


def _machine(config: ComparisonConfig) -> str:
    found = machine(resolve(config.device))
    return (
        f"{found['gpu'] or found['cpu']}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
