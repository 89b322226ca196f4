"""Run directories from anywhere: whatever they hold, a page comes out, and only as text."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlo.report.wording import clean
from tests.report.runs import GRAPH, Parsed, check, events, lines, make, page, text_of

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title></svg><svg onload=alert(1)>",
    "javascript:alert(1)",
    "]]><!--",
    "--><iframe src=//x>",
    "&lt;script&gt;",
    "{{ 7 * 191 }}{% raw %}",
    "${7*191} $x^2$ $\\frac",
    "\u202egnp.exe\x00\x1b[31m",
    "\ud800",
    "p_x --> p_y",
    "../../etc/passwd",
    "url(http://x) ; } * { background: url(//x)",
]
TEXTS = st.sampled_from(ATTACKS) | st.text(
    st.characters() | st.sampled_from("<>&\"'/=`{}%$\\ \n"), max_size=20
)
NUMBERS = (
    st.floats()
    | st.integers(-5, 5)
    | st.sampled_from([1e308, -1e308, 5e-324, 0.0, -0.0, 1e-300, 10**400])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["inf", "-inf", "nan"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)
SCOPES = st.sampled_from(["", "a", "a/seed-0", "a/seed-1", "seed-2"]) | TEXTS
NAMES = st.sampled_from(["loss", "loss/a", "loss/b", "load/0", "load/1", "load/2"]) | TEXTS
STEPS = st.integers(0, 20) | NUMBERS | st.none()


def event(kind, **fields):
    return st.fixed_dictionaries({"kind": st.just(kind), "scope": SCOPES, "step": STEPS, **fields})


EVENTS = st.one_of(
    event("scalars", values=st.dictionaries(NAMES, NUMBERS, max_size=4)),
    event(
        "histogram",
        name=NAMES,
        edges=st.lists(NUMBERS, min_size=1, max_size=4, unique=True).map(sorted),
        counts=st.lists(NUMBERS, max_size=3),
    ),
    event("image", name=NAMES, file=st.just("images/groups-3.png") | TEXTS),
    event(
        "table",
        name=NAMES,
        columns=st.lists(TEXTS, min_size=2, max_size=2),
        rows=st.lists(st.lists(SCALARS, min_size=2, max_size=2), max_size=3),
    ),
    st.dictionaries(st.sampled_from(["kind", "round", "seed", "scope", "loss"]) | TEXTS, JSON),
)
RECORDED = st.lists(EVENTS, max_size=8)
GRAPHS = TEXTS.map(lambda text: GRAPH.replace('"model"', f'"{text}"')) | TEXTS
ABOUT = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("state", "program", "started", "versions", "command", "error", "schema", "other"), JSON
    )
    | {"graph": GRAPHS},
)


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the drawing out: it takes most of the time."""
    monkeypatch.setattr("mlo.report.plots._plot", lambda *args, **options: None)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make(tmp_path_factory.mktemp("untrusted") / "run")


def write(directory, about, result, recorded, config):
    (directory / "run.json").write_text(json.dumps(about))
    (directory / "result.json").write_text(json.dumps(result))
    (directory / "metrics.jsonl").write_text(lines(recorded))
    (directory / "config.yaml").write_bytes(config.encode("utf-8", "replace"))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(about=ABOUT, result=st.dictionaries(TEXTS, JSON), recorded=RECORDED, config=TEXTS)
def test_whatever_runs_hold_stands_on_the_page_as_text(
    directory, undrawn, about, result, recorded, config
):
    write(directory, about, result, recorded, config)
    check(Parsed(text_of(directory)))


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(recorded=st.lists(EVENTS, min_size=4, max_size=12))
def test_everything_that_is_finite_can_be_drawn(directory, recorded):
    write(directory, {}, {}, recorded, "")
    parsed = Parsed(text_of(directory))
    check(parsed)
    assert "cannot be drawn" not in parsed.text


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_in_every_place_is_only_text(tmp_path, undrawn, attack):
    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()} | {attack: attack}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        keep = isinstance(value, str) and value in ("scalars", "histogram", "image", "table")
        return f"{value}{attack}" if isinstance(value, str) and not keep else value

    recorded = [spoiled(each) for each in events()]
    about = spoiled({"program": "x", "versions": {"torch": "2"}, "command": ["mlo"], "error": "e"})
    graph = GRAPH.replace("model]", f"{attack}]").replace('"weights"', f'"{attack}"')
    run = make(tmp_path / "run", about={**about, "graph": graph}, recorded=recorded)
    (run / "config.yaml").write_text(f"key: {json.dumps(attack)}\n")
    (run / "result.json").write_text(json.dumps({"headline": attack, "a": {attack: 1.0}}))
    parsed = page(run)
    check(parsed)
    assert [text for text in parsed.within("p") if text == clean(attack)]
    # A template within a text would have been worked out.
    assert "1337" not in parsed.text


