"""The same program on `mlo`'s engine."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD

from mlo.bench.programs import MODEL, UPPER, Parts
from mlo.bench.variant import Steps
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.problem import Problem
from mlo.response.protocol import Response

MakeEngine = Callable[[Graph, torch.device], Engine]


def eager(graph: Graph, device: torch.device) -> Engine:
    """Return the engine with no option set."""
    return Engine(graph, device=device)


def declare(parts: Parts, response: Response, *, train_loss: Any = None) -> Graph:
    """Return the graph of a bilevel program.

    Args:
        parts: The program.
        response: How the model is differentiated.
        train_loss: Stands for the training loss of the parts, as where it was compiled.
    """
    return Graph(
        Problem(
            name=MODEL,
            module=parts.model,
            loss=train_loss or parts.train_loss,
            reads=(MODEL, UPPER),
            batches=parts.train,
            optimizer=lambda p: SGD(p, lr=parts.rate),
            response=response,
        ),
        Problem(
            name=UPPER,
            module=parts.upper,
            loss=parts.valid_loss,
            batches=parts.valid,
            optimizer=lambda p: SGD(p, lr=parts.upper_rate),
        ),
    )


def steps_of(engine: Engine) -> Steps:
    """Return the steps of an engine that runs a bilevel program."""
    return Steps(
        lower=lambda: engine.update(MODEL),
        upper=lambda: engine.update(UPPER),
        optimizer=engine.optimizers[UPPER],
    )


def build(parts: Parts, response: Response, device: torch.device) -> Steps:
    """Return the steps of the program on an eager engine."""
    return steps_of(eager(declare(parts, response), device))
