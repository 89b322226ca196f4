"""Inverse-Hessian products as values: ``mlo.inverse.cg(steps=10)`` and its siblings."""

from mlo.inverse.cg import cg
from mlo.inverse.exact import exact
from mlo.inverse.identity import identity
from mlo.inverse.neumann import neumann
from mlo.inverse.nystrom import nystrom
from mlo.inverse.protocol import InverseProduct
from mlo.inverse.warm_started import warm_started

__all__ = [
    "InverseProduct",
    "cg",
    "exact",
    "identity",
    "neumann",
    "nystrom",
    "warm_started",
]
