"""Configurations: what is read, what is refused, and that every refusal is one line."""

import enum
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from mlo.config import Config, dump, load
from mlo.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Data(Config):
    variant: Literal["turned", "turned_exposed", "plain"] = "plain"
    fraction: float = Field(default=0.5, gt=0, le=1)
    path: Path | None = None


class Layer(Config):
    width: int = Field(default=8, ge=1)
    colour: Colour = Colour.RED


class Settings(Config):
    seeds: int = Field(default=5, ge=1)
    rate: float | Literal["auto"] = 0.1
    decay: float = 0.0
    name: str = "run"
    verbose: bool = False
    sizes: tuple[int, ...] = (1, 2)
    data: Data = Data(fraction=0.25)
    layers: tuple[Layer, ...] = ()
    extra: dict[str, float] = Field(default_factory=dict)
    limit: int | None = None

    @field_validator("name")
    @classmethod
    def _no_slash(cls, name: str) -> str:
        if "/" in name:
            raise ValueError("expected a name without a slash")
        return name

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if self.decay > 1 and self.verbose:
            raise ValueError("decay above 1 cannot be verbose")
        return self


class Required(Config):
    steps: int
    rate: float


def write(directory: Path, content: str | bytes, name: str = "user.yaml") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(**sources: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Settings, **sources)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def test_fields_fill_what_no_source_gives() -> None:
    assert load(Settings) == Settings()


def test_file_is_merged_over_defaults_and_overrides_over_both(tmp_path: Path) -> None:
    defaults = write(tmp_path, "seeds: 1\nrate: 1\ndata: {variant: turned, fraction: 1}", "d.yaml")
    file = write(tmp_path, "rate: 2\ndata: {variant: turned_exposed}")
    settings = load(
        Settings, defaults=defaults, file=file, overrides=["data.path=x", "rate=3", "rate=4"]
    )
    assert settings.seeds == 1
    assert settings.rate == 4.0
    assert settings.data == Data(variant="turned_exposed", fraction=1.0, path=Path("x"))


def test_one_key_of_a_section_leaves_the_sections_own_default() -> None:
    assert load(Settings, overrides=["data.variant=turned"]).data.fraction == 0.25


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5e3", 500.0),
        ("-1.5", -1.5),
        ("+2", 2.0),
        ("5.", 5.0),
        ("0x10", 16.0),
        ("0o10", 8.0),
        ("010", 10.0),
        ("!!float 3", 3.0),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: float) -> None:
    assert load(Settings, overrides=[f"decay={text}"]).decay == value


