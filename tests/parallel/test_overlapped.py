import pytest
import torch
from torch import nn

from mlo.parallel import overlapped
from mlo.parallel.collectives import Collectives
from tests.parallel.launching import on_ranks


class Routed(nn.Module):
    """A table, two experts of which a rank may use one, and a layer that nobody uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(9, 3, sparse=True)
        self.experts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
        self.deep = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        self.unused = nn.Linear(2, 2)
        self.double()

    def forward(self, rows, experts):
        looked_up = self.table(rows)
        chosen = [self.experts[e](looked_up[experts == e]) for e in experts.unique().tolist()]
        return self.deep(torch.cat(chosen))


def batch():
    rows = torch.tensor([0, 1, 1, 2, 3, 8, 7, 7, 5, 4, 0])
    # With two ranks and with four, some have no row for one of the experts.
    experts = torch.tensor([0] * 7 + [1] * 4)
    return rows, experts


def loss_of(model, batch):
    return model(*batch).square().mean()


def plain(gradients):
    return [None if g is None else (g.to_dense(), g.is_sparse) for g in gradients]


def several_updates(ranks):
    model = Routed()
    parameters = list(model.parameters())
    mine, weight = ranks.slice(batch())
    found, traffic = [], []
    for _ in range(3):
        before = ranks.traffic
        loss, gradients = ranks.gradients(loss_of(model, mine) * weight, parameters)
        traffic.append(ranks.traffic.since(before).kinds)
        found.append((loss, plain(gradients)))
    assert not any(p._backward_hooks for p in parameters)
    return found, traffic


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_are_those_of_the_whole_batch(size):
    model = Routed()
    expected_loss = loss_of(model, batch())
    expected = plain(
        torch.autograd.grad(expected_loss, list(model.parameters()), allow_unused=True)
    )
    for found, traffic in on_ranks(several_updates, size, bucket_bytes=200):
        for loss, gradients in found:
            torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-14, atol=0)
            for one, other in zip(gradients, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert one[1] == other[1]
                    torch.testing.assert_close(one[0], other[0], rtol=1e-12, atol=1e-16)
        assert traffic[0]["plans"].count == 1
        assert "plans" not in traffic[1]
        assert traffic[1] == traffic[2]


def what_begins_during_the_backward_pass(ranks):
    """Return how many reductions had begun when the backward pass reached its last gradient."""
    layers = [nn.Linear(10, 10, bias=False).double() for _ in range(6)]
    parameters = [layer.weight for layer in layers]
    begun = []
    for _ in range(2):
        before = ranks.traffic
        layers[0].weight.register_hook(
            lambda _, before=before: begun.append(
                ranks.traffic.since(before).kinds.get("gradients")
            )
        )
        value = torch.ones(1, 10, dtype=torch.float64)
        for layer in layers:
            value = layer(value)
        ranks.gradients(value.sum(), parameters)
        layers[0].weight._backward_hooks.clear()
    return begun


def test_reductions_go_on_while_the_backward_pass_does():
    for first, second in on_ranks(what_begins_during_the_backward_pass, 2, bucket_bytes=800):
        assert first is None
        # The five layers behind the first one; the loss has found room beside the last one.
        assert second.count == 5


def of_ranks_without_a_loss(ranks):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = []
    for _ in range(2):
        loss = weight.sum() if ranks.rank == 1 else torch.full((), 2.0, dtype=torch.float64)
        found.append(ranks.gradients(loss, [weight]))
    nobody = ranks.gradients(torch.zeros((), dtype=torch.float64), [weight])
    return found, nobody


def test_a_rank_whose_loss_depends_on_nothing_takes_part():
    for found, nobody in on_ranks(of_ranks_without_a_loss, 2):
        for loss, (gradient,) in found:
            assert loss == 2.5
            assert gradient.tolist() == [0.5, 0.5, 0.5]
        assert nobody[1] == [None]


def of_changing_forms(ranks):
    table = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([1, 2 + ranks.rank])

    def sparse():
        return nn.functional.embedding(rows, table, sparse=True).sum()

    def dense():
        return table[rows].sum()

    losses = [sparse, dense, sparse, sparse if ranks.rank else dense, dense, sparse]
    return [plain(ranks.gradients(loss(), [table])[1])[0] for loss in losses]


def test_a_gradient_may_be_sparse_at_one_time_and_dense_at_another():
    expected = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.0], dtype=torch.float64)[:, None].expand(5, 2)
    for found in on_ranks(of_changing_forms, 2):
        for gradient, _ in found:
            torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
        assert [is_sparse for _, is_sparse in found] == [True, False, True, False, False, True]


def of_orders_that_differ(ranks):
    """Use two layers in an order that depends on the rank."""
    layers = [nn.Linear(4, 4, bias=False).double() for _ in range(2)]
    for layer in layers:
        nn.init.eye_(layer.weight)
    found = []
    for _ in range(3):
        value = torch.ones(1, 4, dtype=torch.float64)
        for index in (0, 1) if ranks.rank else (1, 0):
            value = layers[index](value)
        found.append(ranks.gradients(value.sum(), [layer.weight for layer in layers])[1])
    return found


def test_ranks_whose_gradients_come_in_another_order_still_meet():
    for found in on_ranks(of_orders_that_differ, 2, bucket_bytes=1):
        for gradients in found:
            for gradient in gradients:
                assert gradient.tolist() == [[1.0] * 4] * 4


def of_failing_backward(ranks):
    weight = torch.ones(2, requires_grad=True)

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_, value):
            return value.clone()

        @staticmethod
        def backward(_, gradient):
            raise ZeroDivisionError("in a backward pass")

    with pytest.raises(ZeroDivisionError):
        ranks.gradients(Fails.apply(weight).sum(), [weight])
    return not weight._backward_hooks


def test_hooks_are_removed_when_a_backward_pass_fails():
    assert on_ranks(of_failing_backward, 2) == [True, True]


def test_the_default_bucket_is_of_25_mebibytes():
    assert overlapped.BUCKET_BYTES == 25 * 2**20
    assert Collectives.__init__.__kwdefaults__ == {"guard": None}
