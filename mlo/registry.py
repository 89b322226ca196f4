"""Programs by name: those that installed distributions register, and files given by their path."""

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from mlo.errors import ProgramError, nearest
from mlo.program import Program

GROUP: Final = "mlo.programs"
"""The entry-point group in which distributions register programs."""

TABLES: Final = "mlo.tables"
"""The group of the programs that make one table of results each; NAME is known as `table:NAME`."""

TABLE: Final = "table:"
"""What the name of a program begins with that makes a table."""


def registered() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points behind each program name, in alphabetical order of the names.

    Only the metadata of distributions is read: no plugin is imported, so a broken one harms
    neither the list nor the others.  More than one entry point means that the name is ambiguous.

    >>> [entry_points[0].value for name, entry_points in registered().items() if name == "lbg"]
    ['mlo_lbg.program:program']
    """
    found: dict[str, tuple[EntryPoint, ...]] = {}
    named = [(entry.name, entry) for entry in entry_points(group=GROUP)]
    named += [(f"{TABLE}{entry.name}", entry) for entry in entry_points(group=TABLES)]
    for name, entry in sorted(named, key=lambda pair: pair[0]):
        found[name] = (*found.get(name, ()), entry)
    return found


def tables() -> list[str]:
    """Return the names by which `mlo table` knows its tables.

    >>> "adult" in tables()
    True
    """
    return [name.removeprefix(TABLE) for name in registered() if name.startswith(TABLE)]


def load(name: str) -> Program[Any]:
    """Return the program registered as `name`, or the one in the file whose path is `name`.

    A name that ends in ``.py`` is a path.  Such a file defines a module-level `program`; a file of
    the same stem in ``.yaml`` beside it holds the defaults, unless the program names others.

    Raises:
        ProgramError: There is no such program, its module cannot be imported, or what it
            registers is no `Program`.

    >>> load("lgb")
    Traceback (most recent call last):
        ...
    mlo.errors.ProgramError: no program 'lgb' (did you mean 'lbg'?)
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    return _from_entry_point(name)


def origin(entry: EntryPoint) -> str:
    """Return the name and version of the distribution that registers `entry`.

    >>> origin(EntryPoint("lbg", "mlo_lbg.program:program", GROUP))
    'an unnamed distribution'
    """
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def _from_entry_point(name: str) -> Program[Any]:
    programs = registered()
    if name not in programs:
        alike = [n for n in programs if n.startswith(TABLE) == name.startswith(TABLE)]
        hint = nearest(name, alike)
        known = "" if hint else f"; registered are: {', '.join(alike) or 'none'}"
        raise ProgramError(f"no program {name!r}{hint}{known}")
    entry, *others = programs[name]
    if others:
        origins = " and ".join(origin(each) for each in programs[name])
        raise ProgramError(f"program {name!r} is registered by {origins}: uninstall all but one")
    try:
        program = entry.load()
    except (Exception, SystemExit) as error:
        package = entry.value.partition(":")[0].partition(".")[0]
        raise ProgramError(
            f"program {name!r} of {origin(entry)} cannot be loaded: {_cause(error, package)}"
        ) from error
    return _checked(program, f"program {name!r}: {entry.value}")


def _from_file(path: Path) -> Program[Any]:
    if not path.is_file():
        raise ProgramError(f"no program file {str(path)!r}")
    try:
        module = _executed(path)
    except (Exception, SystemExit) as error:
        raise ProgramError(
            f"program file {str(path)!r} cannot be run: {_cause(error, path.stem)}"
        ) from error
    names = [name for name, value in vars(module).items() if isinstance(value, Program)]
    if "program" not in vars(module):
        found = f", only {' and '.join(map(repr, names))}" if names else ""
        raise ProgramError(f"program file {str(path)!r} defines no 'program'{found}")
    program = _checked(module.program, f"program file {str(path)!r}: program")
    beside = path.with_suffix(".yaml")
    if program.defaults is None and beside.is_file():
        return dataclasses.replace(program, defaults=beside)
    return program


def _executed(path: Path) -> ModuleType:
    name = f"mlo_program_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and schemas look their annotations up in the registered module.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _checked(program: object, where: str) -> Program[Any]:
    if isinstance(program, Program):
        return program
    raise ProgramError(f"{where} is of type {type(program).__name__}, expected Program")


def _cause(error: BaseException, own: str) -> str:
    """Return the error in one line with the last place in the module or package `own`."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if own in Path(frame.filename).with_suffix("").parts
    ]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
