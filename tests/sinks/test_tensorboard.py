import struct
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mlo.errors import ProgramError
from mlo.events import histogram_of, image_of, line_of, scalars_of, table_of
from mlo.sinks.tensorboard import TensorBoard

EVERYTHING = {"scalars": 0, "tensors": 0, "histograms": 0, "images": 0, "compressedHistograms": 0}


def read(directory):
    """Return what TensorBoard reads of one of its runs."""
    found = EventAccumulator(str(directory), size_guidance=EVERYTHING)
    found.Reload()
    return found


def scalars(directory, tag):
    return [(event.step, event.value) for event in read(directory).Scalars(tag)]


def test_scopes_are_runs_and_names_are_tags(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write(scalars_of("", 1, {"loss/model": 0.5, "loss/weights": 2}))
    sink.write(scalars_of("lbg/seed-0", 1, {"loss/model": 0.25}))
    sink.close()
    assert scalars(tmp_path / "tensorboard", "loss/model") == [(1, 0.5)]
    assert scalars(tmp_path / "tensorboard", "loss/weights") == [(1, 2.0)]
    assert scalars(tmp_path / "tensorboard/lbg/seed-0", "loss/model") == [(1, 0.25)]


def test_everything_is_there_before_the_sink_is_closed(tmp_path):
    sink = TensorBoard(tmp_path)
    for step in range(3):
        sink.write(scalars_of("", step, {"a": step}))
        assert scalars(tmp_path / "tensorboard", "a")[-1] == (step, step)


def test_scalars_that_are_not_finite(tmp_path):
    sink = TensorBoard(tmp_path)
    for step, value in enumerate((float("inf"), float("nan"), 1e300)):
        sink.write(scalars_of("", step, {"a": value}))
    values = [value for _, value in scalars(tmp_path / "tensorboard", "a")]
    np.testing.assert_array_equal(values, [np.inf, np.nan, np.inf])


def test_a_histogram_keeps_its_counts(tmp_path):
    sink = TensorBoard(tmp_path)
    event = histogram_of("", 4, "C", torch.tensor([0.0, 1.0, 1.0, float("nan")]))
    sink.write(event)
    [read_back] = read(tmp_path / "tensorboard").Histograms("C")
    histogram = read_back.histogram_value
    assert read_back.step == 4
    assert (histogram.min, histogram.max, histogram.num) == (0.0, 1.0, 3.0)
    assert list(histogram.bucket_limit) == event.edges[1:]
    assert list(histogram.bucket) == event.counts


def test_a_histogram_of_numbers_whose_squares_overflow(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write(histogram_of("", 1, "C", torch.tensor([-1e200, 1e200], dtype=torch.double)))
    [read_back] = read(tmp_path / "tensorboard").Histograms("C")
    assert read_back.histogram_value.num == 2


def test_an_image_is_the_file_itself(tmp_path):
    sink = TensorBoard(tmp_path)
    event = image_of("", 2, "groups", torch.rand(3, 5))
    sink.write(event)
    [read_back] = read(tmp_path / "tensorboard").Images("groups")
    assert (read_back.step, read_back.width, read_back.height) == (2, 5, 3)
    assert read_back.encoded_image_string == event.png


def test_a_table_is_markdown_that_no_cell_breaks(tmp_path):
    sink = TensorBoard(tmp_path)
    rows = [{"method": "a|b\nc\ud800", "error": 0.05}, {"error": None, "more": {"x": 1}}]
    sink.write(table_of("", None, "comparison", rows))
    [read_back] = read(tmp_path / "tensorboard").Tensors("comparison/text_summary")
    [text] = make_ndarray(read_back.tensor_proto)
    assert text.decode().splitlines() == [
        "| method | error | more |",
        "| --- | --- | --- |",
        "| a\\|b c? | 0.05 | – |",
        "| – | – | … |",
    ]


def test_lines_of_the_users_own_make_no_file(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write(line_of("", {"a": 1}))
    sink.close()
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_text_and_steps_that_are_too_large(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write(scalars_of("", 10**30, {"a\ud800": 1.0}))
    assert scalars(tmp_path / "tensorboard", "a?") == [(2**63 - 1, 1.0)]


def test_what_is_done_again_takes_the_place_of_the_first_time(tmp_path):
    first = TensorBoard(tmp_path)
    for scope in ("a/seed-0", "a/seed-1"):
        for step in range(10):
            first.write(scalars_of(scope, step, {"loss": step}))
    second = TensorBoard(tmp_path, resuming=True)
    second.write(table_of("a/seed-1", None, "t", []))
    for step in range(5, 8):
        second.write(scalars_of("a/seed-1", step, {"loss": 100 + step}))
    before = [(step, step) for step in range(5)]
    again = [(step, 100 + step) for step in range(5, 8)]
    assert scalars(tmp_path / "tensorboard/a/seed-1", "loss") == before + again
    # What other scopes have recorded of later steps stays.
    untouched = [(step, step) for step in range(10)]
    assert scalars(tmp_path / "tensorboard/a/seed-0", "loss") == untouched


def test_a_torn_record_costs_nothing_that_comes_after_it(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write(scalars_of("", 1, {"a": 1}))
    [file] = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as stream:
        stream.write(struct.pack("<Q", 100) + b"torn")
    again = TensorBoard(tmp_path, resuming=True)
    again.write(scalars_of("", 2, {"a": 2}))
    assert scalars(tmp_path / "tensorboard", "a") == [(1, 1.0), (2, 2.0)]


def test_without_tensorboard_it_says_so_when_it_is_needed(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    sink = TensorBoard(tmp_path)
    with pytest.raises(ImportError, match="tensorboard"):
        sink.write(scalars_of("", 1, {"a": 1}))
    assert not list(tmp_path.iterdir())


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(ProgramError, match="inside the run directory"):
        TensorBoard(tmp_path / "run").write(scalars_of("", 1, {"a": 1}))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
