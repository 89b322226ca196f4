"""Run a `mlo.Graph` on Betty's engine, and read a Betty program into a `mlo.Graph`.

Betty (Choe et al., 2022, arXiv 2207.02849) is no dependency: only `to_betty` imports it, and says
how to install it where it is absent.
"""

from mlo.interop.betty.from_betty import from_betty, from_betty_engine
from mlo.interop.betty.to_betty import BettyWarning, to_betty

__all__ = ["BettyWarning", "from_betty", "from_betty_engine", "to_betty"]
