"""YAML 1.2 text to plain values and back.

PyYAML follows YAML 1.1, where ``1e-3`` is a string, ``yes`` a boolean, ``010`` eight and ``1:30``
ninety.  Its scanner and parser are kept here; its reading of scalars is replaced by the core schema
of YAML 1.2, by which a number that Python printed is read as that number.
"""

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import yaml

from mlo.errors import ConfigError

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

_DEPTH: Final = 50
_VALUES: Final = 100_000
_DIGITS: Final = 300
_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = {
    "null": ("null|Null|NULL|~|", ["n", "N", "~", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": ("<<", ["<"]),
}
_PATTERNS: Final = {kind: re.compile(rf"(?:{text})\Z") for kind, (text, _) in _SCALARS.items()}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    by_first: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, (_, firsts) in _SCALARS.items():
        for first in firsts:
            by_first.setdefault(first, []).append((_TAG + kind, _PATTERNS[kind]))
    return by_first


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, _data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Elsewhere PyYAML writes line breaks other than "\n" as they are, and reads them as "\n".
        style = None if data.isprintable() else '"'
        return self.represent_scalar(f"{_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def parse(text: str) -> Plain:
    r"""Return the value of the one YAML document in `text`, ``None`` where there is none.

    Anchors, aliases and merge keys work; the keys of mappings are taken as text.

    Args:
        text: A YAML document without tags other than those of the core schema.

    Returns:
        Nested lists and dictionaries of strings, numbers, booleans and ``None``.

    Raises:
        ConfigError: The text is no YAML, repeats a key, uses a foreign tag, or is nested or
            multiplied by aliases beyond any configuration's need.

    >>> parse("{rate: 1e-3, sizes: [1, 0x10], on: yes}")
    {'rate': 0.001, 'sizes': [1, 16], 'on': 'yes'}
    >>> parse("steps: 1\nsteps: 2")
    Traceback (most recent call last):
        ...
    mlo.errors.ConfigError: line 2: key 'steps' is given twice
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}not YAML: {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"nested deeper than {_DEPTH} levels") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # Escapes beyond Unicode and unprintable characters leave PyYAML without a mark.
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from error
    return None if node is None else _plain(node, _DEPTH, iter(range(_VALUES)))


def dump(value: Plain) -> str:
    r"""Return block-style YAML text that `parse` reads back as an equal value.

    >>> dump({"rate": 1e-05, "name": "1e-05", "none": None})
    "rate: 1.0e-05\nname: '1e-05'\nnone: null\n"
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _plain(node: yaml.Node, depth: int, budget: Iterator[int]) -> Plain:
    # Aliases are expanded as they are met, so the limits end self-reference and multiplication too.
    if depth == 0:
        raise _error(node, f"nested deeper than {_DEPTH} levels")
    if next(budget, None) is None:
        raise _error(node, f"more than {_VALUES} values")
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, kind)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_plain(item, depth - 1, budget) for item in node.value]
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, depth, budget)
    raise _error(node, f"tag {node.tag!r} is not allowed here")


def _scalar(node: yaml.ScalarNode, kind: str) -> Plain:
    text: str = node.value
    if kind in ("str", "merge"):
        return _encodable(node)
    if kind not in _PATTERNS:
        raise _error(node, f"tag {node.tag!r} is not allowed here")
    if not _PATTERNS[kind].match(text):
        raise _error(node, f"{text!r} is not of the type {kind} that its tag says")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        special = text[-3:].lower()
        return float(text.replace(".", "") if special in ("inf", "nan") else text)
    # Converting costs the square of the length, and Python refuses beyond 4,300 digits.
    if len(text) > _DIGITS:
        raise _error(node, f"an integer of {len(text)} digits is too long")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _mapping(node: yaml.MappingNode, depth: int, budget: Iterator[int]) -> dict[str, Plain]:
    merged: dict[str, Plain] = {}
    own: dict[str, Plain] = {}
    for key_node, value_node in node.value:
        value = _plain(value_node, depth - 1, budget)
        if key_node.tag == _TAG + "merge":
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, dict):
                    raise _error(
                        value_node, "a merge key '<<' needs a mapping or a list of mappings"
                    )
                merged = part | merged
            continue
        key = _key(key_node)
        if key in own:
            raise _error(key_node, f"key {key!r} is given twice")
        own[key] = value
    return merged | own


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _error(node, "a key must be a plain word, not a list or a mapping")
    if not node.value:
        raise _error(node, "an empty key")
    return _encodable(node)


def _encodable(node: yaml.ScalarNode) -> str:
    text: str = node.value
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _error(node, f"{text!r} holds half of a surrogate pair, which is no text") from error
    return text


def _error(node: yaml.Node, problem: str) -> ConfigError:
    return ConfigError(f"line {node.start_mark.line + 1}: {problem}")