def test_a_legend_and_a_drawing_escape_their_names(tmp_path):
    attack = '"><script>alert(1)</script>'
    recorded = [
        {"kind": "scalars", "scope": scope, "step": step, "values": {f"m{attack}": step}}
        for scope in (attack, "other")
        for step in range(3)
    ]
    parsed = page(make(tmp_path / "run", recorded=recorded))
    check(parsed)
    assert attack in parsed.within("span")
    assert [svg for svg in parsed.all("svg") if attack in svg.get("aria-label", "")]


def mutated(content, chance):
    """Return bytes with one to four wounds: cut, doubled, overwritten, filled."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(damaged) + 1)
        end = min(len(damaged), at + chance.randint(1, 40))
        wounds = [
            lambda at=at, end=end: damaged.__delitem__(slice(at, end)),
            lambda at=at, end=end: damaged.__setitem__(slice(at, at), damaged[at:end] * 3),
            lambda at=at, end=end: damaged.__setitem__(slice(at, end), chance.randbytes(end - at)),
            lambda at=at: damaged.__delitem__(slice(at, None)),
            lambda at=at: damaged.__setitem__(slice(at, at), b'[{"":' * chance.randint(1, 30)),
            lambda at=at: damaged.__setitem__(slice(at, at), b"9" * chance.randint(1, 5000)),
        ]
        chance.choice(wounds)()
    return bytes(damaged)


def test_a_thousand_damaged_directories_become_pages(tmp_path, undrawn):
    chance = random.Random(0)
    # One event of each kind: more of them cost time and show nothing else.
    kinds = {(each["kind"], len(each.get("values", ()))): each for each in events()}
    run = make(tmp_path / "run", recorded=list(kinds.values()))
    names = ("run.json", "result.json", "config.yaml", "metrics.jsonl", "images/groups-3.png")
    whole = {name: (run / name).read_bytes() for name in names}
    noted = 0
    for case in range(1000):
        hit = chance.sample(names, chance.randint(1, 3))
        for name in names:
            (run / name).write_bytes(mutated(whole[name], chance) if name in hit else whole[name])
        text = text_of(run)
        noted += "Missing or damaged" in text
        if case % 5 == 0:
            assert Parsed(text).problems == []
    assert noted > 500


def test_deep_nesting_is_a_line_and_no_crash(tmp_path):
    run = make(tmp_path / "run", recorded=[])
    deep = "[" * 100_000 + "]" * 100_000
    (run / "metrics.jsonl").write_text(f"{deep}\n")
    (run / "result.json").write_text(deep)
    (run / "config.yaml").write_text("[" * 1000)
    parsed = page(run)
    check(parsed)
    assert "result.json: not JSON" in parsed.within("li")


def test_a_line_beyond_all_bounds_is_passed_over_and_the_next_one_read(tmp_path):
    run = make(tmp_path / "run", recorded=[])
    with (run / "metrics.jsonl").open("w") as stream:
        stream.write('{"kind": "scalars", "pad": "' + "x" * (5 << 20) + '"}\n')
        stream.write(lines([{"kind": "scalars", "scope": "", "step": 1, "values": {"loss": 1}}]))
    parsed = page(run)
    assert "metrics.jsonl: a line longer than 4 MiB (line 1)" in parsed.within("li")
    assert "loss" in parsed.within("th")


@pytest.mark.parametrize("file", ["../secret.png", "/etc/hostname", "images", "link.png", "a\x00b"])
def test_no_image_comes_from_elsewhere(tmp_path, file):
    recorded = [{"kind": "image", "scope": "", "step": 0, "name": "x", "file": file}]
    run = make(tmp_path / "run", recorded=recorded)
    (run / "images" / "groups-3.png").rename(tmp_path / "secret.png")
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    parsed = page(run)
    check(parsed)
    assert parsed.all("img") == []


def test_an_image_that_is_a_program_is_not_embedded(tmp_path):
    recorded = [{"kind": "image", "scope": "", "step": 0, "name": "x", "file": "x.png"}]
    run = make(tmp_path / "run", recorded=recorded)
    (run / "x.png").write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')
    parsed = page(run)
    check(parsed)
    assert parsed.all("img") == []
    assert "x.png: not a PNG, JPEG, GIF or WebP image" in parsed.within("li")
