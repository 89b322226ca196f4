"""`LBGClassifier` on datasets of torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from mlo.errors import MloError
from mlo_lbg.estimator.lbg_classifier import LBGClassifier

QUICK = {"rounds": 6, "epochs": 2, "batch_size": 16, "random_state": 0}


class Listed(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class Streamed(IterableDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class Pixels(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255 if images.dtype == torch.uint8 else images


def convolutional(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(
        Pixels(),
        nn.Conv2d(shape[0], 4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, outputs),
    )


def table() -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).astype(np.int64)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Red or green, 5 × 6 pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    found = torch.randint(0, 60, (40, 3, 5, 6), generator=generator)
    found[torch.arange(40), labels] += 150
    return found.to(torch.uint8), labels


@pytest.mark.parametrize("make", [Listed, Streamed])
@pytest.mark.parametrize("form", [np.asarray, torch.tensor])
def test_a_dataset_is_its_table(make: Any, form: Any) -> None:
    inputs, labels = table()
    expected = LBGClassifier(**QUICK).fit(inputs, labels)
    dataset = make([(form(row), label) for row, label in zip(inputs, labels, strict=True)])
    model = LBGClassifier(**QUICK).fit(dataset)
    assert model.n_features_in_ == 3
    assert np.array_equal(model.predict_proba(inputs), expected.predict_proba(inputs))
    assert np.array_equal(model.predict(dataset), expected.predict(inputs))
    # Without targets, too.
    assert np.array_equal(
        model.predict(Listed([form(row) for row in inputs])), model.predict(inputs)
    )


def test_tensors_are_their_table() -> None:
    inputs, labels = table()
    dataset = TensorDataset(torch.tensor(inputs), torch.tensor(labels))
    expected = LBGClassifier(**QUICK).fit(inputs, labels)
    model = LBGClassifier(**QUICK).fit(dataset)
    assert np.array_equal(model.predict_proba(inputs), expected.predict_proba(inputs))
    assert np.array_equal(model.predict_groups(TensorDataset(torch.tensor(inputs))), model.groups_)


def test_labels_of_a_dataset_may_be_names() -> None:
    inputs, labels = table()
    named = ["odd" if label else "even" for label in labels]
    model = LBGClassifier(**QUICK).fit(Listed(list(zip(inputs, named, strict=True))))
    assert model.classes_.tolist() == ["even", "odd"]


@pytest.mark.parametrize("pixels", [True, False])
def test_images_reach_the_networks_as_they_are(pixels: bool) -> None:
    inputs, labels = images()
    given = inputs if pixels else (inputs.double() / 255)
    dataset = TensorDataset(given, labels)
    seen = []

    def watched(shape: tuple[int, ...], outputs: int) -> nn.Module:
        network = convolutional(shape, outputs)
        network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        return network

    model = LBGClassifier(
        expert=watched, gate=convolutional, **{**QUICK, "epochs": 60, "learning_rate": 0.05}
    ).fit(dataset)
    assert {one.dtype for one in seen} == {torch.uint8 if pixels else torch.float32}
    assert {tuple(one.shape[1:]) for one in seen} == {(3, 5, 6)}
    assert model.n_features_in_ == 90
    assert model.score(dataset, labels) == 1.0
    alone = Listed([(image, int(label)) for image, label in zip(given, labels, strict=True)])
    assert np.array_equal(model.predict(alone), model.predict(dataset))


def test_bytes_of_a_table_are_numbers() -> None:
    inputs = torch.arange(24, dtype=torch.uint8).reshape(8, 3)
    labels = torch.arange(8) % 2
    model = LBGClassifier(**QUICK).fit(TensorDataset(inputs, labels))
    assert np.array_equal(
        model.predict(inputs.double().numpy()), model.predict(TensorDataset(inputs))
    )


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one example, got an empty one"),
        ([torch.zeros(2)], r"expected \(input, target\) pairs in a dataset, got Tensor as item 0"),
        ([(torch.zeros(2), 0, 1)], "got 3 entries as item 0"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], r"got \(2,\) and, as item 1, \(3,\)"),
        ([([1.0, 2.0], 0)], "got 2 entries as item 0"),
        ([("text", 0)], "expected tensors or arrays of numbers in a dataset, got str as item 0"),
        ([(torch.tensor(1.0), 0), (torch.tensor(2.0), 1)], "inputs of at least one dimension"),
        ([(torch.zeros(3, 2, 2), 0)], r"gate: .* inputs of shape \(3, 2, 2\), got None"),
    ],
)
def test_refuses_datasets(items: list[Any], message: str) -> None:
    with pytest.raises(MloError, match=message):
        LBGClassifier(**QUICK).fit(Listed(items))


def test_refuses_labels_beside_a_dataset() -> None:
    inputs, labels = table()
    with pytest.raises(MloError, match="y: expected None"):
        LBGClassifier(**QUICK).fit(Listed([(inputs[0], 0)]), labels)


def test_refuses_numbers_that_are_not() -> None:
    items = [(torch.tensor([float("nan"), 0.0]), 0), (torch.zeros(2), 1)]
    with pytest.raises(ValueError, match="NaN"):
        LBGClassifier(**QUICK).fit(Listed(items))


def test_refuses_inputs_unlike_those_of_training() -> None:
    inputs, labels = images()
    model = LBGClassifier(expert=convolutional, gate=convolutional, **QUICK)
    model.fit(TensorDataset(inputs, labels))
    with pytest.raises(MloError, match=r"expected uint8 inputs of shape \(3, 5, 6\) as in fit"):
        model.predict(TensorDataset(inputs.float()))
    with pytest.raises(MloError, match=r"got uint8 inputs of shape \(3, 6, 5\)"):
        model.predict(TensorDataset(inputs.transpose(2, 3)))
    with pytest.raises(MloError, match=r"got inputs of shape \(90,\)"):
        model.predict(inputs.reshape(40, -1).numpy())
