"""`mlo`: multilevel optimisation in PyTorch.

Declare a program as a `Graph` of `Problem`s, run it with an `Engine`, differentiate it with
`hypergradient`.
"""

from importlib.metadata import version

from mlo import inverse, testing
from mlo.callbacks import Callbacks
from mlo.checkpoint.checkpoints import Checkpoints
from mlo.clipping import Clipping
from mlo.context import Context
from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.engine import Engine
from mlo.errors import (
    BatchError,
    CheckpointError,
    ConfigError,
    GraphError,
    MloError,
    NonFiniteError,
    ProblemError,
    ProgramError,
    ResponseError,
    RunError,
)
from mlo.graph import Graph
from mlo.hypergradient import Hypergradient, hypergradient
from mlo.interrupts import Interrupted
from mlo.inverse.protocol import InverseProduct
from mlo.outcome import Outcome, Status
from mlo.precision import Autocast
from mlo.problem import Problem
from mlo.response.adaptive import adaptive
from mlo.response.constant import constant
from mlo.response.implicit import cg, exact, implicit, neumann, nystrom, warm_started
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.stationarity import stationarity_penalty
from mlo.response.unrolled import unrolled
from mlo.response.value_function import value_function
from mlo.response_warning import ResponseWarning
from mlo.resumption import LoaderWarning
from mlo.round import Round
from mlo.separable import Weighted, weighted
from mlo.stopping import EarlyStopping

__version__ = version("mlo-framework")
__all__ = [
    "Autocast",
    "Autograd",
    "BatchError",
    "Callbacks",
    "CheckpointError",
    "Checkpoints",
    "Clipping",
    "ConfigError",
    "Context",
    "EarlyStopping",
    "Engine",
    "FiniteDifference",
    "Graph",
    "GraphError",
    "Hypergradient",
    "Interrupted",
    "InverseProduct",
    "LoaderWarning",
    "MloError",
    "NonFiniteError",
    "Outcome",
    "Problem",
    "ProblemError",
    "ProgramError",
    "Response",
    "ResponseError",
    "ResponseWarning",
    "Round",
    "RunError",
    "Status",
    "Weighted",
    "adaptive",
    "cg",
    "constant",
    "exact",
    "finite_difference",
    "hypergradient",
    "identity",
    "implicit",
    "inverse",
    "neumann",
    "nystrom",
    "stationarity_penalty",
    "testing",
    "unrolled",
    "value_function",
    "warm_started",
    "weighted",
]
