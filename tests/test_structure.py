"""Rules about the code itself: small files, imports that only go down, documented names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 400
PACKAGES = [ROOT / "mlo", *sorted(ROOT.glob("plugins/*/mlo_*"))]
MODULES = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]
CORE = [path for path in MODULES if path.is_relative_to(ROOT / "mlo")]


def name_of(path):
    """Return the dotted name of a module; a package is named without ``__init__``."""
    package = next(p for p in PACKAGES if path.is_relative_to(p))
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, known):
    """Return the modules that a module imports, those named in `known` as precisely as can be."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # ``from mlo import tree`` imports mlo.tree; ``from mlo.tree import norm`` too.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inner}
    return found


def circle_in(graph):
    """Return a circle of names, or an empty list."""
    done = set()

    def visit(name, walk):
        if name in walk:
            return [*walk[walk.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        for other in sorted(graph[name]):
            if other in graph and (circle := visit(other, [*walk, name])):
                return circle
        return []

    return next((circle for name in graph if (circle := visit(name, []))), [])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_too_long(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_modules_are_found():
    assert {"mlo", "mlo.engine", "mlo.inverse.cg", "mlo.testing.quadratic"} <= set(
        map(name_of, MODULES)
    )


def test_imports_form_no_circle():
    names = {name_of(path) for path in MODULES}
    graph = {name_of(path): imports_of(path, names) for path in MODULES}
    assert circle_in(graph) == []


def test_a_circle_would_be_found():
    assert circle_in({"a": {"b"}, "b": {"c", "torch"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_no_plugin(path):
    imported = {name.split(".")[0] for name in imports_of(path, set())}
    assert not [name for name in imported if name.startswith("mlo_")]


def public_definitions(tree):
    """Yield public functions and classes of a module, and public methods of those classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_is_documented(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py" or tree.body:
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    missing = [name for name, node in public_definitions(tree) if not ast.get_docstring(node)]
    assert missing == []
