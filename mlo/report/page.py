"""The page as data, and its text: one HTML file that loads nothing and runs nothing."""

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from mlo.report.grids import Grid
from mlo.report.legend import Entry
from mlo.report.pictures import Picture
from mlo.report.wording import clean
from mlo.run_directory import State


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something known of a run."""

    name: str
    text: str
    is_code: bool = False
    is_long: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing with its heading, legend and what its reader has to know."""

    title: str
    svg: Markup
    legend: tuple[Entry, ...]
    remark: str


@dataclass(frozen=True, kw_only=True)
class GraphView:
    """The graph of a program: drawn, or as the text that could not be drawn."""

    caption: str
    svg: Markup | None
    sentences: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class TextView:
    """A text that can be folded away."""

    title: str
    content: str
    is_open: bool


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; what is empty does not show.

    Attributes:
        id: Where links lead.
        title: Its heading.
        lead: How to read it.
        most_open: Rows beyond which a table is folded.
        grids: Tables.
        plots: Drawings.
        pictures: Images.
        graphs: Graphs of programs.
        texts: Texts that can be folded away.
    """

    id: str
    title: str
    lead: str = ""
    most_open: int = 60
    grids: tuple[Grid, ...] = ()
    plots: tuple[Plot, ...] = ()
    pictures: tuple[Picture, ...] = ()
    graphs: tuple[GraphView, ...] = ()
    texts: tuple[TextView, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing in it."""
        return not (self.grids or self.plots or self.pictures or self.graphs or self.texts)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that stands on the page."""

    title: str
    kicker: str
    state: str
    headline: str
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def state_class(self) -> str:
        """The state as a class: nothing else than a state can become one."""
        return self.state if self.state in list(State) else ""


def rendered(page: Page) -> str:
    """Return the page as HTML.

    All text is escaped. The page's policy allows its own style sheet, by its hash, and embedded
    images; no script, no other style, no request.
    """
    style = _text("page.css")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        page=page,
        policy=policy,
        style=Markup(style),  # noqa: S704 - the package's own
        version=_version(),
    )


@cache
def _version() -> str:
    return version("mlo-framework")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_printable)
    environment.filters["breakable"] = breakable
    return environment.from_string(_text("page.html.j2"))


@cache
def _text(name: str) -> str:
    return (files("mlo.report") / name).read_text(encoding="utf-8").strip()


def breakable(text: str) -> Markup:
    """Return escaped text that may be broken where the parts of a name meet.

    >>> str(breakable("<a>/b_c"))
    '&lt;a&gt;/<wbr>b_<wbr>c'
    """
    # No escape contains one of these characters.
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(clean(text)))))  # noqa: S704


def _printable(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return clean(value)
