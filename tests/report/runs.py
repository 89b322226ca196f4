"""Run directories made up for tests, and a reader of the page that knows what may stand on it."""

import json
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise

from PIL import Image
from rich.console import Console

from mlo.report.command import report
from mlo.report.groups import groups_of
from mlo.report.page import rendered
from mlo.report.run import load
from mlo.report.sections import page_of

GRAPH = """flowchart BT
  subgraph level_0 [level 0]
    p_model["model"]
  end
  subgraph level_1 [level 1]
    p_weights["weights"]
  end
  p_weights -->|read by| p_model
  p_model -->|read by| p_weights
  p_model -.->|responds to| p_weights"""

_OF_TEXT = ("h1", "h2", "h3", "p", "span", "dl", "dt", "dd", "code", "pre", "ul", "li", "a", "wbr")
_OF_PARTS = ("header", "nav", "main", "section", "div", "details", "summary", "figure", "footer")
_OF_TABLES = ("table", "caption", "thead", "tbody", "tr", "th", "td", "figcaption", "img")
_OF_DRAWINGS = ("svg", "g", "path", "defs", "use", "clippath", "rect", "text", "image")
_OF_THE_HEAD = ("html", "head", "meta", "title", "link", "style", "body")
TAGS = {*_OF_TEXT, *_OF_PARTS, *_OF_TABLES, *_OF_DRAWINGS, *_OF_THE_HEAD}
VOID = frozenset(["meta", "link", "img", "wbr"])


def lines(events):
    return "".join(json.dumps(event) + "\n" for event in events)


def scalars(step, scope="", **values):
    return {"kind": "scalars", "scope": scope, "step": step, "values": values}


def events():
    """Return one event or more of each kind, of two seeds."""
    found = []
    for seed in (0, 1):
        scope = f"method/seed-{seed}"
        for step in range(0, 30, 3):
            found.append(
                {
                    **scalars(step, scope),
                    "values": {
                        "loss/model": 1.0 / (1 + step) + seed / 10,
                        "loss/weights": 0.5 + step / 100,
                        "load/0": 0.25 + seed / 4,
                        "load/1": 0.75 - seed / 4,
                        "rate/model": 0.1,
                    },
                }
            )
        found.append(
            {
                "kind": "histogram",
                "scope": scope,
                "step": 3,
                "name": "C",
                "edges": [0.0, 1.0, 2.0],
                "counts": [3, 5],
            }
        )
        found.append({"kind": "epoch", "method": "free", "seed": seed, "round": 1, "error": 0.5})
        found.append({"kind": "epoch", "method": "free", "seed": seed, "round": 2, "error": 0.25})
        found.append({"kind": "done", "method": "free", "seed": seed, "error": 0.2})
    found.append(
        {"kind": "image", "scope": "", "step": 3, "name": "groups", "file": "images/groups-3.png"}
    )
    found.append(
        {
            "kind": "table",
            "scope": "",
            "step": None,
            "name": "comparison",
            "columns": ["method", "error"],
            "rows": [["LBG", 0.05], ["one network", None]],
        }
    )
    return found


def make(directory, *, about=None, result=None, config="seed: 0\nsteps: 10\n", recorded=None):
    """Write a run directory; what is None is as in an ordinary one."""
    (directory / "images").mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(directory / "images" / "groups-3.png")
    ordinary = {
        "schema": 1,
        "state": "finished",
        "program": "demo",
        "started": "2025-03-01T14:00:00+00:00",
        "updated": "2025-03-01T14:01:15+00:00",
        "ended": "2025-03-01T14:01:15+00:00",
        "resumed": 0,
        "versions": {"mlo": "0.1.0", "torch": "2.14.1"},
        "command": ["mlo", "run", "demo", "--set", "steps=10 000"],
        "graph": GRAPH,
    }
    found = {"headline": "error 5.0 %", "error": 0.05} if result is None else result
    (directory / "run.json").write_text(json.dumps(ordinary | (about or {})))
    (directory / "result.json").write_text(json.dumps(found))
    (directory / "config.yaml").write_text(config)
    (directory / "metrics.jsonl").write_text(lines(events() if recorded is None else recorded))
    return directory


def page(*directories, out=None):
    """Return the parsed page about run directories."""
    target = report(directories, out, Console(file=StringIO()))
    return Parsed(target.read_text(encoding="utf-8"))


def text_of(directory):
    """Return the page without writing it: writing waits for the disk."""
    return rendered(page_of(groups_of([load(directory, name="run")])))


class Parsed(HTMLParser):
    """The page as a tree is not needed: tags in order, with the text within each."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.tags = []
        self.texts = []
        self.problems = []
        self._open = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def handle_comment(self, data):
        self.problems.append("a comment")

    def unknown_decl(self, data):
        self.problems.append("a declaration")

    def handle_pi(self, data):
        self.problems.append("a processing instruction")

    def within(self, tag):
        return [text for name, text in self.texts if name == tag]

    @property
    def text(self):
        return "".join(text for name, text in self.texts if name != "style")

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


def check(parsed):
    """Assert all that holds of every page, whatever the runs hold."""
    assert parsed.problems == []
    assert {tag for tag, _ in parsed.tags} <= TAGS
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    for tag, attrs in parsed.tags:
        names = set(attrs)
        assert not [name for name in names if name.startswith("on")], attrs
        assert "style" not in names
        assert not names & {"srcset", "action", "formaction", "background", "xlink:href", "data"}
        for name, value in attrs.items():
            if name in ("href", "src"):
                assert refers_within(tag, value, ids), (tag, value)
            if name in ("clip-path", "aria-labelledby"):
                assert value.removeprefix("url(#").removesuffix(")") in ids
    check_policy(parsed)
    check_accessible(parsed)


def refers_within(tag, value, ids):
    if tag == "link":
        return value == "data:,"
    if tag in ("img", "image"):
        return value.startswith(tuple(f"data:image/{k};base64," for k in ("png", "jpeg", "gif")))
    return value.startswith("#") and value[1:] in ids


def check_policy(parsed):
    [style] = parsed.within("style")
    assert "url(" not in style
    assert "@import" not in style
    digest = b64encode(sha256(style.encode()).digest()).decode()
    [policy] = [m["content"] for m in parsed.all("meta") if "http-equiv" in m]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def check_accessible(parsed):
    headings = [int(tag[1]) for tag, _ in parsed.tags if tag in ("h1", "h2", "h3")]
    assert headings.count(1) == 1
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.all("th"))
    assert all(image.get("alt") is not None for image in parsed.all("img"))
    for drawing in parsed.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (
            drawing.get("role") == "img" and drawing.get("aria-label")
        )
