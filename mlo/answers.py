"""How solved problems answered, in as few words as a display has room for."""

from collections.abc import Iterator, Mapping

from rich.text import Text

from mlo.outcome import Outcome, Status

_WORDS = {status: status.name.lower().replace("_", " ") for status in Status}

Outcomes = Mapping[str, Mapping[str, Outcome]]
"""For each differentiated problem, how the problems below it answered."""


def answers(outcomes: Outcomes) -> list[Text]:
    """Return a line for each problem that was solved, the gravest first; reading may wait.

    Differentiated updates, for which nothing is solved, are no news.

    >>> outcome = Outcome(solver="cg", code=2, relative_residual=0.02)
    >>> [line.plain for line in answers({"weights": {"model": outcome}})]
    ['weights through model: truncated (residual 0.02)']
    """
    solved = [(n, low, o) for n, low, o in _each(outcomes) if o.status is not Status.ONE_STEP]
    return [
        Text(f"{name} through {lower}: ").append(_said(outcome), style=_style(outcome))
        for name, lower, outcome in sorted(solved, key=lambda item: -int(item[2].status))
    ]


def failures(outcomes: Outcomes) -> list[str]:
    """Return which problems gave no answer to be trusted; reading may wait.

    >>> failures({"weights": {"model": Outcome(solver="cg", code=6)}})
    ['weights through model: diverged']
    """
    return [
        f"{name} through {lower}: {_said(outcome)}"
        for name, lower, outcome in _each(outcomes)
        if outcome.failed
    ]


def _each(outcomes: Outcomes) -> Iterator[tuple[str, str, Outcome]]:
    for name, found in outcomes.items():
        for lower, outcome in found.items():
            yield name, lower, outcome


def _said(outcome: Outcome) -> str:
    residual = outcome.residual
    size = f" (residual {residual:.2g})" if residual == residual else ""
    return f"{_WORDS[outcome.status]}{size}"


def _style(outcome: Outcome) -> str:
    if outcome.failed:
        return "bold red"
    return "" if outcome.converged else "yellow"
