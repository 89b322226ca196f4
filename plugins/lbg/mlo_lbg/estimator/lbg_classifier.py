"""Learning by Grouping as a classifier of scikit-learn."""

import secrets
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.utils.data import Dataset

from mlo.device import resolve
from mlo_lbg import diagnostics, routing
from mlo_lbg.architecture import Architecture
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Examples, Transform
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.estimator.conversion import (
    Form,
    InputError,
    attribute_codes,
    inputs_of,
    pairs,
    rows,
    tensor,
)
from mlo_lbg.estimator.networks import Factory, architecture
from mlo_lbg.group_experts import fit_experts
from mlo_lbg.grouping import Grouping, learn_by_grouping
from mlo_lbg.predictors import TopK, TopOne
from mlo_lbg.problems import SearchSettings
from mlo_lbg.routing import Routing
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.training import Optimisation
from mlo_lbg.watch import unobserved

_SMALLEST_SEARCH = 4
"""Examples below which halves hold too little to judge groups by."""


class LBGClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """`argmax_c z_ĵ(x)_c` with `ĵ = argmax_k` of a learned gate: one expert answers.

    Which examples belong together is learned: groups are searched for on two halves of the
    training data, then one expert for each group is trained on all of it. There is no search, and
    one expert learns from all examples, if there is nothing to search for: with one group, one
    class or fewer than four examples.

    Features should be of comparable scale, as for every network: put a `StandardScaler` in front.

    Args:
        n_groups: K, the number of groups and experts.
        expert: Factory of an expert, called with the inputs and the number of classes; inputs are
            the number of features of a table and the shape of anything else, so `torch.nn.Linear`
            is a factory for tables. None is linear. To be pickled in other processes it must be
            importable, so no lambda.
        gate: Factory of the gate, called with the inputs and the number of groups; None is linear.
        routing: How groups enter the losses of the search; None for `mlo_lbg.routing.SOFT`.
        gate_learning_rate: Of the gate in the search. It should be slower than the experts.
        experts_learning_rate: Of the experts in the search.
        assignments_learning_rate: Of the assignments of examples to groups.
        rounds: Rounds of the search at most.
        patience: Stop the search after so many epochs without a lower validation loss and go back
            to the best; None to run all rounds.
        learning_rate: Of the final experts, decayed to 0.
        weight_decay: Of the final experts, decoupled.
        epochs: Passes of each final expert over its group.
        batch_size: Examples in every batch.
        augment: What training does to each batch, from `(batch, ...)` inputs and a
            `torch.Generator` to inputs; None for nothing.
        top_k: How many experts answer, mixed by the gate; with 1 the chosen one alone. Predictions
            read it, so it can be set after `fit`.
        random_state: Decides everything random. An int gives the same predictions each time, those
            of `learn_by_grouping` with that seed; None gives others each time.
        device: Where to train and predict; "auto" for the accelerator if there is one.
        verbose: 1 prints a line after each epoch of the search.

    Attributes:
        classes_: `(classes,)` labels, sorted.
        groups_: `(examples,)` group of each training example.
        gate_: The gate, in evaluation mode.
        experts_: The experts, in evaluation mode: K, or one if there was no search.
        history_: `Diagnosis` after each epoch of the search.
        n_iter_: Rounds of the search.
        n_features_in_: Number of features, or of numbers in an input that is not a row of a table.
        feature_names_in_: Names of the columns, if a DataFrame with names was given.
        form_: What one input looks like.

    References:
        Learning by Grouping, arXiv 2304.00486.

    Labels follow the second feature, but upside down where the first is negative: no single linear
    network can tell them apart, two can.

    >>> from fairlearn.metrics import MetricFrame
    >>> from sklearn.metrics import accuracy_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> side = np.where(X[:, 0] > 0, "right", "left")
    >>> y = np.where((X[:, 0] > 0) == (X[:, 1] > 0), "yes", "no")
    >>> X[:, 0] += np.sign(X[:, 0])
    >>> model = make_pipeline(
    ...     StandardScaler(), LBGClassifier(n_groups=2, rounds=200, epochs=20, random_state=0)
    ... )
    >>> predicted = model.fit(X, y, lbgclassifier__sensitive_features=side).predict(X)
    >>> frame = MetricFrame(
    ...     metrics=accuracy_score, y_true=y, y_pred=predicted, sensitive_features=side
    ... )
    >>> bool(frame.overall > 0.9), bool(frame.group_min() > 0.85)
    (True, True)
    >>> found = model[-1]
    >>> found.history_[-1].nmi_attribute > 0.8, len(found.experts_), found.n_iter_
    (True, 2, 200)
    """

    def __init__(
        self,
        n_groups: int = 2,
        *,
        expert: Factory | None = None,
        gate: Factory | None = None,
        routing: Routing | None = None,
        gate_learning_rate: float = 3e-3,
        experts_learning_rate: float = 1e-2,
        assignments_learning_rate: float = 0.1,
        rounds: int = 600,
        patience: int | None = None,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-3,
        epochs: int = 60,
        batch_size: int = 64,
        augment: Transform | None = None,
        top_k: int = 1,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
        verbose: int = 0,
    ) -> None:
        self.n_groups = n_groups
        self.expert = expert
        self.gate = gate
        self.routing = routing
        self.gate_learning_rate = gate_learning_rate
        self.experts_learning_rate = experts_learning_rate
        self.assignments_learning_rate = assignments_learning_rate
        self.rounds = rounds
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.augment = augment
        self.top_k = top_k
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike | Dataset[Any],  # noqa: N803
        y: ArrayLike | None = None,
        sensitive_features: ArrayLike | None = None,
    ) -> Self:
        """Search for groups and train their experts.

        Args:
            X: `(examples, features)` array or DataFrame, or a dataset of `(input, target)` pairs.
                Images are a dataset, `(3, height, width)` of uint8 or floats each.
            y: `(examples,)` labels of any type; None with a dataset.
            sensitive_features: `(examples,)` values that `history_` compares the groups with.
                Nothing is learned from them.

        Returns:
            The classifier itself.

        Raises:
            ValueError: If data or hyperparameters do not fit.
            NonFiniteError: If a loss of the search is not finite.
            TrainingError: If a loss of a final expert is not finite.
        """
        self._check_counts()
        inputs, labels = self._training_data(X, y)
        check_classification_targets(labels)
        classes, targets = np.unique(labels, return_inverse=True)
        attribute = attribute_codes(sensitive_features, len(labels))
        train = Examples(
            inputs=inputs,
            targets=torch.from_numpy(targets.astype(np.int64)),
            attribute=attribute.numbers,
            num_classes=len(classes),
            num_attributes=attribute.num_values,
            augment=self.augment,
        ).to(resolve(self.device))
        found, self.history_ = self._learned(train, _seed(self.random_state))
        self.classes_ = classes
        self.gate_, self.experts_ = found.gate, tuple(found.experts)
        self.n_iter_ = self.history_[-1].round if self.history_ else 0
        self.groups_ = _numbers(found.groups(train.inputs))
        return self

    def predict(self, X: ArrayLike | Dataset[Any]) -> NDArray[Any]:  # noqa: N803
        """Return the `(examples,)` likeliest label of each input.

        Args:
            X: As in `fit`; targets in a dataset may be absent and are not looked at.
        """
        inputs = self._test_data(X)
        predicted: NDArray[Any] = self.classes_[_numbers(self._predictor().predict(inputs))]
        return predicted

    def predict_proba(self, X: ArrayLike | Dataset[Any]) -> NDArray[np.float32]:  # noqa: N803
        """Return `(examples, classes)` probabilities: of the chosen expert, or mixed from `top_k`.

        Args:
            X: As in `predict`.
        """
        inputs = self._test_data(X)
        return _numbers(self._predictor().probabilities(inputs))

    def predict_groups(self, X: ArrayLike | Dataset[Any]) -> NDArray[np.int64]:  # noqa: N803
        """Return the `(examples,)` group of each input, the number of the expert that answers.

        Args:
            X: As in `predict`.
        """
        inputs = self._test_data(X)
        return _numbers(self._predictor().groups(inputs))

    def _check_counts(self) -> None:
        if self.n_groups < 1:
            raise InputError(f"n_groups: expected at least 1, got {self.n_groups}")
        if not 1 <= self.top_k <= self.n_groups:
            raise InputError(
                f"top_k: expected 1 to {self.n_groups}, the number of groups, got {self.top_k}"
            )

    def _training_data(
        self,
        X: ArrayLike | Dataset[Any],  # noqa: N803
        y: ArrayLike | None,
    ) -> tuple[Tensor, NDArray[Any]]:
        if not isinstance(X, Dataset):
            table, labels = validate_data(self, X, y, dtype=np.float32)
            self.form_ = Form(shape=table.shape[1:])
            return tensor(table, self.form_), labels
        if y is not None:
            raise InputError("y: expected None, as a dataset brings its targets, got labels")
        given = pairs(X)
        form = Form.of(given.inputs)
        numbers, labels = validate_data(self, rows(given.inputs), given.targets, dtype=form.dtypes)
        self.form_ = form
        return tensor(numbers, form), labels

    def _test_data(self, X: ArrayLike | Dataset[Any]) -> Tensor:  # noqa: N803
        check_is_fitted(self)
        given = inputs_of(X) if isinstance(X, Dataset) else None
        found = None if given is None else Form.of(given)
        numbers = validate_data(
            self,
            X if given is None else rows(given),
            reset=False,
            dtype=np.float32 if found is None else found.dtypes,
        )
        self.form_.require(found or Form(shape=numbers.shape[1:]))
        return tensor(numbers, self.form_).to(next(self.gate_.parameters()).device)

    def _learned(self, train: Examples, seed: int) -> tuple[TopOne, tuple[Diagnosis, ...]]:
        alone = self.n_groups == 1 or train.num_classes == 1 or len(train) < _SMALLEST_SEARCH
        networks = architecture(
            self.expert,
            self.gate,
            train.inputs[:2],
            num_classes=train.num_classes,
            num_groups=1 if alone else self.n_groups,
            seed=seed,
        )
        grouping = self._grouping()
        if alone:
            return _one_group(train, networks, grouping.retrain, seed=seed), ()
        return learn_by_grouping(
            train, networks, grouping, seed=seed, observe=_printed if self.verbose else unobserved
        )

    def _grouping(self) -> Grouping:
        return Grouping(
            search=SearchSettings(
                routing=routing.SOFT if self.routing is None else self.routing,
                gam_learning_rate=self.gate_learning_rate,
                experts_learning_rate=self.experts_learning_rate,
                assignments_learning_rate=self.assignments_learning_rate,
            ),
            budget=Budget(rounds=self.rounds, batch_size=self.batch_size, patience=self.patience),
            retrain=Optimisation(
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                epochs=self.epochs,
                batch_size=self.batch_size,
            ),
        )

    def _predictor(self) -> TopOne | TopK:
        if self.top_k == 1 or len(self.experts_) == 1:
            return TopOne(gate=self.gate_, experts=self.experts_)
        return TopK(gate=self.gate_, experts=self.experts_, top=self.top_k)


