"""`mlo`: multilevel optimisation in PyTorch.

Declare a program as a `Graph` of `Problem`s, run it with an `Engine`, differentiate it with
`hypergradient`.
"""

from importlib.metadata import version

from mlo import inverse, testing
from mlo.context import Context
from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.engine import Engine, ResponseWarning, Round
from mlo.errors import (
    BatchError,
    ConfigError,
    GraphError,
    MloError,
    NonFiniteError,
    ProblemError,
    ProgramError,
    ResponseError,
)
from mlo.graph import Graph
from mlo.hypergradient import Hypergradient, hypergradient
from mlo.inverse.protocol import InverseProduct
from mlo.outcome import Outcome, Status
from mlo.problem import Problem
from mlo.response.adaptive import adaptive
from mlo.response.constant import constant
from mlo.response.implicit import cg, exact, implicit, neumann, nystrom, warm_started
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.stationarity import stationarity_penalty
from mlo.response.unrolled import unrolled
from mlo.response.value_function import value_function
from mlo.separable import Weighted, weighted

__version__ = version("mlo-framework")
__all__ = [
    "Autograd",
    "BatchError",
    "ConfigError",
    "Context",
    "Engine",
    "FiniteDifference",
    "Graph",
    "GraphError",
    "Hypergradient",
    "InverseProduct",
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