@pytest.mark.parametrize("text", ["yes", "on", "1:30", "2024-01-02", "1_000", "1e3x", "0b1", "="])
def test_words_of_yaml_1_1_stay_words(text: str) -> None:
    assert load(Settings, overrides=[f"name={text}"]).name == text


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "layers:\n- &a {width: 3, colour: blue}\n- *a\n- {<<: *a, width: 4}\n"
        "- {<<: [{width: 5}, *a]}\n",
    )
    layers = load(Settings, file=file).layers
    assert [layer.width for layer in layers] == [3, 3, 4, 5]
    assert {layer.colour for layer in layers} == {Colour.BLUE}


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "\ufeffseeds: 5"])
def test_files_that_say_nothing_new(tmp_path: Path, content: str) -> None:
    assert load(Settings, file=write(tmp_path, content)) == Settings()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "seed: unknown key (did you mean 'seeds'?), from --set seed=3"),
        (
            "data.varient=plain",
            "data.varient: unknown key (did you mean 'variant'?), from --set data.varient=plain",
        ),
        ("dta.variant=plain", "dta: unknown key (did you mean 'data'?)"),
        ("data.q=1", "data.q: unknown key, expected one of variant, fraction, path, from"),
        ("seeds=0", "seeds: expected a value >= 1, got 0, from --set seeds=0"),
        ("seeds=two", "seeds: expected an integer, got 'two', from"),
        ("seeds=1.0", "seeds: expected an integer, got 1.0, from"),
        ("seeds=true", "seeds: expected an integer, got true, from"),
        ("seeds='3'", "seeds: expected an integer, got '3', from"),
        ("seeds=", "seeds: expected an integer, got null, from"),
        ("seeds=[1]", "seeds: expected an integer, got [1], from"),
        ("seeds.x=1", "seeds: expected an integer, got {'x': 1}, from --set seeds.x=1"),
        ("seeds=.inf", "seeds: expected a"),
        ("decay=.nan", "decay: expected a finite number, got nan, from"),
        ("decay=-.inf", "decay: expected a finite number, got -inf, from"),
        ("decay=1e999", "decay: expected a finite number, got inf, from"),
        ("decay=1" + "0" * 300, "an integer of 301 digits is too long"),
        ("decay=true", "decay: expected a number, got true, from"),
        ("rate=atuo", "rate: expected a number or 'auto', got 'atuo' (did you mean"),
        ("name=3", "name: expected a string, got 3, from"),
        ("name=a/b", "name: expected a name without a slash, got 'a/b', from --set name=a/b"),
        ("verbose=yes", "verbose: expected true or false, got 'yes', from"),
        ("verbose=1", "verbose: expected true or false, got 1, from"),
        ("sizes=3", "sizes: expected a list, got 3, from"),
        ("sizes=[1, a]", "sizes.1: expected an integer, got 'a', from --set sizes=[1, a]"),
        ("data=3", "data: expected a mapping, got 3, from --set data=3"),
        ("data=", "data: expected a mapping, got null, from"),
        ("data.variant=turnd", "data.variant: expected 'turned', 'turned_exposed' or 'plain', got"),
        ("data.variant=turnd", "got 'turnd' (did you mean 'turned'?), from"),
        ("layers=[{widht: 3}]", "layers.0.widht: unknown key (did you mean 'width'?), from"),
        ("layers=[{colour: rde}]", "layers.0.colour: expected 'red' or 'blue', got 'rde' (did"),
        ("extra.x=word", "extra.x: expected a number, got 'word', from"),
        ("limit=x", "limit: expected an integer, got 'x', from"),
        ("seeds", "--set seeds: expected KEY=VALUE, found no '='"),
        ("=3", "--set =3: expected KEY=VALUE, got an empty key"),
        ("a..b=3", "expected KEY=VALUE, got an empty key"),
        (".seeds=3", "expected KEY=VALUE, got an empty key"),
        ("", "expected KEY=VALUE, found no '='"),
        ("seeds=[", "not YAML"),
        ("seeds={a: 1, a: 2}", "line 1: key 'a' is given twice"),
        ("seeds=!!python/object/apply:os.getcwd []", "is not allowed here"),
        ("seeds=!!int x", "'x' is not of the type int that its tag says"),
        ("seeds=*nothing", "undefined alias"),
        (".".join("a" * 1000) + "=1", "nested deeper than 50 levels"),
        ("name=" + "x" * 10_000 + "/", "got 'xxxx"),
        ("na\nme=1", r"na\nme: unknown key"),
        ("\x1b[31m=1", r"\x1b[31m: unknown key"),
        ("name=\ud800", "not YAML"),
        ('name="\\ud800"', "surrogate"),
        ('name="\\Uffffffff"', "not YAML"),
    ],
)
def test_override_is_refused_in_one_line(override: str, message: str) -> None:
    assert message in refusal(overrides=[override])


def test_validator_of_the_whole_names_the_whole() -> None:
    message = refusal(overrides=["decay=2", "verbose=true"])
    assert message.startswith("the configuration: decay above 1 cannot be verbose, got {")


def test_several_mistakes_are_counted_and_a_misspelling_goes_first() -> None:
    assert refusal(overrides=["seeds=0", "nmae=x"]) == (
        "nmae: unknown key (did you mean 'name'?), from --set nmae=x (and 1 more)"
    )


def test_missing_key() -> None:
    with pytest.raises(ConfigError, match=r"^rate: required, but not given$"):
        load(Required, overrides=["steps=3"])


def test_misspelt_required_key_is_reported_as_misspelt() -> None:
    with pytest.raises(ConfigError, match=r"^rat: unknown key \(did you mean 'rate'\?\)"):
        load(Required, overrides=["steps=3", "rat=1"])


