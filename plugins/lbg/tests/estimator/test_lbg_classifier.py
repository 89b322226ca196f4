"""`LBGClassifier`: what it learns, how it fits in with scikit-learn, and what it refuses."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlo.errors import MloError
from mlo_lbg import routing
from mlo_lbg.architecture import Architecture
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Examples
from mlo_lbg.estimator.lbg_classifier import LBGClassifier
from mlo_lbg.grouping import Grouping, learn_by_grouping
from mlo_lbg.problems import SearchSettings
from mlo_lbg.training import Optimisation

QUICK = {"rounds": 6, "epochs": 2, "batch_size": 16}


def two_rules(examples: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, labels and the side that decides which of two opposite rules makes the label."""
    inputs = np.random.default_rng(seed).normal(size=(examples, 3))
    right = inputs[:, 0] > 0
    labels = np.where(right == (inputs[:, 1] > 0), "yes", "no")
    inputs[:, 0] += np.sign(inputs[:, 0])
    return inputs, labels, right


def quick(**changes: Any) -> LBGClassifier:
    return LBGClassifier(**{"random_state": 0, **QUICK, **changes})


@pytest.mark.slow
def test_finds_the_groups_that_two_linear_experts_need() -> None:
    inputs, labels, side = two_rules(400)
    model = LBGClassifier(rounds=200, epochs=20, random_state=0)
    model.fit(inputs, labels, sensitive_features=side)
    assert model.score(inputs, labels) > 0.9
    assert model.history_[-1].nmi_attribute > 0.9
    assert max(np.mean(model.groups_ == side), np.mean(model.groups_ != side)) > 0.95


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_is_learn_by_grouping(num_groups: int) -> None:
    inputs, labels, _ = two_rules()
    train = Examples(
        inputs=torch.tensor(inputs, dtype=torch.float32),
        targets=torch.tensor(labels == "yes").long(),
        attribute=torch.zeros(len(labels), dtype=torch.int64),
        num_classes=2,
        num_attributes=1,
    )

    def gate() -> torch.nn.Module:
        return torch.nn.Linear(3, num_groups)

    def expert() -> torch.nn.Module:
        return torch.nn.Linear(3, 2)

    direct, history = learn_by_grouping(
        train,
        Architecture(
            num_groups=num_groups,
            budget=0,
            make_gate=gate,
            make_expert=expert,
            make_network=expert,
            make_member=expert,
        ),
        Grouping(
            search=SearchSettings(routing=routing.SOFT),
            budget=Budget(rounds=6, batch_size=16),
            retrain=Optimisation(epochs=2, batch_size=16),
        ),
        seed=5,
    )
    model = quick(n_groups=num_groups, random_state=5).fit(inputs, labels)
    assert np.array_equal(model.predict_proba(inputs), direct.probabilities(train.inputs).numpy())
    assert np.array_equal(model.predict(inputs) == "yes", direct.predict(train.inputs).numpy() == 1)
    assert np.array_equal(model.groups_, direct.groups(train.inputs).numpy())
    assert model.history_ == (history if num_groups > 1 else ())


def test_every_hyperparameter_of_learning_matters() -> None:
    inputs, labels, _ = two_rules(60)
    base = {"rounds": 8, "epochs": 2, "batch_size": 16, "gate_learning_rate": 0.1}
    usual = LBGClassifier(random_state=0, **base).fit(inputs, labels)
    changes: list[dict[str, Any]] = [
        {"n_groups": 3},
        {"routing": routing.HARD},
        {"gate_learning_rate": 0.01},
        {"experts_learning_rate": 0.5},
        {"assignments_learning_rate": 0.9},
        {"rounds": 3},
        {"patience": 1},
        {"learning_rate": 0.1},
        {"weight_decay": 0.5},
        {"epochs": 3},
        {"batch_size": 8},
        {"augment": lambda images, generator: -images},
        {"expert": lambda features, outputs: torch.nn.Linear(features, outputs, bias=False)},
        {"gate": lambda features, outputs: torch.nn.Linear(features, outputs, bias=False)},
        {"random_state": 1},
    ]
    for change in changes:
        other = LBGClassifier(**{"random_state": 0, **base, **change}).fit(inputs, labels)
        alike = np.array_equal(other.predict_proba(inputs), usual.predict_proba(inputs))
        # Groups may survive a change of the search's rates; its diagnoses do not.
        assert not alike or other.history_ != usual.history_, change


def test_the_sensitive_feature_is_only_measured() -> None:
    inputs, labels, side = two_rules()
    without = quick().fit(inputs, labels)
    with_it = quick().fit(inputs, labels, sensitive_features=pd.Series(side).map(str))
    assert np.array_equal(with_it.predict_proba(inputs), without.predict_proba(inputs))
    assert with_it.history_[-1].nmi_attribute != without.history_[-1].nmi_attribute


@pytest.mark.parametrize("state", [3, np.int64(3)])
def test_same_state_same_bits_and_global_generators_are_left_alone(state: Any) -> None:
    inputs, labels, _ = two_rules()
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    threads = torch.get_num_threads()
    first = quick(random_state=state).fit(inputs, labels).predict_proba(inputs)
    quick(random_state=None).fit(inputs, labels)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.get_num_threads() == threads
    again = quick(random_state=3).fit(inputs, labels).predict_proba(inputs)
    assert np.array_equal(first, again)


def test_a_generator_moves_on_and_no_state_differs_each_time() -> None:
    inputs, labels, _ = two_rules()
    state = np.random.RandomState(0)
    models = [quick(random_state=state).fit(inputs, labels) for _ in range(2)]
    models += [quick(random_state=None).fit(inputs, labels) for _ in range(2)]
    found = {model.predict_proba(inputs).tobytes() for model in models}
    assert len(found) == 4


def test_more_experts_answer_when_asked() -> None:
    inputs, labels, _ = two_rules()
    model = quick(n_groups=3).fit(inputs, labels)
    tensor = torch.tensor(inputs, dtype=torch.float32)
    with torch.no_grad():
        shares = model.gate_(tensor).softmax(-1)
        votes = torch.stack([expert(tensor).softmax(-1) for expert in model.experts_], dim=1)
    alone = model.predict_proba(inputs)
    own = votes[torch.arange(len(votes)), torch.tensor(model.predict_groups(inputs))]
    np.testing.assert_allclose(alone, own, rtol=1e-5)
    mixed = model.set_params(top_k=3).predict_proba(inputs)
    np.testing.assert_allclose(mixed, (shares[..., None] * votes).sum(1), rtol=1e-5)
    assert np.array_equal(model.predict(inputs), model.classes_[mixed.argmax(1)])


def test_pipeline_grid_search_and_cross_validation() -> None:
    inputs, labels, side = two_rules()
    pipeline = make_pipeline(StandardScaler(), quick())
    grid = GridSearchCV(
        pipeline,
        {
            "lbgclassifier__n_groups": [1, 2],
            "lbgclassifier__routing": [None, routing.SOFT_MIXTURE],
            "lbgclassifier__expert": [torch.nn.Linear],
        },
        cv=2,
        error_score="raise",
    ).fit(inputs, labels)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert np.isfinite(cross_val_score(pipeline, inputs, labels, cv=2, error_score="raise")).all()
    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=labels,
        y_pred=grid.predict(inputs),
        sensitive_features=side,
    )
    assert len(frame.by_group) == 2
    # It warns if rows do not sum to 1, and warnings are errors here.
    assert log_loss(labels, grid.predict_proba(inputs)) > 0


