"""From YAML to a typed configuration: packaged defaults, a file over them, ``--set`` over both."""

import json
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlo import yaml12
from mlo.errors import ConfigError
from mlo.mismatch import describe, shown
from mlo.yaml12 import Plain

_BYTES: Final = 1 << 20
_KEYS: Final = 50
_LENGTH: Final = 60


class Config(BaseModel):
    """Base of schemas: immutable, no unknown key, no conversion of types, finite numbers only.

    A field annotated ``float`` takes an integer too; a boolean is never a number and a string is
    never parsed.  A section is a field whose type is another `Config`; a list is declared as
    ``tuple[T, ...]``.

    >>> class Training(Config):
    ...     steps: int = 10
    ...     rate: float = 0.1
    >>> Training(rate=1)
    Training(steps=10, rate=1.0)
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


C = TypeVar("C", bound=Config)


class _Layer(NamedTuple):
    """One source of values; a later layer wins over an earlier one."""

    source: str
    values: dict[str, Plain]


def load(
    schema: type[C],
    *,
    defaults: Traversable | Path | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> C:
    """Return the `schema` instance of `defaults`, `file` over it and `overrides` over both.

    Mappings are merged key by key; every other value replaces the one below it.

    Args:
        schema: The typed schema; its field defaults fill in what no source gives.
        defaults: YAML packaged with the program.
        file: The user's YAML; it needs to hold only what differs.
        overrides: Texts ``a.b=c``, a dotted key and a value written in YAML, applied in this order.

    Raises:
        ConfigError: A source cannot be read or does not fit the schema.  The message is one line
            with the key, the value received, what was expected, the nearest valid name and the
            source.

    >>> class Training(Config):
    ...     steps: int = 10
    ...     rate: float = 0.1
    >>> load(Training, overrides=["rate=1e-3"])
    Training(steps=10, rate=0.001)
    >>> load(Training, overrides=["step=5"])
    Traceback (most recent call last):
        ...
    mlo.errors.ConfigError: step: unknown key (did you mean 'steps'?), from --set step=5
    """
    layers = [_Layer("the schema", _section_defaults(schema))]
    if defaults is not None:
        layers.append(_file_layer(defaults, f"the packaged {defaults.name}"))
    if file is not None:
        layers.append(_file_layer(file, str(file)))
    layers += [_override_layer(text) for text in overrides]
    values: dict[str, Plain] = {}
    for layer in layers:
        values = _merged(values, layer.values)
    try:
        # In JSON a list fits a tuple and a string a path or an enumeration; all else stays strict.
        return schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        mismatch = describe(schema, values, error)
        source = "" if mismatch.missing else f", from {_source(mismatch.path, layers)}"
        others = f" (and {mismatch.others} more)" if mismatch.others else ""
        raise _error(f"{mismatch.text}{source}{others}") from error


def dump(config: Config) -> str:
    r"""Return YAML text that `load` reads back as an equal configuration.

    >>> class Training(Config):
    ...     steps: int = 10
    ...     rate: float = 0.1
    >>> dump(Training(rate=1e-5))
    'steps: 10\nrate: 1.0e-05\n'
    """
    return yaml12.dump(config.model_dump(mode="json"))


def _section_defaults(schema: type[Config]) -> dict[str, Plain]:
    # A source that gives one key of a section changes that key of the section's default value.
    return {
        name: field.default.model_dump(mode="json")
        for name, field in schema.model_fields.items()
        if isinstance(field.default, Config) and field.annotation is type(field.default)
    }


def _file_layer(path: Traversable | Path, source: str) -> _Layer:
    try:
        with path.open("rb") as stream:
            content = stream.read(_BYTES + 1)
    except OSError as error:
        raise _error(f"cannot read {source}: {error.strerror}") from error
    if len(content) > _BYTES:
        raise _error(f"{source}: expected YAML, got more than {_BYTES} bytes")
    try:
        values = yaml12.parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8 text, got byte 0x{content[error.start]:02x} at {error.start}"
        raise _error(f"{source}: {problem}") from error
    except ConfigError as error:
        raise _error(f"{source}: {error}") from error
    if values is None:
        return _Layer(source, {})
    if not isinstance(values, dict):
        raise _error(f"{source}: expected a mapping at the top, got {shown(values)}")
    return _Layer(source, values)


def _override_layer(text: str) -> _Layer:
    source = f"--set {text if len(text) <= _LENGTH else text[:_LENGTH] + '...'}"
    dotted, equals, written = text.partition("=")
    if not equals:
        raise _error(f"{source}: expected KEY=VALUE, found no '='")
    path = [part.strip() for part in dotted.split(".")]
    if not all(path):
        raise _error(f"{source}: expected KEY=VALUE, got an empty key")
    if len(path) > _KEYS:
        raise _error(f"{source}: nested deeper than {_KEYS} levels")
    try:
        value = yaml12.parse(written)
    except ConfigError as error:
        raise _error(f"{source}: {error}") from error
    for part in reversed(path):
        value = {part: value}
    assert isinstance(value, dict)
    return _Layer(source, value)


def _merged(lower: dict[str, Plain], upper: dict[str, Plain]) -> dict[str, Plain]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        merged[key] = value
    return merged


def _source(path: Sequence[str], layers: Sequence[_Layer]) -> str:
    # The last layer that gives a value at the path, below it, or in place of what is above it.
    for layer in reversed(layers):
        value: Plain = layer.values
        for part in path:
            if isinstance(value, dict):
                if part not in value:
                    break
                value = value[part]
        else:
            return layer.source
    return "the schema"


def _error(text: str) -> ConfigError:
    # Keys and file names come from outside: they may hold line breaks and control sequences.
    return ConfigError(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )
