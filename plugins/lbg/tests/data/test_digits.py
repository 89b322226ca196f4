from typing import get_args

import pytest
import torch

from mlo_lbg.data.dataset import DataError, Split
from mlo_lbg.data.digits import Variant, digits


def joined(split: Split) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs in units of grey, labels and orientation of all 1,797 scans, training ones first."""
    return (
        torch.cat([split.train.inputs, split.test.inputs]) / 2,
        torch.cat([split.train.targets, split.test.targets]),
        torch.cat([split.train.attribute, split.test.attribute]).bool(),
    )


def uncentred(inputs: torch.Tensor) -> torch.Tensor:
    """Grey values of scans that were not exposed: every pixel is blank in some scan."""
    return inputs - inputs.amin(0)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_shapes_shares_and_centring(variant: Variant) -> None:
    split = digits(variant=variant, seed=3)
    assert split.train.inputs.shape == (1257, 64)
    assert split.test.inputs.shape == (540, 64)
    assert split.train.attribute.sum() == 314
    assert split.test.attribute.sum() == 135
    assert split.train.inputs.mean(0).abs().max() < 1e-5
    assert split.test.inputs.mean(0).abs().max() > 1e-3
    assert split.train.num_classes == 10
    assert split.train.num_attributes == 2
    assert (split.train.inputs.amax(0) - split.train.inputs.amin(0)).max() == pytest.approx(2)


def test_the_seed_decides_everything() -> None:
    first, again, other = digits(seed=0), digits(seed=0), digits(seed=1)
    assert first.train.inputs.equal(again.train.inputs)
    assert first.test.attribute.equal(again.test.attribute)
    assert not first.train.targets.equal(other.train.targets)


def test_variants_of_a_seed_hold_the_same_scans() -> None:
    _, plain_labels, turned = joined(digits(variant="turned", seed=5))
    _, exposed_labels, also_turned = joined(digits(variant="turned_exposed", seed=5))
    _, labels, same_turned = joined(digits(seed=5))
    assert turned.equal(also_turned)
    assert turned.equal(same_turned)
    assert plain_labels.equal(exposed_labels)
    assert labels[~turned].equal(plain_labels[~turned])
    assert labels[turned].equal(9 - plain_labels[turned])


def test_turned_scans_look_like_their_digit_once_turned_back() -> None:
    inputs, labels, turned = joined(digits(variant="turned", seed=2))
    images = uncentred(inputs).reshape(-1, 8, 8)
    means = torch.stack([images[~turned & (labels == digit)].mean(0) for digit in range(10)])

    def accuracy(scans: torch.Tensor) -> float:
        nearest = torch.cdist(scans.flatten(1), means.flatten(1)).argmin(1)
        return (nearest == labels[turned]).float().mean().item()

    assert accuracy(torch.rot90(images[turned], k=-1, dims=(1, 2))) > 0.85
    assert accuracy(images[turned]) < 0.5


def test_exactly_half_is_over_exposed_whatever_the_orientation() -> None:
    plain, _, turned = joined(digits(variant="turned", seed=4))
    shown, _, _ = joined(digits(variant="turned_exposed", seed=4))
    # 0.4 (1 - grey) where exposed and 0 elsewhere, up to the difference of the two centrings.
    added = uncentred(shown - plain)
    exposed = added.amax(1) > 1e-4
    assert exposed[:1257].sum() == 628
    assert exposed[1257:].sum() == 270
    assert 0.4 < exposed[turned].float().mean() < 0.6
    torch.testing.assert_close(added[exposed], 0.4 * (1 - uncentred(plain))[exposed])


def test_an_unknown_variant_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"got 'turnd'.*did you mean 'turned'"):
        digits(variant="turnd", seed=0)  # type: ignore[arg-type]  # wrong on purpose
