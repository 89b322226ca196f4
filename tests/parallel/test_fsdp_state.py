"""Numbers of sharded tensors, and checkpoints of them on any number of ranks."""

import copy

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from mlo.errors import CheckpointError
from mlo.parallel import sharded_state
from mlo.parallel.sharded import Sharded
from mlo.parallel.sharded_state import part_of, parts_of_state, put, whole_state
from mlo.parallel.sharded_tensors import local, locals_of, of_all_parts, with_part
from tests.parallel.launching import on_ranks
from tests.parallel.sharding import distance, network, parts, rows

SHAPES = [(1,), (2,), (3, 2), (4,), (5, 3), (7,), (8, 1, 2), (2, 4)]


def numbers_of(ranks):
    mesh = init_device_mesh("cpu", (ranks.size,))
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]
    spread = [distribute_tensor(t, mesh, [Shard(0)]) for t in tensors]
    beside = [torch.full((2,), 3.0)]
    squares = [part.square().sum() for part in locals_of([*spread, *beside])]
    found = of_all_parts(squares, [*spread, *beside])
    expected = sum(t.square().sum() for t in [*tensors, *beside])
    assert len(found) == len(SHAPES) * ranks.size + 1
    torch.testing.assert_close(found.sum(), expected)
    doubled = [with_part(t, 2 * local(t)) for t in spread]
    for one, other in zip(doubled, tensors, strict=True):
        torch.testing.assert_close(one.full_tensor(), 2 * other, rtol=0, atol=0)
    # The part of an input is its own memory.
    local(spread[4]).zero_()
    assert not spread[4].full_tensor().any()
    return found.tolist()


@pytest.mark.parametrize("size", [2, 3])
def test_numbers_of_all_parts_are_the_same_everywhere(size):
    first, *others = on_ranks(numbers_of, size)
    assert all(other == first for other in others)


def shapes_there_and_back(ranks):
    mesh = init_device_mesh("cpu", (ranks.size,))
    for dim in (0, 1):
        for shape in SHAPES:
            if len(shape) <= dim:
                continue
            tensor = torch.randn(shape, dtype=torch.float64)
            torch.distributed.broadcast(tensor, 0)
            like = distribute_tensor(torch.zeros_like(tensor), mesh, [Shard(dim)])
            expected = distribute_tensor(tensor, mesh, [Shard(dim)])
            found = part_of(tensor, like)
            assert found.placements == expected.placements
            assert found.shape == tensor.shape
            assert torch.equal(found.to_local(), expected.to_local())
            put(like, tensor)
            assert torch.equal(sharded_state.whole(like), tensor)
    count = torch.tensor(3.0)
    assert part_of(count, like) is count
    with pytest.raises(CheckpointError) as caught:
        part_of(torch.ones(3), like)
    return str(caught.value)


@pytest.mark.parametrize("size", [2, 3])
def test_a_whole_tensor_is_cut_as_torch_cuts_it(size):
    first, *others = on_ranks(shapes_there_and_back, size)
    assert first.startswith("a tensor of shape (3,) cannot be spread over processes as its")
    assert all(other == first for other in others)


def optimizer_of(net, kind):
    if kind == "adam":
        return torch.optim.Adam(net.parameters(), lr=0.01, amsgrad=True)
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def step(net, optimizer, x):
    variables = list(net.parameters())
    found = Sharded([net]).gradients(net(x).square().sum(1).mean(), variables)
    for parameter, gradient in zip(variables, found, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def trained(ranks, kind, state, is_sharded):
    """Return the state after two more steps, from a state or from the start."""
    net = network(sharded=is_sharded)
    optimizer = optimizer_of(net, kind)
    if state is not None:
        for name, parameter in net.named_parameters():
            put(parameter, state["parameters"][name])
        # It comes in memory that processes share, and an optimizer goes on in it.
        saved = copy.deepcopy(state["optimizer"])
        remembered = parts_of_state(optimizer, saved["state"])
        optimizer.load_state_dict({**saved, "state": remembered})
        for parameter in net.parameters():
            kept = optimizer.state[parameter]
            assert all(
                isinstance(t, DTensor) == (is_sharded and t.dim() > 0) for t in kept.values()
            )
    for seed in (1, 2) if state is None else (3, 4):
        step(net, optimizer, rows(12, seed).chunk(ranks.size)[ranks.rank])
    if is_sharded:
        assert sum(part.numel() for part in parts(net)) < 0.65 * 95
    return whole_state(
        {"parameters": dict(net.named_parameters()), "optimizer": optimizer.state_dict()}
    )


def flat(state):
    tensors = [*state["parameters"].values()]
    for kept in state["optimizer"]["state"].values():
        tensors += [value for value in kept.values() if value is not None]
    return tensors


@pytest.mark.parametrize("kind", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def test_training_goes_on_alike_on_any_number_of_ranks(kind):
    [alone] = on_ranks(trained, 1, kind, None, False)
    [further] = on_ranks(trained, 1, kind, alone, False)
    saved, again = on_ranks(trained, 2, kind, None, True)
    for one, other in zip(flat(saved), flat(again), strict=True):
        assert torch.equal(one, other)
    assert not any(isinstance(tensor, DTensor) for tensor in flat(saved))
    assert distance(flat(saved), flat(alone)) < 1e-13
    for size, is_sharded in ((2, True), (3, True), (1, False)):
        for found in on_ranks(trained, size, kind, saved, is_sharded):
            assert distance(flat(found), flat(further)) < 1e-13
