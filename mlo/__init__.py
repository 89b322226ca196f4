"""`mlo`: multilevel optimisation in PyTorch.

Declare a program as a `Graph` of `Problem`s, run it with an `Engine`, differentiate it with
`hypergradient`.
"""

from importlib.metadata import version

from mlo import inverse
from mlo.context import Context
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
from mlo.product import Autograd, FiniteDifference
from mlo.response.constant import constant
from mlo.response.implicit import cg, exact, finite_difference, identity, implicit, neumann
from mlo.response.protocol import Response

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
    "cg",
    "constant",
    "exact",
    "finite_difference",
    "hypergradient",
    "identity",
    "implicit",
    "inverse",
    "neumann",
]
