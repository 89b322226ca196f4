"""What is wrong with a configuration, said in one line, from the errors of its schema."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mlo.errors import nearest
from mlo.yaml12 import Plain

_LENGTH: Final = 60
_EXPECTED: Final = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a mapping",
    "none_required": "null",
    "string_type": "a string",
    "tuple_type": "a list",
}
_BOUNDS: Final = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}
# A misspelt key also leaves its right name missing, and the misspelling is what the user can see.
_ORDER: Final = {"extra_forbidden": 0, "missing": 2}


class Mismatch(NamedTuple):
    """One key at which values do not fit their schema.

    Attributes:
        path: The keys that lead to it.
        text: The dotted key, the value, what was expected and the nearest valid name.
        missing: Whether no value was given at all.
        others: How many further keys do not fit.
    """

    path: tuple[str, ...]
    text: str
    missing: bool
    others: int


def describe(
    schema: type[BaseModel], values: Mapping[str, Plain], error: ValidationError
) -> Mismatch:
    """Return the most telling of the mismatches that `error` reports for `values` under `schema`.

    >>> class Training(BaseModel):
    ...     steps: int = 1
    >>> try:
    ...     Training.model_validate_json('{"steps": "many"}', strict=True)
    ... except ValidationError as error:
    ...     describe(Training, {"steps": "many"}, error).text
    "steps: expected an integer, got 'many'"
    """
    details = error.errors(include_url=False)
    details.sort(key=lambda detail: _ORDER.get(detail["type"], 1))
    paths = [_path(detail, values) for detail in details]
    path = paths[0]
    # The members of a union complain one by one about the same value.
    same = [detail for detail, other in zip(details, paths, strict=True) if other == path]
    key = ".".join(path) or "the configuration"
    problem = _problem(schema, _value(path, values), path, same)
    missing = same[0]["type"] == "missing"
    return Mismatch(path, f"{key}: {problem}", missing, len(set(paths)) - 1)


def shown(value: object) -> str:
    """Return `value` in the words of YAML, cut to a length that fits a line.

    >>> [shown(value) for value in (None, True, 0.001, "yes")]
    ['null', 'true', '0.001', "'yes'"]
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


def _problem(
    schema: type[BaseModel], value: Plain, path: tuple[str, ...], details: Sequence[ErrorDetails]
) -> str:
    kind = details[0]["type"]
    if kind == "missing":
        return "required, but not given"
    if kind == "extra_forbidden":
        valid = _field_names(schema, path[:-1])
        near = nearest(path[-1], valid)
        return f"unknown key{near}" if near else f"unknown key, expected one of {', '.join(valid)}"
    first, *others = dict.fromkeys(_expected(detail) for detail in details)
    expected = " or ".join([first, *(other.removeprefix("expected ") for other in others)])
    choices = [choice for detail in details for choice in _choices(detail)]
    near = nearest(value, choices) if isinstance(value, str) else ""
    return f"{expected}, got {shown(value)}{near}"


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in ("value_error", "assertion_error"):
        return str(detail["ctx"]["error"])
    if detail["type"] in _BOUNDS:
        sign, bound = _BOUNDS[detail["type"]]
        return f"expected a value {sign} {detail['ctx'][bound]}"
    if detail["type"] in _EXPECTED:
        return f"expected {_EXPECTED[detail['type']]}"
    subject, should, rest = detail["msg"].partition(" should ")
    if not should:
        return subject
    return (
        f"expected {rest.removeprefix('be ')}" if rest.startswith("be ") else f"expected to {rest}"
    )


def _choices(detail: ErrorDetails) -> list[str]:
    expected = detail.get("ctx", {}).get("expected", "")
    return re.findall(r"'([^']*)'", expected)


def _path(detail: ErrorDetails, values: Mapping[str, Plain]) -> tuple[str, ...]:
    # Between the keys, pydantic also names the union member that it tried.
    path: list[str] = []
    value: Plain = dict(values)
    for part in detail["loc"]:
        if isinstance(value, dict) and str(part) in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        elif detail["type"] != "missing" or part is not detail["loc"][-1]:
            continue
        path.append(str(part))
    return tuple(path)


def _value(path: Sequence[str], values: Mapping[str, Plain]) -> Plain:
    value: Plain = dict(values)
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list):
            value = value[int(part)]
    return value


def _field_names(schema: type[BaseModel], path: Sequence[str]) -> list[str]:
    sections = [schema]
    for part in path:
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        # An index or a key of a plain mapping leads to no other section than its container did.
        sections = [s for field in fields for s in _sections(field.annotation)] or sections
    return [name for section in sections for name in section.model_fields]


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
