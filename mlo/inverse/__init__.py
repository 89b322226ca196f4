"""Inverse-Hessian products as values: ``mlo.inverse.cg(steps=10)`` and its siblings."""

from mlo.inverse.cg import cg
from mlo.inverse.exact import exact
from mlo.inverse.identity import identity
from mlo.inverse.neumann import neumann
from mlo.inverse.protocol import InverseProduct

__all__ = ["InverseProduct", "cg", "exact", "identity", "neumann"]
