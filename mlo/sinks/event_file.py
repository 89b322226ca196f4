"""A file that TensorBoard reads."""

import importlib
import os
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from mlo.sinks.appended import append

_NUMBERS: Final = count()
_STRING: Final = 7
"""What a tensor's type is called in these files."""


class EventFile:
    """Appends summaries to a new event file, each of them on its way to the disk at once.

    `torch.utils.tensorboard` writes in a thread, which a forked worker process does not have, which
    prints a traceback of its own when a disk is full, and loses seconds when it is killed. It also
    encodes pictures again.

    Args:
        directory: Where the file is made; TensorBoard shows it as one run.
        purge_step: From this step on, TensorBoard forgets what earlier files of the directory hold.

    Raises:
        ImportError: `tensorboard` is not installed.
        OSError: The file cannot be made.
    """

    def __init__(self, directory: Path, *, purge_step: int | None = None) -> None:
        # Half a second, which no program should pay before it records something.
        self._protos = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        records = importlib.import_module("tensorboard.summary.writer.record_writer")
        directory.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names.
        made = f"{time.time_ns() // 1_000_000:013d}.{os.getpid()}.{next(_NUMBERS)}"
        self._path = directory / f"events.out.tfevents.{made}"
        self._records: Any = records.RecordWriter(self)
        self._add(file_version="brain.Event:2")
        if purge_step is not None:
            log = self._protos.SessionLog(status=self._protos.SessionLog.START)
            self._add(step=purge_step, session_log=log)

    def scalars(self, step: int | None, values: Sequence[tuple[str, float]]) -> None:
        """Append numbers by tag."""
        self._summary(step, [{"tag": tag, "simple_value": value} for tag, value in values])

    def histogram(
        self, step: int | None, tag: str, edges: Sequence[float], counts: Sequence[int]
    ) -> None:
        """Append counts between edges, of which there is one more."""
        pairs = list(zip(counts, edges[:-1], edges[1:], strict=True))
        middles = [(count, low / 2 + high / 2) for count, low, high in pairs]
        proto = self._summaries.HistogramProto(
            min=edges[0],
            max=edges[-1],
            num=sum(counts),
            sum=sum(count * middle for count, middle in middles),
            # A float multiplied by itself becomes infinite where a power is an error.
            sum_squares=sum(count * (middle * middle) for count, middle in middles),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        self._summary(step, [{"tag": tag, "histo": proto}])

    def image(self, step: int | None, tag: str, png: bytes, *, width: int, height: int) -> None:
        """Append a picture."""
        proto = self._summaries.Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=png
        )
        self._summary(step, [{"tag": tag, "image": proto}])

    def text(self, step: int | None, tag: str, markdown: str) -> None:
        """Append a text."""
        plugin = self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        metadata = self._summaries.SummaryMetadata(plugin_data=plugin)
        value = self._summaries.Summary.Value(tag=f"{tag}/text_summary", metadata=metadata)
        value.tensor.dtype = _STRING
        value.tensor.string_val.append(markdown.encode())
        value.tensor.tensor_shape.dim.add(size=1)
        self._add(step=step or 0, summary=self._summaries.Summary(value=[value]))

    def write(self, record: bytes) -> None:
        """Append a record, checksums and all."""
        append(self._path, record)

    def _summary(self, step: int | None, values: Sequence[dict[str, Any]]) -> None:
        summary = self._summaries.Summary
        made = summary(value=[summary.Value(**value) for value in values])
        self._add(step=step or 0, summary=made)

    def _add(self, **fields: Any) -> None:
        event = self._protos.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
