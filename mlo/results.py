"""Results that outlive their run directory."""

from pathlib import Path

from mlo import atomic
from mlo.errors import RunError


def keep(directory: Path, name: str, results: Path) -> None:
    """Copy `result.json` and `table.md` of a run to `NAME.json` and `NAME.md`.

    Args:
        directory: Of a finished run that made a table.
        name: Of the table.
        results: Where they are kept; made if it is not there.

    Raises:
        RunError: A file is missing or cannot be written.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        for source, suffix in (("result.json", "json"), ("table.md", "md")):
            text = (directory / source).read_text(encoding="utf-8")
            atomic.write_text(results / f"{name}.{suffix}", text)
    except OSError as error:
        raise RunError(f"cannot keep the results in {str(results)!r}: {error}") from error
