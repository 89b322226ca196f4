"""A place for files that nobody keeps."""

import shutil
import tempfile
import weakref
from pathlib import Path


class Elsewhere:
    """A temporary directory, made when it is asked for and removed when nothing refers to this.

    >>> place = Elsewhere()
    >>> place.directory() == place.directory(), place.directory().is_dir()
    (True, True)
    """

    def __init__(self) -> None:
        self._directory: Path | None = None

    def directory(self) -> Path:
        """Return the directory."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="mlo-rank-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory
