"""Every way in which a file can be bad becomes one line that names it; nothing is executed."""

import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

import mlo
from mlo.checkpoint.file import read, read_header, write
from mlo.errors import CheckpointError
from tests.checkpoint.forge import (
    CHECKSUM,
    METADATA,
    STRUCTURE,
    resealed,
    sealed,
    taken_apart,
    with_metadata,
    with_structure,
)
from tests.checkpoint.trees import same

STATE = {
    "weights": torch.arange(3.0),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 2),
    "steps": (1, 2.5, None, "text", {3: b"bytes"}),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "round-000000007.mlo"


@pytest.fixture
def content(tmp_path) -> bytes:
    made = tmp_path / "made"
    write(made, STATE, round=7, score=0.5)
    found = made.read_bytes()
    made.unlink()
    return found


def refusal(path: Path) -> str:
    """Return the message with which a file is refused, which must be one line that names it."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert len(message) < len(str(path)) + 500
    return message


def test_forged_files_are_read_if_nothing_is_wrong_with_them(path, content):
    """Otherwise what follows would show nothing."""
    header, tensors = taken_apart(content)
    structure = json.dumps(json.loads(tensors[STRUCTURE]), indent=1)
    for forged in (resealed(header, tensors), with_structure(content, structure)):
        path.write_bytes(forged)
        assert same(read(path).state, STATE)


def test_a_missing_file(path):
    assert "No such file" in refusal(path)


def test_a_directory(tmp_path):
    assert "it is a directory, expected a file" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    assert "no regular file" in refusal(path)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(CheckpointError, match="null"):
        read(tmp_path / "a\0b")
    assert "too long" in refusal(tmp_path / ("a" * 400))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden here")
def test_a_file_that_may_not_be_read(path, content):
    path.write_bytes(content)
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_a_name_with_a_line_break_still_gives_one_line(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "two\nlines")
    assert len(str(caught.value).splitlines()) == 1


def foreign_files() -> dict[str, tuple[bytes, str]]:
    archive, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, archive)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a", "b")
    return {
        "empty": (b"", "it is empty"),
        "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "a PNG image"),
        "pickle": (pickle.dumps({"a": 1}), "a pickle"),
        "torch": (archive.getvalue(), "a zip archive, such as torch.save writes"),
        "zip": (zipped.getvalue(), "a zip archive"),
        "safetensors": (safetensors.torch.save({"a": torch.ones(2)}), "another safetensors file"),
        "safetensors, metadata": (
            safetensors.torch.save({"a": torch.ones(2)}, {"format": "pt"}),
            "another safetensors file",
        ),
        "text": (b"rounds: 10\nevery: 3\nmore: 3\nand: so on\n" * 3, "begins with b'rounds: 10"),
        "zeros": (b"\0" * 500, "begins with"),
        "one byte": (b"\x07", "it has 1 bytes, expected a header"),
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_a_foreign_file(path, kind):
    foreign, found = foreign_files()[kind]
    path.write_bytes(foreign)
    message = refusal(path)
    assert found in message
    assert "expected" in message


def test_a_file_that_is_cut_off_at_any_byte(path, content):
    for length in range(len(content)):
        # Some file systems flush what replaces the content of a file, and nothing else.
        path.unlink(missing_ok=True)
        path.write_bytes(content[:length])
        message = refusal(path)
        if length > 8:
            assert "cut off" in message
        with pytest.raises(CheckpointError):
            read_header(path)


def test_a_file_with_something_after_its_end(path, content):
    for more in (b"\0", b" ", content):
        path.write_bytes(content + more)
        assert f"it has {len(content + more)} bytes, expected {len(content)}" in refusal(path)


def test_any_flipped_bit(path, content):
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.unlink(missing_ok=True)
            path.write_bytes(damaged)
            refusal(path)


def test_a_damaged_tensor_is_named_as_damage(path, content):
    damaged = bytearray(content)
    damaged[-8] ^= 1
    path.write_bytes(damaged)
    assert "its content has the checksum" in refusal(path)


@pytest.mark.parametrize("schema", ["0", "2", "01", "", "x" * 5000, None])
def test_another_schema(path, content, schema):
    """Its message is about the schema even where the rest cannot be understood."""
    later = with_metadata(content, schema=schema, mlo="9.8.7", round=None)
    for forged in (later, later[:-30], later.replace(b'"F32"', b'"F33"')):
        path.write_bytes(forged)
        message = refusal(path)
        assert f"it has schema {(schema or '')[:20]!r}, written by mlo '9.8.7'" in message
        assert f"mlo {mlo.__version__} reads schema '1'" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"round": None}, "round"),
        ({"round": "x"}, "'x'"),
        ({"round": ""}, "''"),
        ({"score": None}, "score"),
        ({"score": "low"}, "low"),
        ({"mlo": None}, "mlo"),
        ({"torch": None}, "torch"),
        ({"round": 7}, "texts"),
        ({"score": [0.5]}, "texts"),
        ({"mlo": {"a": "b"}}, "texts"),
    ],
)
def test_metadata_of_other_types(path, content, changes, named):
    path.write_bytes(with_metadata(content, **changes))
    assert named in refusal(path)


@pytest.mark.parametrize("claimed", [0, 1, 40, 10 << 40, 2**63, 2**64 - 1, 99_999_999])
def test_a_header_that_claims_another_length(path, content, claimed):
    path.write_bytes(claimed.to_bytes(8, "little") + content[8:])
    assert f"claims a header of {claimed} bytes and has {len(content)}" in refusal(path)
    path.write_bytes((60).to_bytes(8, "little") + content[8:])
    assert "its header is no JSON" in refusal(path)


ENTRIES = {
    "no object": ("weights", 3),
    "nothing": ("weights", {}),
    "something more": ("weights", {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], "x": 1}),
    "dtype": ("weights", {"dtype": "F33", "shape": [3], "data_offsets": [0, 12]}),
    "no text as dtype": ("weights", {"dtype": ["F32"], "shape": [3], "data_offsets": [0, 12]}),
    "another size": ("weights", {"dtype": "F64", "shape": [3], "data_offsets": [0, 12]}),
    "a huge shape": ("weights", {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}),
    "an overflow": ("weights", {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 12]}),
    "10**400": ("weights", {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 12]}),
    "negative": ("weights", {"dtype": "F32", "shape": [-3], "data_offsets": [0, -12]}),
    "backwards": ("weights", {"dtype": "F32", "shape": [3], "data_offsets": [12, 0]}),
    "fractions": ("weights", {"dtype": "F32", "shape": [3.0], "data_offsets": [0, 12]}),
    "a bool": ("weights", {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}),
    "a scalar as shape": ("weights", {"dtype": "F32", "shape": 3, "data_offsets": [0, 12]}),
    "three offsets": ("weights", {"dtype": "F32", "shape": [3], "data_offsets": [0, 12, 12]}),
    "a gap": ("weights", {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}),
    "an overlap": ("mask", {"dtype": "BOOL", "shape": [3], "data_offsets": [11, 14]}),
    "an empty one of no size": (
        "empty",
        {"dtype": "F32", "shape": [0, 2**61, 2**61], "data_offsets": [0, 0]},
    ),
    "an empty one elsewhere": ("empty", {"dtype": "F32", "shape": [0], "data_offsets": [99, 99]}),
    "a text as structure": (STRUCTURE, None),
    "no checksum": (CHECKSUM, None),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_header_that_does_not_fit_the_tensors(path, content, kind):
    header, tensors = taken_apart(content)
    name, entry = ENTRIES[kind]
    assert name in header
    header[name] = entry
    if entry is None:
        del header[name]
    path.write_bytes(resealed(header, tensors))
    refusal(path)


def test_sizes_that_are_exchanged(path, content):
    """Together they take as many bytes as they should."""
    header, tensors = taken_apart(content)
    assert header["weights"]["data_offsets"] == [0, 12]
    assert header["mask"]["data_offsets"] == [12, 15]
    header["weights"]["shape"], header["mask"]["shape"] = [2], [7]
    path.write_bytes(resealed(header, tensors))
    assert "12 bytes, expected 8 by its shape" in refusal(path)


@pytest.mark.parametrize("name", [STRUCTURE, CHECKSUM])
def test_tensors_of_the_file_itself_are_of_bytes(path, content, name):
    header, tensors = taken_apart(content)
    header[name]["dtype"] = "I8"
    path.write_bytes(resealed(header, tensors))
    refusal(path)
    header[name]["dtype"] = "U8"
    header[name]["shape"] = [1, *header[name]["shape"]]
    path.write_bytes(resealed(header, tensors))
    refusal(path)


def test_headers_that_are_no_json_objects(path, content):
    mark = '{"__metadata__":{"format":"mlo-checkpoint"'
    for header in (
        mark,
        f"{mark}}}",
        f"{mark}}}}}}}",
        f"{mark}," + "[" * 50_000,
        f'{mark},"schema":"1"}},"a":' + '{"a":' * 50_000,
        f'{mark},"schema":"1"}},"a":NaN}}',
        f'{mark},"schema":"1"}},"a":{"9" * 5000}}}',
        f'{mark},"\ud800":"1"}}}}',
        f'{mark},"schema":"1","schema":"1"}}}}',
        f'{mark},"schema":"1"}},"{METADATA}":{{"schema":"1"}}}}',
    ):
        path.write_bytes(sealed(header, b""))
        refusal(path)


@pytest.mark.parametrize(
    "structure",
    [
        "",
        "nonsense",
        "{",
        '{"list":[1]',
        "[" * 100_000,
        '{"list":[' * 5000,
        '{"list":[' * 102 + "]}" * 102,
        '{"a":1,"a":2}',
        '{"list":[],"list":[]}',
        '{"dict":[["a",1],["a",2]]}',
        '{"tensor":"absent"}',
        '{"tensor":"__structure__"}',
        '{"tensor":"__checksum__"}',
        '{"unknown":1}',
        "\ud800",
        '{"int":"' + "9" * 10 + 'x"}',
        "1" * 5000,
    ],
    ids=lambda structure: structure[:20].encode("unicode_escape").decode(),
)
def test_structures_that_were_never_written(path, content, structure):
    path.write_bytes(with_structure(content, structure))
    refusal(path)


class Exploding:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


_watched: list[str] | None = None
FORBIDDEN = ("exec", "pickle.find_class", "os.system", "subprocess.Popen", "ctypes.dlopen")


def _watch(event, arguments):
    if _watched is None:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in FORBIDDEN or writes:
        _watched.append(f"{event} {arguments}")


@pytest.fixture
def events(monkeypatch):
    """What is executed, started or opened for writing meanwhile; such a hook cannot be removed."""
    sys.addaudithook(_watch)
    seen: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "_watched", seen)
    return seen


def test_the_watch_sees_what_is_executed(tmp_path, events):
    pickle.loads(pickle.dumps(Exploding(tmp_path / "trace")))
    (tmp_path / "new").write_text("x")
    assert (tmp_path / "trace").exists()
    assert any("pickle.find_class" in event for event in events)
    assert any("open" in event for event in events)


def test_nothing_is_executed_and_nothing_written(path, content, tmp_path, events):
    trace = tmp_path / "trace"
    archive = io.BytesIO()
    torch.save(Exploding(trace), archive)
    exploding = pickle.dumps(Exploding(trace))
    header, tensors = taken_apart(content)
    tensors["weights"] = (exploding + b"\0" * 12)[:12]
    forged = [
        exploding,
        archive.getvalue(),
        resealed(header, tensors),
        with_structure(content, '{"dtype":"os.system"}'),
        with_structure(content, '{"pickle":"weights"}'),
        with_structure(content, '{"array":["O",[1],"weights"]}'),
    ]
    for each in forged:
        path.write_bytes(each)
        events.clear()
        try:
            read(path)
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017
        assert not events
    assert not trace.exists()
    assert list(tmp_path.iterdir()) == [path]
