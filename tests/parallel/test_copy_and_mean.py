import pytest
import torch

from mlo import weighted
from mlo.separable import Weighted
from tests.parallel.launching import on_ranks


def inputs():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = draw(13, 3)
    params = {"w": draw(3, 4), "b": draw(4), "unused": draw(2)}
    return rows, {name: t.requires_grad_() for name, t in params.items()}


def loss_of(rows, params):
    return (torch.tanh(rows @ params["w"] + params["b"]).sum(1) ** 3).mean()


def derivatives(loss, params):
    """Return gradient, Hessian product, third and fourth derivatives, in several orders."""
    used = [params["w"], params["b"]]
    gradient = torch.autograd.grad(loss, used, create_graph=True)
    vector = [torch.ones_like(t).requires_grad_() for t in used]
    product = torch.autograd.grad(gradient, used, vector, create_graph=True)
    scalar = sum((t * torch.arange(t.numel()).view_as(t)).sum() for t in product)
    in_vector = torch.autograd.grad(scalar, vector, create_graph=True)
    third = torch.autograd.grad(scalar, used, create_graph=True)
    both = sum(t.sum() for t in (*in_vector, *third))
    fourth = torch.autograd.grad(both, used)
    return [t.detach() for t in (*gradient, *product, *in_vector, *third, *fourth)]


def assert_close(found, expected, tolerance=1e-10):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= tolerance * float(other.norm())


def of_a_whole_batch(ranks):
    rows, params = inputs()
    mine, weight = ranks.slice(rows)
    loss = ranks.averaged(lambda own: loss_of(mine, own) * weight, params)
    return loss.detach(), derivatives(loss, params), ranks.traffic.kinds["copies"].count


@pytest.mark.parametrize("size", [2, 4])
def test_derivatives_of_every_order_are_those_of_the_whole_batch(size):
    rows, params = inputs()
    expected = loss_of(rows, params)
    in_one_process = derivatives(expected, params)
    for loss, found, count in on_ranks(of_a_whole_batch, size):
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-14, atol=0)
        assert_close(found, in_one_process)
        # The loss, and one for each backward pass, but two where a vector is differentiated too.
        assert count == 8


def of_ranks_that_use_nothing(ranks):
    rows, params = inputs()
    mine, weight = ranks.slice(rows)

    def local(own):
        # As where no row of a rank is routed to an expert.
        return loss_of(mine, own) * weight if ranks.rank != 1 else torch.zeros(()).double()

    found = derivatives(ranks.everywhere(local, params), params)
    nobody = ranks.everywhere(lambda _: torch.zeros(()).double(), params)
    (none,) = torch.autograd.grad(nobody, params["w"], allow_unused=True)
    return found, none


def test_a_rank_whose_loss_depends_on_nothing_keeps_nobody_waiting():
    rows, params = inputs()
    cut = rows[:5], rows[9:]
    expected = sum(loss_of(part, params) * len(part) for part in cut) / 13
    in_one_process = derivatives(expected, params)
    for found, none in on_ranks(of_ranks_that_use_nothing, 3):
        assert_close(found, in_one_process)
        assert not none.any()


def of_upstream_tensors(ranks):
    rows, params = inputs()
    mine, weight = ranks.slice(rows)
    above = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    before = ranks.traffic
    loss = ranks.everywhere(lambda own: above**2 * loss_of(mine, own) * weight, params)
    (local,) = torch.autograd.grad(loss, above, create_graph=True)
    silent = ranks.traffic.since(before).total.count
    (mixed,) = torch.autograd.grad(local, params["w"])
    return loss.detach(), local.detach(), silent, mixed


def test_only_derivatives_in_the_params_are_means():
    rows, params = inputs()
    ranks = on_ranks(of_upstream_tensors, 2)
    losses, locals_, silent, mixed = zip(*ranks, strict=True)
    whole = loss_of(rows, params)
    assert silent == (0, 0)
    assert losses[0] != losses[1]
    torch.testing.assert_close(sum(losses) / 2, 0.25 * whole.detach())
    torch.testing.assert_close(sum(locals_) / 2, whole.detach())
    (expected,) = torch.autograd.grad(whole, params["w"])
    for found in mixed:
        torch.testing.assert_close(found, expected)