def _one_group(
    train: Examples, networks: Architecture, retrain: Optimisation, *, seed: int
) -> TopOne:
    """Train one expert on all examples, the one that `learn_by_grouping` trains for one group."""
    _, init, _, refit = spawn(seed, 4)
    with seeded(init):
        gate = networks.make_gate().to(train.inputs.device).eval()
    everyone = torch.zeros(len(train), dtype=torch.int64, device=train.inputs.device)
    experts = fit_experts(train, everyone, networks.make_expert, retrain, num_groups=1, seed=refit)
    return TopOne(gate=gate, experts=list(experts))


def _seed(random_state: int | np.random.RandomState | None) -> int:
    # Not NumPy's global state: drawing from it would change what others draw afterwards.
    if random_state is None:
        return secrets.randbits(32)
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _numbers(found: Tensor) -> NDArray[Any]:
    numbers: NDArray[Any] = found.cpu().numpy()
    return numbers


def _printed(diagnosis: Diagnosis) -> None:
    """Print a line, and which groups hold too few examples."""
    load = " ".join(f"{share:.0%}" for share in diagnosis.load)
    print(
        f"round {diagnosis.round}: validation loss {diagnosis.validation_loss:.4f}, groups {load}"
    )
    warning = diagnostics.collapse_warning(torch.tensor(diagnosis.load))
    if warning is not None:
        print(warning)
