import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlo_lbg.data.augment import Augment
from mlo_lbg.data.dataset import DataError


def one_by_one(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """The same from the same draws, an image and a pixel at a time."""
    batch, _, height, width = images.shape
    pad = augment.padding
    uniform = torch.rand(5, batch, generator=generator, dtype=torch.float64).tolist()
    result = torch.zeros_like(images)
    for n in range(batch):
        top, left = (int(uniform[k][n] * (2 * pad + 1)) - pad for k in (0, 1))
        mirrored = augment.flip and uniform[2][n] >= 0.5
        first_y = int(uniform[3][n] * height) - augment.cutout // 2
        first_x = int(uniform[4][n] * width) - augment.cutout // 2
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + top, (width - 1 - x if mirrored else x) + left
                if 0 <= from_y < height and 0 <= from_x < width:
                    result[n, :, y, x] = images[n, :, from_y, from_x]
                if 0 <= y - first_y < augment.cutout and 0 <= x - first_x < augment.cutout:
                    result[n, :, y, x] = torch.tensor(augment.fill, dtype=images.dtype)
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(0, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    cutout=st.integers(0, 8),
)
def test_it_equals_a_loop_over_pixels(seed, batch, height, width, padding, flip, cutout) -> None:
    source = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), generator=source, dtype=torch.uint8)
    before = images.clone()
    augment = Augment(padding=padding, flip=flip, cutout=cutout, fill=(1, 2, 3))
    found = augment(images, torch.Generator().manual_seed(seed))
    expected = one_by_one(images, augment, torch.Generator().manual_seed(seed))
    assert found.dtype == torch.uint8
    assert found.equal(expected)
    assert images.equal(before)


def test_settings_do_not_change_what_is_drawn_later() -> None:
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    states = []
    for augment in (Augment(), Augment(padding=0, flip=False), Augment(cutout=2)):
        generator = torch.Generator().manual_seed(0)
        augment(images, generator)
        states.append(generator.get_state())
    assert states[0].equal(states[1])
    assert states[0].equal(states[2])


def test_every_shift_and_both_mirrors_occur_equally_often() -> None:
    images = torch.zeros(9000, 3, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 255
    shifted = Augment(padding=1, flip=False)(images, torch.Generator().manual_seed(0))
    counts = (shifted[:, 0] == 255).sum(0)[1:4, 1:4]
    assert counts.sum() == 9000
    assert (counts - 1000).abs().max() < 150
    images = torch.zeros(1000, 3, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    mirrored = Augment(padding=0)(images, torch.Generator().manual_seed(0))
    assert 430 < int((mirrored[:, 0, 0, 1] == 255).sum()) < 570


def test_settings_and_shapes_are_checked() -> None:
    with pytest.raises(DataError, match="padding: expected 0 or more pixels, got -1"):
        Augment(padding=-1)
    with pytest.raises(DataError, match="cutout"):
        Augment(cutout=-2)
    with pytest.raises(DataError, match=r"fill: expected three numbers in 0..255"):
        Augment(fill=(0, 0, 256))
    with pytest.raises(DataError, match=r"images: expected shape .* got \(2, 1, 4, 4\)"):
        Augment()(torch.zeros(2, 1, 4, 4), torch.Generator())
