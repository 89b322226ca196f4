import pytest
import torch
from torch import nn

from mlo.errors import ProblemError
from mlo.parallel.failure import ParallelError
from mlo.ranks import Ranks
from tests.parallel.launching import on_ranks


def as_ranks(ranks: Ranks) -> Ranks:
    """Return what type checkers and the engine take it for."""
    return ranks


def of_modules(ranks):
    torch.manual_seed(ranks.rank)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    net.register_buffer("hidden", torch.randn(2, dtype=torch.float64), persistent=False)
    net[1].running_mean.fill_(1.0 + ranks.rank)
    net[1].num_batches_tracked.fill_(5 + ranks.rank)
    strides = [t.stride() for t in net.state_dict().values()]
    ranks.broadcast(net)
    assert strides == [t.stride() for t in net.state_dict().values()]
    equal = {n: t.clone() for n, t in dict(net.state_dict(), hidden=net.hidden).items()}
    net[1].running_mean.fill_(1.0 + ranks.rank)
    net[1].num_batches_tracked.fill_(5 + ranks.rank)
    ranks.buffers(net)
    return equal, net[1].running_mean.tolist(), int(net[1].num_batches_tracked)


def test_modules_get_the_state_of_rank_0_and_the_mean_of_their_statistics():
    found = on_ranks(of_modules, 3)
    for rank, (state, mean, tracked) in enumerate(found):
        assert state.keys() == found[0][0].keys()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, found[0][0][name], rtol=0, atol=0)
        assert state["1.num_batches_tracked"] == 5
        assert state["1.running_mean"].tolist() == [1.0] * 3
        assert mean == [2.0] * 3
        assert tracked == 5 + rank


def of_other_modules(ranks):
    messages = []
    for modules in (
        [nn.Linear(2, 3), nn.Linear(2, 4)],
        [nn.Linear(2, 3), nn.Linear(2, 3, bias=False)],
        [nn.Linear(2, 3), nn.Linear(2, 3).double()],
    ):
        module = modules[ranks.rank]
        before = module.weight.detach().clone()
        with pytest.raises(ProblemError) as caught:
            ranks.broadcast(module)
        messages.append(str(caught.value))
        assert torch.equal(before, module.weight)
    return messages


def test_a_module_that_differs_is_refused_by_the_name_of_its_parameter():
    first, second = on_ranks(of_other_modules, 2)
    assert first == second
    shape, absent, dtype = first
    assert shape.startswith(
        "'weight' must be alike on all ranks, got torch.float32 of shape (3, 2)"
    )
    assert "(4, 2)" in shape
    assert absent.startswith("'bias'")
    assert "absent on rank 1" in absent
    assert dtype.startswith("'weight'")
    assert "torch.float64" in dtype


def of_agreement(ranks):
    assert as_ranks(ranks).gathered({"rank": ranks.rank}) == [{"rank": r} for r in range(3)]
    assert ranks.agree(["same"], "a list") == ["same"]
    with pytest.raises(ParallelError) as caught:
        ranks.agree(ranks.rank // 2, "the seed")
    return str(caught.value), caught.value.speaks


def test_ranks_that_disagree_say_on_what():
    expected = "ranks must agree on the seed, got 0 on rank 0 and 1 on rank 2"
    found = on_ranks(of_agreement, 3)
    assert found == [(expected, True), (expected, False), (expected, False)]


def of_one_rank(ranks):
    weight = torch.ones(2, requires_grad=True)
    batch, factor = ranks.slice(torch.arange(3))
    loss, gradients = ranks.gradients(weight.sum(), [weight])
    return ranks.rank, ranks.size, batch.tolist(), factor, float(loss), gradients[0].tolist()


def test_one_rank_is_a_run_too():
    assert on_ranks(of_one_rank, 1) == [(0, 1, [0, 1, 2], 1.0, 2.0, [1.0, 1.0])]
