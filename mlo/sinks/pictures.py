"""Images as files of the run directory."""

from pathlib import Path

from mlo.atomic import write_bytes
from mlo.events import Event, Image
from mlo.inside import inside


class Pictures:
    """Writes the PNG file of each image, all of it or nothing; a later one of its name replaces it.

    Args:
        directory: The run directory, which no file name leads out of.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, event: Event, /) -> None:
        """Write the file, if the event is an image.

        Raises:
            OSError: It cannot be written.
            ProgramError: A link leads out of the directory.
        """
        if not isinstance(event, Image):
            return
        target = inside(self._directory, event.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, event.png)

    def close(self) -> None:
        """Do nothing: every file is written already."""