def of_steps(ranks):
    """Differentiate two steps of gradient descent in what only rank 0's loss reads."""
    rows, params = inputs()
    mine, weight = ranks.slice(rows)
    above = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    point = {name: params[name] for name in ("w", "b")}

    def local(own):
        loss = loss_of(mine, own) * weight
        return loss * above.sin() if ranks.rank == 0 else torch.zeros(()).double()

    for _ in range(2):
        loss = ranks.everywhere(local, point, reads=[above])
        found = torch.autograd.grad(loss, list(point.values()), create_graph=True)
        point = {name: t - 0.1 * g for (name, t), g in zip(point.items(), found, strict=True)}
    end = sum((t**2).sum() for t in point.values())
    (local_part,) = torch.autograd.grad(end, above, allow_unused=True)
    return end.detach(), local_part


def test_steps_may_be_differentiated_in_what_only_some_losses_read():
    rows, params = inputs()
    above = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    point = {name: params[name] for name in ("w", "b")}
    for _ in range(2):
        loss = loss_of(rows[:7], point) * 7 / 13 * above.sin()
        found = torch.autograd.grad(loss, list(point.values()), create_graph=True)
        point = {name: t - 0.1 * g for (name, t), g in zip(point.items(), found, strict=True)}
    end = sum((t**2).sum() for t in point.values())
    (expected,) = torch.autograd.grad(end, above)
    (value, part), (other, none) = on_ranks(of_steps, 2)
    torch.testing.assert_close(value, end.detach())
    torch.testing.assert_close(other, end.detach())
    torch.testing.assert_close(part / 2, expected)
    assert none is None


def of_weighted_losses(ranks):
    rows, params = inputs()
    mine, weight = ranks.slice(rows)
    with_weights = ranks.everywhere(
        lambda own: weighted((mine @ own["w"]).sum(1), torch.ones(len(mine)).double()) * weight,
        params,
    )
    assert isinstance(with_weights, Weighted)
    return torch.autograd.grad(with_weights.value, params["w"])[0]


def test_weighted_losses_stay_weighted():
    rows, _ = inputs()
    expected = rows.mean(0)[:, None].expand(3, 4)
    for found in on_ranks(of_weighted_losses, 2):
        torch.testing.assert_close(found, expected)


def of_mixed_dtypes(ranks):
    single = torch.full((2,), 1.0 + ranks.rank, requires_grad=True)
    double = torch.full((3,), 1.0, dtype=torch.float64, requires_grad=True)
    table = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    params = {"single": single, "double": double, "table": table}

    def local(own):
        looked_up = torch.nn.functional.embedding(
            torch.tensor([ranks.rank, 3]), own["table"], sparse=True
        )
        return own["single"].sum() * (1 + ranks.rank) + own["double"].sum() + looked_up.sum()

    loss = ranks.everywhere(local, params)
    before = ranks.traffic
    found = torch.autograd.grad(loss, list(params.values()))
    return found, ranks.traffic.since(before).total.count


def test_dtypes_travel_apart_and_sparse_gradients_become_dense():
    for (single, double, table), count in on_ranks(of_mixed_dtypes, 2):
        assert count == 2
        torch.testing.assert_close(single, torch.full((2,), 1.5))
        torch.testing.assert_close(double, torch.ones(3, dtype=torch.float64))
        expected = torch.tensor([0.5, 0.5, 0.0, 1.0], dtype=torch.float64)[:, None].expand(4, 2)
        torch.testing.assert_close(table, expected)


def of_constants(ranks):
    _, params = inputs()
    params["held"] = torch.ones(1000, dtype=torch.float64)

    def local(own):
        return (own["b"] * (1.0 + ranks.rank)).sum() + own["w"].sum() + own["held"].sum()

    loss = ranks.everywhere(local, params)
    before = ranks.traffic
    (found,) = torch.autograd.grad(loss, params["b"])
    return found, ranks.traffic.since(before).total


def test_constants_do_not_travel():
    for found, total in on_ranks(of_constants, 2):
        torch.testing.assert_close(found, torch.full((4,), 1.5, dtype=torch.float64))
        assert (total.count, total.bytes) == (1, 8 * (12 + 4 + 2))