def _joblib(model: LBGClassifier) -> LBGClassifier:
    file = BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize(
    "copy", [deepcopy, _joblib, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_predict_alike(copy: Callable[[LBGClassifier], LBGClassifier]) -> None:
    inputs, labels, _ = two_rules()
    model = quick(routing=routing.HARD, expert=torch.nn.Linear).fit(inputs, labels)
    other = copy(model)
    assert np.array_equal(other.predict_proba(inputs), model.predict_proba(inputs))
    assert other.history_ == model.history_
    fresh = clone(other)
    assert not hasattr(fresh, "gate_")
    assert np.array_equal(
        fresh.fit(inputs, labels).predict_proba(inputs), model.predict_proba(inputs)
    )


def test_columns_have_names_and_an_order() -> None:
    inputs, labels, _ = two_rules()
    frame = pd.DataFrame(inputs, columns=["a", "b", "c"])
    model = quick().fit(frame, pd.Series(labels))
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.n_features_in_ == 3
    plain = quick().fit(inputs, labels)
    assert np.array_equal(model.predict_proba(frame), plain.predict_proba(inputs))
    with pytest.raises(ValueError, match="in the same order"):
        model.predict(frame[["b", "a", "c"]])


@pytest.mark.parametrize(
    ("inputs", "labels", "experts"),
    [
        (np.eye(3), ["a", "b", "c"], 1),
        (np.eye(4), ["a", "b", "c", "a"], 2),
        (np.eye(5), ["only"] * 5, 1),
        (np.ones((1, 1)), [7], 1),
    ],
)
def test_without_anything_to_search_one_expert_learns(
    inputs: np.ndarray, labels: list[Any], experts: int
) -> None:
    model = quick(top_k=2).fit(inputs, labels)
    assert len(model.experts_) == experts
    assert model.predict(inputs).shape == (len(labels),)
    assert model.predict_proba(inputs).shape == (len(labels), len(set(labels)))
    assert (model.n_iter_ == 0) == (model.history_ == ()) == (experts == 1)
    assert model.groups_.max() < experts


@settings(max_examples=25)
@given(data=st.data())
def test_labels_and_shapes_of_all_kinds(data: st.DataObject) -> None:
    kinds = [st.integers(-5, 5), st.text("abé ", max_size=3), st.booleans()]
    values = data.draw(st.sampled_from(kinds))
    labels = np.asarray(data.draw(st.lists(values, min_size=1, max_size=12)))
    features = data.draw(st.integers(1, 4))
    inputs = np.random.default_rng(0).normal(size=(len(labels), features))
    num_groups = data.draw(st.integers(1, 3))
    model = quick(n_groups=num_groups, rounds=2, epochs=1).fit(inputs, labels)
    assert model.classes_.tolist() == np.unique(labels).tolist()
    predicted, probabilities = model.predict(inputs), model.predict_proba(inputs)
    assert predicted.dtype == labels.dtype
    assert set(predicted.tolist()) <= set(labels.tolist())
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert np.array_equal(model.classes_[probabilities.argmax(1)], predicted)
    assert np.array_equal(model.groups_, model.predict_groups(inputs))
    assert set(model.groups_.tolist()) <= set(range(num_groups))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_groups": 0}, "n_groups: expected at least 1, got 0"),
        ({"top_k": 3}, "top_k: expected 1 to 2, the number of groups, got 3"),
        ({"rounds": 0}, "search: rounds must be >= 1, got 0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"device": "nowhere"}, "device must be 'auto' or a usable device, got 'nowhere'"),
        ({"expert": "mlp"}, "expert: expected a factory, called with inputs and outputs, got str"),
        ({"gate": torch.nn.Linear(3, 2)}, "gate: expected a factory, called .* got Linear"),
        ({"gate": lambda *_: torch.nn.Linear(3, 7)}, r"gate: expected logits of shape \(2, 2\)"),
        ({"expert": lambda *_: abs}, "expert: expected a factory of torch.nn.Module"),
    ],
)
def test_refuses_hyperparameters(changes: dict[str, Any], message: str) -> None:
    inputs, labels, _ = two_rules()
    with pytest.raises(MloError, match=message):
        quick(**changes).fit(inputs, labels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["f"] * 119, r"one value for each of the 120 examples, got shape \(119,\)"),
        (np.zeros((120, 2)), r"one value for each of the 120 examples, got shape \(120, 2\)"),
        ([None, *["f"] * 119], "1 missing"),
        ([float("nan"), *[1.0] * 119], "1 missing"),
        (pd.Series([pd.NA, *["f"] * 119]), "1 missing"),
        (pd.Series([1, *["f"] * 119]), "values of one type"),
    ],
)
def test_refuses_sensitive_features(values: Any, message: str) -> None:
    inputs, labels, _ = two_rules()
    with pytest.raises(MloError, match=f"sensitive_features: .*{message}"):
        quick().fit(inputs, labels, sensitive_features=values)


def test_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    inputs, labels, _ = two_rules()
    quick().fit(inputs, labels)
    assert capsys.readouterr().out == ""
    model = quick(verbose=1).fit(inputs, labels)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert len(lines) == len(model.history_)
    assert lines[-1].startswith("round 6: validation loss ")
