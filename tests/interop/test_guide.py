"""`docs/from_betty.md` does what it says: its blocks run in order and print what it shows."""

import logging
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_first_program import NUMBER, steps

PAGE = Path(__file__).parents[2] / "docs" / "from_betty.md"

pytest.importorskip(
    "betty", reason="needs pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
)


@pytest.mark.betty
def test_every_block_prints_what_the_page_shows() -> None:
    """To the letter, but for decimals: processors round differently."""
    session: dict[str, Any] = {}
    try:
        for step in steps(PAGE.read_text(encoding="utf-8")):
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile(step.code, PAGE.name, "exec"), session)
            got, expected = printed.getvalue(), step.shown
            assert NUMBER.sub("#", got) == NUMBER.sub("#", expected)
            for one, other in zip(NUMBER.findall(got), NUMBER.findall(expected), strict=True):
                assert float(one) == pytest.approx(float(other), rel=0.2, abs=0.05)
    finally:
        # The page silences Betty's log.
        logging.disable(logging.NOTSET)


def test_the_page_shows_outputs() -> None:
    """So that the test above cannot pass on a page without any."""
    assert sum(bool(step.shown) for step in steps(PAGE.read_text(encoding="utf-8"))) >= 6
