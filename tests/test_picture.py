import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from mlo.errors import ProgramError
from mlo.picture import png_of, size_of


def shown(image):
    """Return the bytes of the pixels that a PNG shows, without opacity where there is none."""
    pixels = np.rint(imread(io.BytesIO(png_of(image, "x"))) * 255).astype(np.uint8)
    return pixels if (pixels[..., 3] != 255).any() else pixels[..., :3]


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 4, None]), st.randoms())
def test_bytes_come_back_as_they_were(height, width, channels, chance):
    shape = (height, width) if channels is None else (height, width, channels)
    image = np.array([chance.randrange(256) for _ in range(int(np.prod(shape)))], dtype=np.uint8)
    image = image.reshape(shape)
    if channels == 4:
        image[..., 3] = 128
    expected = image if channels in (3, 4) else np.repeat(image.reshape(height, width, 1), 3, 2)
    np.testing.assert_array_equal(shown(image), expected)
    np.testing.assert_array_equal(shown(torch.from_numpy(image)), expected)
    assert size_of(png_of(image, "x")) == (width, height)
    if channels in (3, 4) and width not in (1, 3, 4):
        np.testing.assert_array_equal(shown(np.moveaxis(image, -1, 0)), expected)


def test_grey_is_not_stretched():
    np.testing.assert_array_equal(shown(torch.full((2, 2), 0.2)), np.full((2, 2, 3), 51))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_numbers_go_from_0_to_1_and_are_cut_off_beyond(dtype):
    values = [-1.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("-inf"), float("nan")]
    image = torch.tensor([values], dtype=dtype, requires_grad=True)
    assert shown(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255, 0, 0]


def test_flags_are_black_and_white():
    assert shown(torch.tensor([[True, False]]))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 5), (1, 2, 3, 4), (0, 4), (3, 0, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ProgramError, match=r"^image 'x': expected shape .*, got ") as caught:
        png_of(torch.zeros(shape), "x")
    assert str(caught.value).endswith(str(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.complex64, np.uint16])
def test_other_types_are_refused(dtype):
    with pytest.raises(ProgramError, match=r"^image 'x': expected bytes \(uint8\) or floating"):
        png_of(np.zeros((2, 2), dtype=dtype), "x")


def test_a_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png_of(torch.zeros(2, 3), "x"))
    assert png_of(path, "x") == path.read_bytes()
    assert png_of(str(path), "x") == path.read_bytes()


def test_what_is_no_png_file_is_refused(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(ProgramError, match=r"^image 'x': cannot read .*No such file"):
        png_of(path, "x")
    with pytest.raises(ProgramError, match=r"^image 'x': cannot read .*Is a directory"):
        png_of(tmp_path, "x")
    for content in (b"", b"<svg>", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(ProgramError, match=r"^image 'x': .* is no PNG file"):
            png_of(path, "x")
    with path.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n")
        stream.truncate(70 << 20)
    with pytest.raises(ProgramError, match="is larger than 64 MiB"):
        png_of(path, "x")
