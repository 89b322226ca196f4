"""What tests of multilevel programs need: a checker, and programs whose hypergradient is known.

`mlo.testing.strategies` draws such programs with Hypothesis and is imported by itself.
"""

from mlo.testing.check import check_hypergradient
from mlo.testing.report import Cause, Finding, HypergradientError, Report, Severity

__all__ = [
    "Cause",
    "Finding",
    "HypergradientError",
    "Report",
    "Severity",
    "check_hypergradient",
]
