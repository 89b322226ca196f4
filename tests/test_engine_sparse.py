"""Tables with one row per example: a row that is not in the batch does not move."""

import pytest
import torch
from torch import nn

import mlo
from mlo import Engine, Graph, Problem, hypergradient
from tests.programs import relative_error

RESPONSES = [
    mlo.finite_difference(1e-3),
    mlo.identity(),
    mlo.cg(steps=3, damping=2.0),
    mlo.cg(steps=3, damping=2.0, product="finite_difference"),
    mlo.neumann(terms=3),
]
every_response = pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.label)


def data(num_rows=10):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_rows, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).sin()


def program(response, *, sparse, batches, direct=False):
    inputs, targets = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    table = nn.Embedding(10, 1, sparse=sparse, dtype=torch.float64)

    def train_loss(model, table, batch):
        errors = (model(inputs[batch]) - targets[batch]).square()
        return (table(batch).sigmoid() * errors).mean()

    def valid_loss(model, batch):
        return (model(inputs) - targets).square().mean()

    def valid_loss_with_direct_term(model, table, batch):
        return valid_loss(model, batch) + 0.1 * table(batch).square().sum()

    adam = torch.optim.SparseAdam if sparse else torch.optim.Adam
    return Graph(
        Problem(
            name="model",
            module=model,
            loss=train_loss,
            batches=batches,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=response,
        ),
        Problem(
            name="table",
            module=table,
            loss=valid_loss_with_direct_term if direct else valid_loss,
            batches=[torch.tensor([7, 8])],
            optimizer=lambda p: adam(p, lr=0.1),
        ),
    )


@every_response
@pytest.mark.parametrize("direct", [False, True])
def test_only_rows_of_the_batch_move_bitwise(response, direct):
    batches = [torch.tensor([0, 1, 2]), torch.tensor([2, 5, 5])]
    graph = program(response, sparse=True, batches=batches, direct=direct)
    table = graph.problem("table").module.weight
    engine = Engine(graph, device="cpu")
    for rows in batches * 2:
        before = table.detach().clone()
        engine.run(1)
        moved = (table.detach() != before).any(1).nonzero()[:, 0].tolist()
        assert set(moved) == set(rows.tolist()) | ({7, 8} if direct else set())


@every_response
@pytest.mark.parametrize("direct", [False, True])
def test_a_sparse_table_has_the_gradient_of_a_dense_one(response, direct):
    rows = {"model": torch.tensor([2, 5, 5, 9]), "table": torch.tensor([7, 5])}
    found = [
        hypergradient(program(response, sparse=sparse, batches=[0], direct=direct), "table", rows)
        for sparse in (True, False)
    ]
    gradient = found[0].gradient["weight"]
    assert gradient.is_sparse
    assert relative_error({"weight": gradient.to_dense()}, found[1].gradient) < 1e-9
    assert found[0].outcomes["model"].status == found[1].outcomes["model"].status


def test_adam_on_a_dense_table_would_drift():
    """Why the rows above need sparse gradients: momentum moves rows that are not in the batch."""
    graph = program(mlo.identity(), sparse=False, batches=[torch.tensor([0]), torch.tensor([1])])
    table = graph.problem("table").module.weight
    engine = Engine(graph, device="cpu")
    engine.run(1)
    before = table.detach().clone()
    engine.run(1)
    assert table[0] != before[0]


@pytest.mark.parametrize(
    "response",
    [
        mlo.finite_difference(1e-3),
        mlo.identity(),
        mlo.cg(steps=4),
        mlo.cg(steps=4, product="finite_difference"),
    ],
    ids=lambda r: r.label,
)
def test_a_sparse_table_may_be_solved_for_below(response):
    """The lower problem is the table; its cotangent and Hessian are made dense."""

    def graph(sparse):
        torch.manual_seed(0)
        return Graph(
            Problem(
                name="table",
                module=nn.Embedding(6, 2, sparse=sparse, dtype=torch.float64),
                loss=lambda table, above, batch: (
                    (table(batch) - above(table(batch)).tanh()).pow(4).sum()
                ),
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
                response=response,
            ),
            Problem(
                name="above",
                module=nn.Linear(2, 2).double(),
                loss=lambda table, batch: table(batch).square().sum(),
            ),
        )

    rows = {"table": torch.tensor([1, 2]), "above": torch.tensor([1, 4])}
    sparse, dense = (hypergradient(graph(kind), "above", rows) for kind in (True, False))
    assert relative_error(sparse.gradient, dense.gradient) < 1e-9
