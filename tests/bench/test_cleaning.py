from dataclasses import replace

import pytest
import torch
from torch import nn

from mlo.bench import cleaning
from mlo.bench.case import Settings
from mlo.bench.cleaning import METHODS, Recipe, Score, cleaned, split, trained
from mlo.difference import FiniteDifference
from mlo.graph import Graph
from mlo.hypergradient import hypergradient
from mlo.problem import Problem
from mlo.response.constant import constant
from mlo.response.one_step import identity

SHORT = Recipe(rounds=60)


def test_exactly_the_given_share_of_labels_is_wrong():
    data = split(Recipe(train=200, noise=0.3), seed=1)
    assert int((data.train.shown != data.train.true).sum()) == 60
    for part in (data.valid, data.test):
        assert part.shown.equal(part.true)


def test_wrong_labels_are_spread_over_all_other_classes():
    data = split(Recipe(), seed=0)
    shift = (data.train.shown - data.train.true)[data.train.shown != data.train.true] % 10
    counts = torch.bincount(shift, minlength=10)
    assert counts[0] == 0
    # 500 in nine classes: 56 each, give or take four standard deviations of 7.
    assert bool(((counts[1:] > 28) & (counts[1:] < 84)).all())


def test_the_three_parts_are_all_scans_once():
    data = split(Recipe(), seed=0)
    rows = torch.cat([data.train.inputs, data.valid.inputs, data.test.inputs])
    assert len(rows.unique(dim=0)) == len(split(Recipe(), seed=5).train.inputs.new_empty(1797))


def graph_of(loss, response):
    """Return the program on one batch of 20 examples with a smooth network, in float64."""
    data = split(Recipe(train=20, valid=10), seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    weights = nn.Embedding(20, 1, sparse=True, dtype=torch.float64)
    graph = Graph(
        Problem(
            name="model",
            module=model,
            loss=loss,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
            response=response,
        ),
        Problem(name="weights", module=weights, loss=cleaning.plain_loss),
    )
    batches = {
        "model": (torch.arange(20), data.train.inputs.double(), data.train.shown),
        "weights": (torch.arange(10), data.valid.inputs.double(), data.valid.shown),
    }
    return graph, batches


def test_both_forms_of_the_loss_have_one_hypergradient():
    found = []
    for loss in (cleaning.noisy_loss, cleaning.separable_loss):
        graph, batches = graph_of(loss, identity())
        found.append(hypergradient(graph, "weights", batches).gradient["weight"].to_dense())
    assert float(found[0].norm()) > 0
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("loss", [cleaning.noisy_loss, cleaning.separable_loss])
def test_the_hypergradient_is_the_derivative_of_one_update(loss):
    graph, batches = graph_of(loss, identity())
    model, weights = (graph.problem(name).module for name in ("model", "weights"))
    found = hypergradient(graph, "weights", batches).gradient["weight"].to_dense()[:, 0]
    values = {n: p.detach() for n, p in model.named_parameters()}
    rows, inputs, labels = batches["model"]
    _, clean_inputs, clean = batches["weights"]

    def after(logits):
        moved = {n: v.clone().requires_grad_() for n, v in values.items()}
        losses = nn.functional.cross_entropy(
            torch.func.functional_call(model, moved, (inputs,)), labels, reduction="none"
        )
        inner = (logits[rows].sigmoid() * losses).mean()
        steps = torch.autograd.grad(inner, list(moved.values()), create_graph=True)
        return {n: v - 0.5 * g for (n, v), g in zip(values.items(), steps, strict=True)}

    # The upper gradient is taken before the update, so only the update is differentiated.
    output = torch.func.functional_call(model, v := dict(model.named_parameters()), (clean_inputs,))
    upper = nn.functional.cross_entropy(output, clean)
    cotangent = torch.autograd.grad(upper, list(v.values()))
    logits = weights.weight.detach()[:, 0].requires_grad_()
    (expected,) = torch.autograd.grad(list(after(logits).values()), logits, list(cotangent))
    torch.testing.assert_close(found, expected)


def test_rows_that_are_not_in_the_batch_have_no_gradient():
    graph, batches = graph_of(cleaning.noisy_loss, identity(product=FiniteDifference(radius=1e-4)))
    rows, inputs, labels = batches["model"]
    batches["model"] = (rows[:5], inputs[:5], labels[:5])
    gradient = hypergradient(graph, "weights", batches).gradient["weight"].to_dense()
    assert bool((gradient[:5] != 0).all())
    assert not gradient[5:].any()


@pytest.mark.parametrize(("response", "loss"), METHODS.values(), ids=METHODS)
def test_every_method_tells_wrong_labels_from_right_ones(response, loss):
    recipe = replace(SHORT, weight_rate=0.3)
    score = cleaned(split(recipe, seed=0), response, recipe, seed=0, loss=loss)
    assert score.auc is not None
    # Half is chance; the standard deviation of the AUC of 1000 random weights is 0.018.
    assert score.auc > 0.5 + 4 * 0.018


def test_right_labels_make_a_better_model_than_noisy_ones():
    data = split(SHORT, seed=0)
    right = data.train.rows(data.train.shown == data.train.true)
    assert (
        trained(data, right, SHORT, seed=0).error < trained(data, data.train, SHORT, seed=0).error
    )


def test_a_seed_decides_everything():
    data, recipe = split(SHORT, seed=0), replace(SHORT, rounds=5)
    once, again = (cleaned(data, identity(), recipe, seed=3) for _ in range(2))
    assert once == again


def test_means_and_standard_errors_are_over_seeds():
    scores = iter([Score(error=0.1, auc=0.7), Score(error=0.3, auc=0.9, reports=("grows",))])
    row = cleaning.measure(lambda data, seed: next(scores), SHORT, [0, 1])
    assert row == pytest.approx(
        {
            "test error (%)": 20.0,
            "test error (%), s.e.": 10.0,
            "AUC": 0.8,
            "AUC, s.e.": 0.1,
            "seeds with warnings": 1,
        }
    )


def test_the_case_runs(monkeypatch):
    monkeypatch.setattr(cleaning, "METHODS", dict(list(METHODS.items())[:1]))
    result = cleaning.CASE.run(Settings(quick=True))
    assert [row["method"] for row in result.rows] == [*cleaning.BASELINES, "identity"]
    assert [row.get("AUC") is None for row in result.rows] == [True, True, True, False]


def test_no_weights_are_learned_where_the_model_is_a_constant():
    # The engine refuses it, so that a method that learns nothing cannot pass for one that does.
    data = split(SHORT, seed=0)
    with pytest.raises(Exception, match="weights"):
        cleaned(data, constant(), SHORT, seed=0)
