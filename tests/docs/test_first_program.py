"""`docs/first_program.md` does what it says: its blocks run in order and print what it shows."""

import re
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first_program.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")


class Step(NamedTuple):
    """A block of code and the output that the page shows below it."""

    code: str
    shown: str


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for kind, content in BLOCK.findall(page):
        if kind == "python":
            found.append(Step(content, ""))
        else:
            found[-1] = Step(found[-1].code, content)
    return found


def test_every_block_prints_what_the_page_shows() -> None:
    """To the letter, but for decimals: processors round differently."""
    session: dict[str, Any] = {}
    for step in steps(PAGE.read_text(encoding="utf-8")):
        printed = StringIO()
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(step.code, PAGE.name, "exec"), session)
        got, expected = printed.getvalue(), step.shown
        assert NUMBER.sub("#", got) == NUMBER.sub("#", expected)
        for one, other in zip(NUMBER.findall(got), NUMBER.findall(expected), strict=True):
            assert float(one) == pytest.approx(float(other), rel=0.2, abs=0.05)


def test_the_page_shows_the_output_of_most_blocks() -> None:
    """So that the test above cannot pass on a page without outputs."""
    shown = [step for step in steps(PAGE.read_text(encoding="utf-8")) if step.shown]
    assert len(shown) >= 10
