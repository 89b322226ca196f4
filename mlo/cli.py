"""The command `mlo`: programs are listed, shown, run and checked; runs are listed, reported."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from mlo import config, registry, running
from mlo.bench.command import bench, listing
from mlo.errors import ConfigError, MloError, ProgramError
from mlo.interrupts import Interrupted
from mlo.parallel import launch as parallel
from mlo.parallel.failure import speaks
from mlo.program import Program
from mlo.report.command import report
from mlo.results import keep
from mlo.runs import listed
from mlo.testing import command as checking

_LOG_WIDTH: Final = 160

app = typer.Typer(
    help="Declare, run and inspect multilevel programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Name = Annotated[
    str, typer.Argument(metavar="PROGRAM", help="A registered name, or the path of a .py file.")
]
_File = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML that is merged over the defaults."),
]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value, as in data.seed=1; repeatable."),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="New directory for the results [runs/PROGRAM-DATE-TIME]."
    ),
]


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 a wrong command or configuration."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlo {version('mlo-framework')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


@app.command("list")
def _list() -> None:
    """List the registered programs and the distributions that they come from."""
    known = registry.registered()
    # Tables have a list of their own: `mlo table`.
    programs = {n: entries for n, entries in known.items() if not n.startswith(registry.TABLE)}
    if not programs:
        typer.echo("no programs are registered", err=True)
    width = max(map(len, programs), default=0)
    for name, entries in programs.items():
        typer.echo(f"{name:{width}}  {registry.origin(entries[0])} ({entries[0].value})")
        for other in entries[1:]:
            problem = f"program {name!r} is registered by {registry.origin(other)} too"
            typer.echo(f"mlo: warning: {problem} ({other.value})", err=True)


@app.command("show")
def _show(name: _Name, file: _File = None, overrides: _Overrides = None) -> None:
    """Print a program's resolved configuration and its graph, without running it."""
    with _reporting():
        program, settings = _resolved(name, file, overrides)
        graph = program.graph(settings)
        typer.echo(f"{name}: {program.summary}\n\n{config.dump(settings)}")
        typer.echo(f"{graph.explain()}\n\n{graph.draw()}")


@app.command("run")
def _run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="PROGRAM",
            help="A registered name, or the path of a .py file.",
            show_default=False,
        ),
    ] = None,
    file: _File = None,
    overrides: _Overrides = None,
    out: _Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with the run in this directory, or from this checkpoint of it.",
        ),
    ] = None,
) -> None:
    """Run a program; write its configuration, metrics and results to a new directory."""
    with _reporting(), parallel.joined() as ranks:
        if resume is not None:
            given = {"--config": file, "--set": overrides, "--out": out}
            if unfit := [option for option, value in given.items() if value]:
                raise ConfigError(f"--resume keeps the configuration of the run, got {unfit[0]}")
            running.resume(resume, name, console=_console(), ranks=ranks)
            return
        if name is None:
            raise ConfigError("run: expected the name of a program, or --resume RUN")
        program, settings = _resolved(name, file, overrides)
        directory = out or _new_directory(Path(name).stem)
        if ranks is not None:
            # The clocks of two machines need not agree on a name.
            directory = Path(ranks.gathered(str(directory))[0])
        running.begin(name, program, settings, directory, console=_console(), ranks=ranks)


@app.command("table")
def _table(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which table [list them].", show_default=False),
    ] = None,
    file: _File = None,
    overrides: _Overrides = None,
    out: _Out = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="DIR", help="Also keep NAME.json and NAME.md there."),
    ] = None,
) -> None:
    """Make one table of results; go on with an interrupted one by `mlo run --resume`."""
    with _reporting(), parallel.joined() as ranks:
        if name is None:
            typer.echo("\n".join(registry.tables()) or "no tables are registered")
            return
        program, settings = _resolved(f"{registry.TABLE}{name}", file, overrides)
        directory = out or _new_directory(f"table-{name}")
        if ranks is not None:
            directory = Path(ranks.gathered(str(directory))[0])
        running.begin(
            f"{registry.TABLE}{name}",
            program,
            settings,
            directory,
            console=_console(),
            ranks=ranks,
        )
        if results is not None and (ranks is None or ranks.rank == 0):
            keep(directory, name, results)


@app.command("runs")
def _runs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where runs are.")] = Path(
        "runs"
    ),
) -> None:
    """List runs: how each stands, and its result."""
    with _reporting():
        listed(directory, _console())


@app.command("report")
def _report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page [RUN/report.html]."),
    ] = None,
) -> None:
    """Write one HTML page about runs: configuration, curves, tables, comparisons."""
    with _reporting():
        report(directories, out, _console())


@app.command("check")
def _check(
    name: _Name,
    file: _File = None,
    overrides: _Overrides = None,
    problems: Annotated[
        list[str] | None,
        typer.Option(
            "--problem", metavar="NAME", help="Whose hypergradient [every one]; repeatable."
        ),
    ] = None,
    directions: Annotated[int, typer.Option(help="Random directions in each comparison.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the directions.")] = 0,
    tolerance: Annotated[float, typer.Option(help="Relative error that passes.")] = 1e-3,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail too.")] = False,
) -> None:
    """Compare a program's hypergradients with differences of its solved problems."""
    with _reporting():
        program, settings = _resolved(name, file, overrides)
        passed = checking.check(
            program.graph(settings),
            problems or (),
            directions=directions,
            seed=seed,
            tolerance=tolerance,
            strict=strict,
            console=_console(),
        )
    if not passed:
        raise typer.Exit(1)


@app.command("bench")
def _bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAMES]...", help="Benchmarks to run [all].", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes; its timings mean nothing.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where NAME.json is written, over the last")
    ] = Path("benchmarks", "results"),
    device: Annotated[str, typer.Option("--device", help="As torch calls it, or 'auto'.")] = "auto",
    show: Annotated[bool, typer.Option("--list", help="List the benchmarks and exit.")] = False,
) -> None:
    """Measure mlo beside hand-written loops and other libraries; one table and one JSON each."""
    with _reporting():
        if show:
            typer.echo(listing())
            return
        bench(names or (), quick=quick, out=out, device=device, console=_console())


def _resolved(
    name: str, file: Path | None, overrides: list[str] | None
) -> tuple[Program[Any], config.Config]:
    program = registry.load(name)
    settings = config.load(
        program.config, defaults=program.defaults, file=file, overrides=overrides or ()
    )
    return program, settings


def _new_directory(stem: str) -> Path:
    base = Path("runs", f"{stem}-{datetime.now():%Y%m%d-%H%M%S}")
    numbered = (base.with_name(f"{base.name}-{number}") for number in count(2))
    return next(path for path in chain([base], numbered) if not path.exists())


def _console() -> Console:
    # In a log, tables would otherwise be cut to the 80 columns of an imagined terminal.
    in_log = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return _Console(width=_LOG_WIDTH if in_log else None)


class _Console(Console):
    """A console whose reader may go away, as ``head`` does: training goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Say nothing more, where rich would end the process."""
        self.quiet = True
        # What is still in the buffer would be written, and fail, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _reporting() -> Iterator[None]:
    """Turn users' mistakes and Ctrl-C into one line and an exit code; let other errors through."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("mlo: interrupted", err=True)
        # As shells count: 130 for Ctrl-C, 143 for SIGTERM.
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        raise typer.Exit(128 + number) from error
    except MloError as error:
        if speaks(error):
            typer.echo(f"mlo: error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError | ProgramError) else 1) from error
