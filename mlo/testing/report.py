"""What a check found: numbers for every response, findings in words."""

import math
from dataclasses import dataclass
from enum import Enum
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from mlo.errors import MloError


class Cause(Enum):
    """What a finding is about."""

    RANDOMNESS = "randomness not shared"
    UNSOLVED = "lower problem not solved"
    FAR_FROM_SOLUTION = "not at its solution now"
    NEGATIVE_CURVATURE = "negative curvature"
    FLAT = "flat directions"
    KINK = "kink"
    DETACHED = "detached"
    ZERO_PATH = "zero path"
    DECAY = "weight decay unseen"
    RATE = "Neumann rate too high"
    TRUNCATED = "linear solve truncated"
    DAMPING = "damped"
    SIGN = "wrong sign"
    FACTOR = "wrong factor"
    MISMATCH = "wrong derivative"
    ONE_STEP = "one step only"


class Severity(Enum):
    """How grave a finding is: errors fail the check, warnings only a strict one."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the reader should know.

    Attributes:
        cause: What kind of thing it is.
        severity: Whether it fails the check.
        problem: The problem that it concerns.
        message: What was measured and the way out, in one line.
    """

    cause: Cause
    severity: Severity
    problem: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.problem!r}, {self.cause.value}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Derivatives along random directions: as declared, and measured by differences.

    Attributes:
        declared: One for each direction.
        measured: One for each direction.
        uncertainty: Estimated error of the measured ones, relative to their norm.
    """

    declared: tuple[float, ...]
    measured: tuple[float, ...]
    uncertainty: float

    @property
    def relative_error(self) -> float:
        """``‖declared - measured‖ / ‖measured‖``; 0 if both vanish, inf if only `measured` does."""
        size = _norm(self.measured)
        apart = _norm(tuple(d - m for d, m in zip(self.declared, self.measured, strict=True)))
        if size == 0:
            return 0.0 if apart == 0 else float("inf")
        return apart / size

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both; NaN if one of them vanishes."""
        sizes = _norm(self.declared) * _norm(self.measured)
        product = sum(d * m for d, m in zip(self.declared, self.measured, strict=True))
        return product / sizes if sizes else float("nan")

    @property
    def ratio(self) -> float:
        """``‖declared‖ / ‖measured‖``, with the sign of the cosine; NaN if one vanishes."""
        if not _norm(self.measured) or not _norm(self.declared):
            return float("nan")
        size = _norm(self.declared) / _norm(self.measured)
        return -size if self.cosine < 0 else size


def _norm(numbers: tuple[float, ...]) -> float:
    return math.hypot(*numbers)


@dataclass(frozen=True, kw_only=True)
class Solved:
    """How far a lower problem is solved.

    Attributes:
        gradient_norm_now: At the user's own parameters.
        gradient_norm: Where the check solved it.
        distance: Estimated distance from the solution there, relative to the parameters.
        smallest: Smallest Ritz value of its Hessian, weight decay included.
        largest: Largest.
    """

    gradient_norm_now: float
    gradient_norm: float
    distance: float
    smallest: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One response: of a solved problem to one problem above it.

    Attributes:
        problem: The solved problem.
        above: What it responds to.
        response: As declared.
        comparison: ``vᵀ ∂θ*/∂a`` along random directions of `a`, where `v` is the gradient that
            arrives at the solved problem.
        residual: Relative residual that the response's linear solve reports; NaN without one.
    """

    problem: str
    above: str
    response: str
    comparison: Comparison
    residual: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of `mlo.testing.check_hypergradient`.

    Attributes:
        target: The problem that was differentiated.
        total: Its whole hypergradient, against differences of its solved loss; None if the lower
            problems could not be solved.
        now: The cosine and relative error of the hypergradient at the user's own parameters, both
            against the one at the solution.
        rows: One for each response.
        solved: How each lower problem was solved, by name.
        findings: Gravest first.
        tolerance: Relative error that was allowed.
        strict: Whether warnings count as errors.
    """

    target: str
    total: Comparison | None
    now: tuple[float, float] | None
    rows: tuple[Row, ...]
    solved: dict[str, Solved]
    findings: tuple[Finding, ...]
    tolerance: float
    strict: bool

    @property
    def ok(self) -> bool:
        """True if nothing fails the check."""
        failing = (Severity.ERROR, Severity.WARNING) if self.strict else (Severity.ERROR,)
        return not any(finding.severity in failing for finding in self.findings)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, color_system=None, legacy_windows=False)
        with console.capture() as captured:
            for part in tables(self):
                console.print(part)
        findings = [f"  {finding}" for finding in self.findings]
        text = "\n".join([headline(self), captured.get().rstrip(), *findings])
        return "\n".join(line.rstrip() for line in text.splitlines())


class HypergradientError(MloError):
    """A check failed.

    Attributes:
        report: What it found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def headline(report: Report) -> str:
    """Return the verdict in one line."""
    verdict = "ok" if report.ok else "FAILED"
    if report.total is None:
        return f"hypergradient of {report.target!r}: {verdict}, could not be measured"
    total = report.total
    return (
        f"hypergradient of {report.target!r}: {verdict}, relative error {total.relative_error:.2g}"
        f" (allowed {report.tolerance:g}), cosine {total.cosine:.6f}, along "
        f"{len(total.measured)} random direction{'s' if len(total.measured) > 1 else ''}"
    )


def tables(report: Report) -> list[Table]:
    """Return the numbers: how each problem was solved, and how each response did."""
    solved = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("lower problem", "|gradient| now", "solved to", "eigenvalues"):
        solved.add_column(title, justify="left" if title == "lower problem" else "right")
    for name, found in report.solved.items():
        solved.add_row(
            name,
            f"{found.gradient_norm_now:.2g}",
            f"{found.gradient_norm:.2g}",
            f"{found.smallest:.2g} to {found.largest:.2g}",
        )
    responses = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("response of", "to", "by"):
        responses.add_column(title)
    for title in ("relative error", "cosine", "measured to", "residual of solve"):
        responses.add_column(title, justify="right")
    for row in report.rows:
        found_row = row.comparison
        responses.add_row(
            row.problem,
            row.above,
            row.response,
            f"{found_row.relative_error:.2g}",
            f"{found_row.cosine:.6f}",
            f"{found_row.uncertainty:.1g}",
            "" if row.residual != row.residual else f"{row.residual:.2g}",
        )
    return [table for table in (solved, responses) if table.rows]