def test_the_source_is_the_one_that_gave_the_value(tmp_path: Path) -> None:
    defaults = write(tmp_path, "decay: bad", "default.yaml")
    file = write(tmp_path, "seeds: bad")
    good = write(tmp_path, "{}", "good.yaml")
    assert refusal(defaults=defaults).endswith("from the packaged default.yaml")
    assert refusal(defaults=good, file=file).endswith(f"from {file}")
    assert refusal(file=file, overrides=["seeds=0"]).endswith("from --set seeds=0")
    assert refusal(file=file, overrides=["decay=1"]).endswith(f"from {file}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n- 2", "expected a mapping at the top, got [1, 2]"),
        ("word", "expected a mapping at the top, got 'word'"),
        ("seeds: 1\nseeds: 2", "line 2: key 'seeds' is given twice"),
        ("data: {path: a, path: b}", "line 1: key 'path' is given twice"),
        ("? [a]\n: 1", "a key must be a plain word"),
        ('"": 1', "an empty key"),
        ("<<: 3", "a merge key '<<' needs a mapping"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: [1, 2", "line 1, column 9: not YAML"),
        ("a: b: c", "line 1, column 5: not YAML"),
        ("\tseeds: 1", "not YAML"),
        (b"name: \xff\xfe", "expected UTF-8 text, got byte 0xff at 6"),
        ("seeds: 3".encode("utf-16"), "expected UTF-8 text"),
        (b"\x00\x01\x02", "not YAML"),
        (b"\x89PNG\r\n\x1a\n", "expected UTF-8 text, got byte 0x89 at 0"),
        ("a: &x [*x]", "nested deeper"),
        ("a: &x {b: *x}", "nested deeper"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("[" * 100_000, "nested deeper than 50 levels"),
        ("a: " + "{a: " * 100_000, "nested deeper than 50 levels"),
        ("- " * 5_000, "nested deeper than 50 levels"),
        ("x: " + "a" * (1 << 20), "expected YAML, got more than 1048576 bytes"),
        ("%YAML 3.0\n---\na: 1", "not YAML"),
        ("a: !unknown 3", "tag '!unknown' is not allowed here"),
        ("a: !!set {b, c}", "is not allowed here"),
        ("a: !!binary aGk=", "is not allowed here"),
        ("a: !!seq {b: 1}", "is not allowed here"),
    ],
)
def test_file_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = write(tmp_path, content)
    text = refusal(file=file)
    assert text.startswith(f"{file}: ")
    assert message in text


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    file = write(tmp_path, "\n".join(["a0: &a0 [x]", *rows]))
    assert "more than 100000 values" in refusal(file=file)


@pytest.mark.parametrize("name", ["absent.yaml", ".", "a\nb.yaml"])
def test_unreadable_file(tmp_path: Path, name: str) -> None:
    assert refusal(file=tmp_path / name).startswith("cannot read ")


def test_configuration_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seeds = 3


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
settings = st.builds(
    Settings,
    seeds=st.integers(1, 2**63),
    rate=numbers | st.just("auto"),
    decay=st.floats(0, 1) | st.integers(-(10**20), 1),
    name=texts.filter(lambda text: "/" not in text),
    verbose=st.booleans(),
    sizes=st.lists(st.integers()).map(tuple),
    data=st.builds(
        Data,
        variant=st.sampled_from(["turned", "turned_exposed", "plain"]),
        fraction=st.floats(0, 1, exclude_min=True),
        path=st.none() | st.just(Path("a/b")),
    ),
    layers=st.lists(st.builds(Layer, colour=st.sampled_from(Colour)), max_size=3).map(tuple),
    extra=st.dictionaries(texts.filter(bool), numbers, max_size=3),
    limit=st.none() | st.integers(),
)


@given(settings)
@example(Settings(name="\x85\u2028\n", extra={"\x85": 0.0}))
def test_dump_loads_back_to_an_equal_configuration(
    tmp_path_factory: pytest.TempPathFactory, config: Settings
) -> None:
    file = write(tmp_path_factory.mktemp("dump"), dump(config))
    again = load(Settings, file=file)
    assert again == config
    assert math.copysign(1, again.decay) == math.copysign(1, config.decay)


scraps = st.sampled_from(
    [*"[]{}:-,&*!|>'\"%@`#?\\\n\t ~<=.", "<<", "1e-3", "seeds", "data", "rate: ", "- ", "\n  "]
)
documents = st.lists(scraps | texts, max_size=30).map("".join) | texts


def check_any(**sources: Any) -> None:
    try:
        config = load(Settings, **sources)
    except ConfigError:
        refusal(**sources)
    else:
        assert Settings.model_validate(config.model_dump()) == config


MANY = hypothesis_settings(max_examples=2500)


@MANY
@given(documents)
def test_any_text_is_a_configuration_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    check_any(file=write(tmp_path_factory.mktemp("fuzz"), text))


@MANY
@given(st.binary())
def test_any_bytes_are_a_configuration_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check_any(file=write(tmp_path_factory.mktemp("fuzz"), content))


fields = st.sampled_from([*Settings.model_fields, "data.variant", "data.path", "layers.0", "x"])


@MANY
@given(st.lists(st.text() | st.tuples(fields, documents).map("=".join), max_size=3))
def test_any_override_is_a_configuration_or_one_line(overrides: list[str]) -> None:
    check_any(overrides=overrides)
