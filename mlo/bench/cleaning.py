"""Data cleaning: one weight per training example, half of whose labels are wrong.

model:    w*(a) = argmin_w  mean over the noisy examples of σ(a_i) · cross-entropy
weights:  min_a  cross-entropy of w*(a) on a few correct labels

Whether a method finds the wrong labels is seen in two ways: the test error of the model, and how
well the weights separate wrong labels from right ones.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mlo.bench.case import Case, Cell, Result, Row, Settings
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.inverse.warm_started import warm_started
from mlo.problem import Loss, Problem
from mlo.response.implicit import cg, implicit, neumann
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.value_function import value_function
from mlo.response_warning import ResponseWarning
from mlo.separable import Weighted, weighted

NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast is trained; the same for every method.

    Attributes:
        train: Noisy examples.
        valid: Examples with correct labels.
        noise: Share of the noisy examples whose label is one of the nine others.
        hidden: Units of the hidden layer.
        batch: Examples in a minibatch.
        rounds: Updates of the weights.
        steps: Updates of the model per update of the weights.
        rate: Learning rate of the model, by SGD.
        decay: Its weight decay.
        weight_rate: Learning rate of the weights, by Adam on the rows of a minibatch.
    """

    train: int = 1000
    valid: int = 100
    noise: float = 0.5
    hidden: int = 64
    batch: int = 100
    rounds: int = 600
    steps: int = 1
    rate: float = 0.3
    decay: float = 0.0
    weight_rate: float = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Scans with the labels that are shown and those that are true.

    Attributes:
        inputs: Grey values in [0, 1], shape ``(examples, 64)``.
        shown: Labels to train on, shape ``(examples,)``.
        true: Correct labels, shape ``(examples,)``.
    """

    inputs: Tensor
    shown: Tensor
    true: Tensor

    def rows(self, rows: Tensor) -> "Examples":
        """Return some of the examples, named by index or mask."""
        return Examples(inputs=self.inputs[rows], shown=self.shown[rows], true=self.true[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Noisy training examples, clean validation and test examples."""

    train: Examples
    valid: Examples
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one training reached.

    Attributes:
        error: Share of the test examples that the model gets wrong.
        auc: Probability that a right label has a larger weight than a wrong one; None for methods
            without weights.
        reports: What the engine warned of while it trained.
    """

    error: float
    auc: float | None = None
    reports: tuple[str, ...] = ()


def split(recipe: Recipe, *, seed: int) -> Split:
    """Return scikit-learn's 1,797 scanned digits in three parts, the labels of the first noisy.

    Exactly `Recipe.noise` of the training labels are replaced, each by another class.

    References:
        Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits, UCI.

    >>> train = split(Recipe(train=100), seed=0).train
    >>> int((train.shown != train.true).sum())
    50
    """
    generator = torch.Generator().manual_seed(seed)
    scans, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=generator)
    scans, labels = scans[order].float() / 16, labels[order]
    shift = torch.randint(1, NUM_CLASSES, (recipe.train,), generator=generator)
    is_wrong = torch.arange(recipe.train) < round(recipe.noise * recipe.train)
    shown = labels.clone()
    shown[: recipe.train] += torch.where(is_wrong, shift, 0)
    everything = Examples(inputs=scans, shown=shown % NUM_CLASSES, true=labels)
    ends = (0, recipe.train, recipe.train + recipe.valid, len(labels))
    parts = [everything.rows(torch.arange(*pair)) for pair in pairwise(ends)]
    return Split(train=parts[0], valid=parts[1], test=parts[2])


def noisy_loss(model: nn.Module, weights: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Return the weighted loss on noisy labels, a 0-dim tensor."""
    rows, inputs, labels = batch
    losses = cross_entropy(model(inputs), labels, reduction="none")
    trust: Tensor = weights(rows)[:, 0].sigmoid()
    return (trust * losses).mean()


def separable_loss(model: nn.Module, weights: nn.Module, batch: Sequence[Tensor]) -> Weighted:
    """Return the same loss in the form that needs no second derivative of the model."""
    rows, inputs, labels = batch
    losses = cross_entropy(model(inputs), labels, reduction="none")
    return weighted(losses, weights(rows)[:, 0].sigmoid())


def plain_loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Return the loss on the labels of the batch, a 0-dim tensor."""
    _, inputs, labels = batch
    return cross_entropy(model(inputs), labels)


def trained(data: Split, examples: Examples, recipe: Recipe, *, seed: int) -> Score:
    """Train on `examples` with equal weights, for as many updates as a cleaned model gets."""
    generator = torch.Generator().manual_seed(seed)
    problem = Problem(
        name="model",
        module=_model(recipe, seed),
        loss=plain_loss,
        batches=_loader(examples, recipe, generator),
        optimizer=lambda p: torch.optim.SGD(p, lr=recipe.rate, weight_decay=recipe.decay),
    )
    engine = Engine(Graph(problem), device="cpu")
    engine.run(recipe.rounds * recipe.steps, show_progress=False)
    return Score(error=_error(problem.module, data.test))


def cleaned(
    data: Split, response: Response, recipe: Recipe, *, seed: int, loss: Loss = noisy_loss
) -> Score:
    """Learn model and weights together, the model differentiated by `response`.

    Args:
        data: Noisy training, clean validation and test examples.
        response: How the model answers a cotangent.
        recipe: How long and how fast.
        seed: Of the model's initial parameters and the order of the examples.
        loss: Of the model.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(recipe, seed)
    # Rows that are not in the batch must not move, so gradient and optimizer are sparse.
    weights = nn.Embedding(recipe.train, 1, sparse=True)
    nn.init.zeros_(weights.weight)
    graph = Graph(
        Problem(
            name="model",
            module=model,
            loss=loss,
            batches=_loader(data.train, recipe, generator),
            steps=recipe.steps,
            optimizer=lambda p: torch.optim.SGD(p, lr=recipe.rate, weight_decay=recipe.decay),
            response=response,
        ),
        Problem(
            name="weights",
            module=weights,
            loss=plain_loss,
            batches=_loader(data.valid, recipe, generator),
            optimizer=lambda p: torch.optim.SparseAdam(p, lr=recipe.weight_rate),
        ),
    )
    reports = _run(graph, recipe.rounds)
    is_right = data.train.shown == data.train.true
    auc = float(roc_auc_score(is_right.numpy(), weights.weight.detach()[:, 0].numpy()))
    return Score(error=_error(model, data.test), auc=auc, reports=reports)


def measure(method: Callable[[Split, int], Score], recipe: Recipe, seeds: Sequence[int]) -> Row:
    """Return mean and standard error over seeds of one method's scores."""
    scores = [method(split(recipe, seed=seed), seed) for seed in seeds]
    row: Row = {}
    row |= _summary("test error (%)", [100 * score.error for score in scores])
    row |= _summary("AUC", [score.auc for score in scores if score.auc is not None])
    row["seeds with warnings"] = sum(bool(score.reports) for score in scores)
    return row


def run(settings: Settings) -> Result:
    """Train without cleaning, with every response, and on the right labels alone."""
    recipe = Recipe(rounds=20) if settings.quick else Recipe()
    seeds = range(settings.seed, settings.seed + (2 if settings.quick else 5))
    rows: list[Row] = []
    for name, choose in BASELINES.items():
        method = partial(_baseline, choose, recipe)
        rows.append({"method": name, **measure(method, recipe, seeds)})
    for name, (response, loss) in METHODS.items():
        method = partial(_method, response, loss, recipe)
        spent: Cell = response.evaluations
        row: Row = {"method": name, "evaluations": spent}
        rows.append({**row, **measure(method, recipe, seeds)})
    return Result(
        title=f"Data cleaning, {recipe.noise:.0%} wrong labels, {len(seeds)} seeds",
        rows=rows,
        notes=(
            f"{recipe.train} scans of digits with {recipe.noise:.0%} wrong labels, {recipe.valid} "
            f"with correct ones, {recipe.hidden} hidden units, {recipe.rounds} rounds.",
            "Test error: mean over seeds; each seed has a split, wrong labels and initial "
            "parameters of its own, the same for all methods.",
            "AUC: probability that a right label has a larger weight than a wrong one.",
            "Evaluations: gradient evaluations of the response in a round.",
        ),
    )


CASE = Case(
    name="cleaning",
    summary="half of the labels are wrong: test error and AUC of learned example weights",
    run=run,
)


def _baseline(choose: Callable[[Split], Examples], recipe: Recipe, data: Split, seed: int) -> Score:
    return trained(data, choose(data), recipe, seed=seed)


def _method(response: Response, loss: Loss, recipe: Recipe, data: Split, seed: int) -> Score:
    return cleaned(data, response, recipe, seed=seed, loss=loss)


def _right(data: Split) -> Examples:
    return data.train.rows(data.train.shown == data.train.true)


BASELINES: Mapping[str, Callable[[Split], Examples]] = {
    "all labels, unweighted": lambda data: data.train,
    "the clean validation labels alone": lambda data: data.valid,
    "the right labels alone (oracle)": _right,
}
"""On what a model without weights is trained."""

METHODS: Mapping[str, tuple[Response, Loss]] = {
    "identity": (identity(), noisy_loss),
    "finite_difference": (finite_difference(), noisy_loss),
    "finite_difference, weighted loss": (finite_difference(), separable_loss),
    "neumann(terms=5, rate=0.1)": (neumann(terms=5, rate=0.1), noisy_loss),
    "cg(steps=5, damping=1)": (cg(steps=5, damping=1.0), noisy_loss),
    "warm_started": (implicit(warm_started()), noisy_loss),
    "value_function(steps=5, rate=0.1)": (value_function(steps=5, rate=0.1), noisy_loss),
}
"""How the model is differentiated, and which form its loss has."""


def _summary(name: str, values: Sequence[float]) -> Row:
    if not values:
        return {name: None, f"{name}, s.e.": None}
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: statistics.fmean(values), f"{name}, s.e.": error}


def _run(graph: Graph, rounds: int) -> tuple[str, ...]:
    """Run the program and return the engine's reports of responses that failed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResponseWarning)
        Engine(graph, device="cpu").run(rounds, show_progress=False)
    for warning in caught:
        if not issubclass(warning.category, ResponseWarning):
            warnings.warn(warning.message, stacklevel=2)
    return tuple(str(w.message) for w in caught if issubclass(w.category, ResponseWarning))


def _model(recipe: Recipe, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, NUM_CLASSES)
        )


def _loader(
    examples: Examples, recipe: Recipe, generator: torch.Generator
) -> DataLoader[tuple[Tensor, ...]]:
    data = TensorDataset(torch.arange(len(examples.shown)), examples.inputs, examples.shown)
    size = min(recipe.batch, len(examples.shown))
    return DataLoader(data, batch_size=size, shuffle=True, drop_last=True, generator=generator)


def _error(model: nn.Module, examples: Examples) -> float:
    with torch.no_grad():
        return float((model(examples.inputs).argmax(1) != examples.true).float().mean())
