import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo_lbg.data.cifar as cifar_module
from mlo.errors import MloError
from mlo_lbg.data.cifar import cifar10, cifar100
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.inert_pickle import read_pickle


def complaint(read: Callable[[], object]) -> str:
    """The message of the error in which `read` ends, or nothing."""
    try:
        read()
    except MloError as error:
        return str(error)
    return ""


class _LikePythonTwo(pickle._Pickler):
    """Writes bytes as the official files have them: as text of Python 2, in protocol 2."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def like_python_two(value: object) -> bytes:
    file = io.BytesIO()
    _LikePythonTwo(file, protocol=2).dump(value)
    return file.getvalue()


def pixels(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def write_ten(root: Path, rows: int = 4) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {b"data": pixels(rows, seed), b"labels": [(seed + n) % 10 for n in range(rows)]}
        (folder / name).write_bytes(like_python_two({b"batch_label": b"x", **batch}))
    names = {b"label_names": [f"c{n}".encode() for n in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(like_python_two(names))


def test_cifar10_pickles(tmp_path: Path) -> None:
    write_ten(tmp_path)
    read = cifar10(tmp_path, seed=0)
    assert read.split.train.inputs.shape == (20, 3, 32, 32)
    assert read.split.train.inputs[4:8].equal(torch.from_numpy(pixels(4, 1).reshape(4, 3, 32, 32)))
    assert read.split.test.targets.tolist() == [5, 6, 7, 8]
    assert read.classes[3] == "c3"
    assert (read.attribute, read.values) == ("all", ("all",))
    part = cifar10(tmp_path / "cifar-10-batches-py", num_train=6, num_test=2, seed=0)
    assert (len(part.split.train), len(part.split.test)) == (6, 2)


def test_cifar10_binary_is_the_same(tmp_path: Path) -> None:
    write_ten(tmp_path)
    folder = tmp_path / "b" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = np.array([[(seed + n) % 10] for n in range(4)], dtype=np.uint8)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels, pixels(4, seed)]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"c{n}" for n in range(10)) + "\n\n")
    first, second = cifar10(tmp_path, seed=0), cifar10(tmp_path / "b", seed=0)
    assert first.split.train.inputs.equal(second.split.train.inputs)
    assert first.split.test.targets.equal(second.split.test.targets)
    assert first.classes == second.classes
    assert first.channels == second.channels
    (folder / "test_batch.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match=r"labels: expected numbers in 0\.\.9, got 10"):
        cifar10(tmp_path / "b", seed=0)
    (folder / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="expected records of 3073 bytes, got 3072 bytes"):
        cifar10(tmp_path / "b", seed=0)


def test_cifar100_superclasses(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for seed, name in enumerate(["train", "test"]):
        batch = {b"data": pixels(3, seed), b"fine_labels": [99, 0, 5], b"coarse_labels": [19, 0, 1]}
        (folder / name).write_bytes(like_python_two(batch))
    names = {
        b"fine_label_names": [f"f{n}".encode() for n in range(100)],
        b"coarse_label_names": [f"s{n}".encode() for n in range(20)],
    }
    (folder / "meta").write_bytes(like_python_two(names))
    read = cifar100(tmp_path, attribute="superclass", seed=0)
    assert read.split.train.targets.tolist() == [99, 0, 5]
    assert read.split.train.attribute.tolist() == [19, 0, 1]
    assert read.values[19] == "s19"
    assert cifar100(tmp_path, seed=0).values == ("all",)
    with pytest.raises(DataError, match="attribute: expected one of all, superclass, got 'super'"):
        cifar100(tmp_path, attribute="super", seed=0)


def test_missing_files_and_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"'cifar-10-batches-py' .* get it from https://www\.cs"):
        cifar10(tmp_path, seed=0)

    def fetch(url: str, root: str, *, filename: str, md5: str) -> None:
        assert "cifar-10-python" in url
        write_ten(Path(root))

    monkeypatch.setattr(cifar_module, "download_and_extract_archive", fetch)
    assert len(cifar10(tmp_path, download=True, seed=0).split.train) == 20
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"data_batch_3': expected a file of CIFAR-10 .* https"):
        cifar10(tmp_path, download=True, seed=0)


class Runs:
    """A pickle of this makes a folder when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_runs(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for value in (Runs(harm), {"data": Runs(harm)}, {b"labels": [Runs(harm)]}):
        with pytest.raises(DataError, match=r"it refers to (posix|nt)\.mkdir"):
            read_pickle(pickle.dumps(value), source="a")
    assert not harm.exists()
    pickle.loads(pickle.dumps(Runs(harm)))
    assert harm.exists()


def test_arrays_of_other_types_are_refused() -> None:
    for array in (np.zeros((2, 2)), np.zeros(3, dtype=np.uint8), np.array([[None]])):
        with pytest.raises(DataError, match="data is not a matrix of bytes"):
            read_pickle(pickle.dumps({"data": array}, protocol=3), source="a")
    columns = np.asfortranarray(pixels(2, 0))
    read = read_pickle(pickle.dumps({"data": columns}, protocol=3), source="a")
    assert read["data"].equal(torch.from_numpy(pixels(2, 0)))


GOOD = like_python_two({b"data": pixels(1, 0)[:, :9], b"labels": [1], b"names": [b"a", b"b"]})


@settings(max_examples=400, deadline=None)
@given(
    place=st.integers(0, len(GOOD)),
    noise=st.binary(max_size=8),
    keep=st.booleans(),
    alone=st.booleans(),
)
def test_any_bytes_end_in_a_dictionary_or_in_one_line(place, noise, keep, alone) -> None:
    rest = GOOD[place + len(noise) :] if keep else b""
    content = noise * 3 if alone else GOOD[:place] + noise + rest
    message = complaint(lambda: read_pickle(content, source="a").keys())
    assert "\n" not in message
    assert len(message) < 200
