"""Finding programs: by entry point, by path, and what is said when there is none to find."""

import sys
from pathlib import Path
from typing import Any

import pytest

from mlo import registry
from mlo.config import Config
from mlo.errors import ProgramError
from mlo.program import Program

PROGRAM = """
from mlo.config import Config
from mlo.program import Program

class Settings(Config):
    steps: int = 3

program = Program(summary="Count.", config=Settings, graph=lambda c: None, run=lambda c, r: None)
other = program
text = "no program"
"""


def distribution(site: Path, name: str, entry_points: str, module: str = "") -> None:
    """Lay out what installing a distribution `name` with a module of that name leaves behind."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry_points}\n")
    (site / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return site


def refusal(name: str) -> str:
    with pytest.raises(ProgramError) as caught:
        registry.load(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_lbg_is_registered() -> None:
    assert [entry.value for entry in registry.registered()["lbg"]] == ["mlo_lbg.program:program"]


def test_registered_program_is_loaded(site: Path) -> None:
    distribution(site, "counting", "count = counting:program", PROGRAM)
    assert registry.load("count").summary == "Count."


def test_broken_plugin_harms_neither_list_nor_siblings(site: Path) -> None:
    distribution(site, "counting", "count = counting:program", PROGRAM)
    distribution(site, "crashing", "crash = crashing:program", "import no_such_module\n")
    distribution(site, "leaving", "leave = leaving:program", "raise SystemExit(0)\n")
    distribution(site, "malformed", "malform = not a module:::")
    assert {"count", "crash", "leave", "malform", "lbg"} <= set(registry.registered())
    assert not {"counting", "crashing", "leaving"} & set(sys.modules)
    assert registry.load("count").summary == "Count."
    message = refusal("crash")
    assert "'crash' of crashing 1.0 cannot be loaded: ModuleNotFoundError" in message
    assert f"{site / 'crashing.py'}, line 1" in message
    assert "'leave' of leaving 1.0 cannot be loaded: SystemExit" in refusal("leave")
    assert "'malform' of malformed 1.0 cannot be loaded: " in refusal("malform")


def test_cause_of_several_lines_is_told_in_one(site: Path) -> None:
    distribution(site, "verbose", "talk = verbose:program", "raise ValueError('a\\n  b')\n")
    assert "ValueError: a b (" in refusal("talk")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("counting:text", "program 'count': counting:text is of type str, expected Program"),
        ("counting", "program 'count': counting is of type module, expected Program"),
        ("counting:absent", "has no attribute 'absent'"),
        ("absent:program", "No module named 'absent'"),
    ],
)
def test_entry_point_that_leads_to_no_program(site: Path, target: str, message: str) -> None:
    distribution(site, "counting", f"count = {target}", PROGRAM)
    assert message in refusal("count")


def test_two_distributions_of_one_name_are_both_named(site: Path) -> None:
    distribution(site, "counting", "count = counting:program", PROGRAM)
    distribution(site, "recounting", "count = recounting:program", PROGRAM)
    assert len(registry.registered()["count"]) == 2
    message = refusal("count")
    assert "counting 1.0" in message
    assert "recounting 1.0" in message


def test_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert refusal("lgb") == "no program 'lgb' (did you mean 'lbg'?)"
    assert refusal("nothing like it").startswith("no program 'nothing like it'; registered are: ")
    assert refusal("").startswith("no program ''; registered are: ")
    assert "lbg" in refusal("two\nlines")


def test_nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GROUP", "mlo.no_such_group")
    assert refusal("lbg") == "no program 'lbg'; registered are: none"


def test_file_is_a_program_and_its_yaml_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "count.py"
    file.write_text(PROGRAM)
    assert registry.load(str(file)).defaults is None
    file.with_suffix(".yaml").write_text("steps: 7\n")
    assert registry.load(str(file)).defaults == tmp_path / "count.yaml"
    file.write_text(
        f"{PROGRAM}\nimport dataclasses, pathlib\n"
        "program = dataclasses.replace(program, defaults=pathlib.Path('mine.yaml'))\n"
    )
    assert registry.load(str(file)).defaults == Path("mine.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "defines no 'program'"),
        (
            PROGRAM.replace("program = P", "prog = P").replace("= program", "= prog"),
            "'prog' and 'other'",
        ),
        ("program = 3\n", "program is of type int, expected Program"),
        ("program = (\n", "cannot be run: SyntaxError"),
        ("\n1 / 0\n", "cannot be run: ZeroDivisionError: division by zero ("),
        ("import no_such_module\n", "cannot be run: ModuleNotFoundError"),
        ("raise SystemExit('bye')\n", "cannot be run: SystemExit: bye"),
        ("\0", "cannot be run: "),
        ("program = '\xff'\n", "cannot be run: SyntaxError"),
    ],
)
def test_file_that_gives_no_program(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(content.encode("latin-1"))
    assert message in refusal(str(file))
    assert "mlo_program_bad" not in sys.modules or "cannot be run" not in message


def test_error_of_a_file_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import json\n\njson.loads('{')\n")
    assert f"({file}, line 3)" in refusal(str(file))


@pytest.mark.parametrize("name", ["absent.py", ".py", "/", "folder.py"])
def test_path_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    assert refusal(name).startswith("no program")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"summary": ""}, "expected one line, got ''"),
        ({"summary": "a\nb"}, "expected one line"),
        ({"config": dict}, "expected a subclass of mlo.config.Config, got <class 'dict'>"),
        ({"config": Config()}, "expected a subclass of mlo.config.Config, got Config()"),
    ],
)
def test_program_checks_what_it_is_given(change: dict[str, object], message: str) -> None:
    fields: dict[str, Any] = {"summary": "Count.", "config": Config, "graph": print, "run": print}
    with pytest.raises(ProgramError) as caught:
        Program(**(fields | change))
    assert message in str(caught.value)
