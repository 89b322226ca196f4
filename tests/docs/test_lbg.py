"""`docs/lbg.md`: its block runs as printed, and the options that it names are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

from mlo import registry
from mlo_lbg.config import SearchConfig

PAGE = Path(__file__).parents[2] / "docs" / "lbg.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.slow  # A whole search with the settings that users have.
def test_the_block_for_scikit_learn_runs_and_finds_the_side():
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    session = {}
    exec(compile(block, PAGE.name, "exec"), session)
    assert session["frame"].overall > 0.9
    assert len(np.unique(session["model"][-1].groups_)) == 2


@pytest.mark.parametrize("option", re.findall(r"`remedy: (\w+)`", TEXT))
def test_remedies_exist(option):
    assert SearchConfig(remedy=option).remedy == option


def test_every_table_is_named():
    for name in registry.tables():
        assert f"`{name}`" in TEXT, name
