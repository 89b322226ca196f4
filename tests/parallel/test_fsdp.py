"""First derivatives of losses that read sharded modules, without an engine."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from mlo.errors import MloError, ProblemError
from mlo.parallel.sharded import NOT_SHARDED, Sharded, check_first_order, layers_of, let_go
from mlo.parallel.sharded_ranks import ShardedRanks, with_sharded
from mlo.parallel.sharded_tensors import any_sharded, is_sharded
from mlo.ranks import Ranks
from tests.parallel.launching import on_ranks
from tests.parallel.sharding import distance, is_let_go, network, parts, rows, whole

ROWS = 6
"""In all; two ranks have half of them each."""


def own(tensor, ranks):
    return tensor.chunk(ranks.size)[ranks.rank]


def reference(loss, inputs):
    return list(torch.autograd.grad(loss, inputs, allow_unused=True))


def leaves(module):
    """Return new variables in the memory of the parameters, as a sweep makes them."""
    let_go(module)
    return [p.detach().requires_grad_() for p in module.parameters()]


def square(net, x):
    return net(x).square().sum(1).mean()


def gradients(ranks):
    net, plain = network(sharded=True), network(sharded=False)
    sharded, everything = Sharded([net]), rows(ROWS)
    x = own(everything, ranks)
    expected = reference(square(plain, everything), list(plain.parameters()))
    held = parts(net)
    found = {}

    def take(name, loss, times=1.0):
        got = sharded.gradients(loss, leaves(net))
        assert is_let_go(net)
        assert all(p.grad is None for p in net.parameters())
        found[name] = distance(got, [None if t is None else times * t for t in expected])

    take("once", square(net, x))
    take("once more", square(net, x))
    take("two forward passes", square(net, x) + square(net, x), 2.0)
    first, second = square(net, x), square(net, x)
    take("the second of two losses", second)
    take("then the first", first)
    net.layers[0].set_reshard_after_backward(False)
    take("held after the backward pass", square(net, x))
    net.layers[0].set_reshard_after_backward(True)
    with torch.no_grad():
        net(x)
    assert not is_let_go(net)
    take("after a forward pass that stays", square(net, x))
    net.layers[1].weight.requires_grad_(False)
    found["frozen"] = sharded.gradients(square(net, x), leaves(net))[4] is None
    net.layers[1].weight.requires_grad_(True)
    take("thawed", square(net, x))
    # One row more on rank 0: each loss is weighted by its share.
    count = ROWS - 1
    x = own(rows(count), ranks)
    expected = reference(square(plain, rows(count)), list(plain.parameters()))
    take("uneven rows", square(net, x) * (len(x) * ranks.size / count))
    found["parts are what they were"] = all(map(torch.equal, parts(net), held))
    found["elements"] = sum(part.numel() for part in parts(net))
    return found


def test_gradients_are_those_of_the_whole_batch():
    both = on_ranks(gradients, 2)
    elements = [found.pop("elements") for found in both]
    for found in both:
        assert found.pop("frozen")
        assert found.pop("parts are what they were")
        assert max(found.values()) < 1e-14, found
    in_all = sum(p.numel() for p in network(sharded=False).parameters())
    assert sum(elements) == in_all
    assert all(0.35 * in_all < each < 0.65 * in_all for each in elements)


def inputs_beside(ranks):
    net, plain = network(sharded=True), network(sharded=False)
    sharded, x = Sharded([net]), own(rows(ROWS), ranks)
    shift = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    other = torch.ones(2, requires_grad=True)
    bystander = torch.ones((), dtype=torch.float64, requires_grad=True)
    for tensor in (shift, bystander, net.scale, net.layers[0].weight):
        tensor.grad = torch.full_like(tensor, 7.0)

    def loss(module):
        return square(module, x * shift) + bystander.square()

    [local] = reference(loss(plain), [shift])
    everything = reference(square(plain, rows(ROWS) * shift), list(plain.parameters()))
    alone = sharded.gradients(loss(net), [shift, other])
    assert is_let_go(net)
    beside = sharded.gradients(loss(net), [shift, *leaves(net), other])
    # What only multiplies the output: its backward pass never comes to the module.
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    after = sharded.gradients(square(net, x).detach() * factor, [factor])
    assert is_let_go(net)
    kept = [shift.grad, bystander.grad, whole(net.scale.grad), whole(net.layers[0].weight.grad)]
    return {
        "alone": distance(alone, [local, None]),
        "beside": distance(beside, [local, *everything, None]),
        "after": distance(after, [square(plain, x)]),
        "kept": all(bool((gradient == 7).all()) for gradient in kept),
        "none": all(p.grad is None for n, p in net.named_parameters() if n == "layers.1.weight"),
    }


def test_what_is_not_sharded_gets_the_gradient_of_this_rank_and_no_grad_is_changed():
    for found in on_ranks(inputs_beside, 2):
        assert found.pop("kept")
        assert found.pop("none")
        assert max(found.values()) < 1e-14, found


class Fault(torch.autograd.Function):
    """The identity, whose backward pass fails."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("the backward pass fails")


def other_points(ranks):
    net, plain = network(sharded=True), network(sharded=False)
    sharded, everything = Sharded([net]), rows(ROWS)
    x, held = own(everything, ranks), parts(net)
    base = dict(net.named_parameters())
    moved = {n: (p * 1.25 + 0.5).detach() for n, p in base.items()}
    expected_here = reference(square(plain, everything), list(plain.parameters()))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(parameter * 1.25 + 0.5)
    expected_there = reference(square(plain, everything), list(plain.parameters()))
    found = {}

    def evaluate(name, point, expected):
        with sharded.standing_at(base, point) as standing:
            variables = [t.detach().requires_grad_() for t in standing.values()]
            found[name] = distance(sharded.gradients(square(net, x), variables), expected)
        assert is_let_go(net)
        assert all(map(torch.equal, parts(net), held))

    evaluate("there", moved, expected_there)
    evaluate("here", {n: t.detach() for n, t in base.items()}, expected_here)
    # A forward pass alone, in which what is gathered at the other point stays.
    with sharded.standing_at(base, moved):
        square(net, x)
    evaluate("after a forward pass alone", base, expected_here)

    def fails(name, function, message):
        with pytest.raises(RuntimeError, match=message), sharded.standing_at(base, moved):
            sharded.gradients(function(), leaves(net))
        assert all(map(torch.equal, parts(net), held)), name
        assert is_let_go(net), name
        assert all(p.grad is None for p in net.parameters()), name
        evaluate(name, {n: t.detach() for n, t in base.items()}, expected_here)
        evaluate(name + ", there", moved, expected_there)

    fails("fault in the forward pass", lambda: net(x[:, :3]), "mat1 and mat2")
    fails("fault in the backward pass", lambda: square(Fails(net), x), "the backward pass fails")
    fails("fault before the forward pass", lambda: net(x[9:, :2]), "mat1 and mat2")
    return found


class Fails(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        for layer in self.net.layers:
            layer.register_forward_hook(lambda _, __, output: Fault.apply(output))
        found = self.net(x)
        for layer in self.net.layers:
            layer._forward_hooks.popitem()
        return found


def test_another_point_is_left_bit_for_bit_also_by_an_exception():
    for found in on_ranks(other_points, 2):
        assert max(found.values()) < 1e-14, found


def read_where_they_stand(ranks):
    net, plain = network(sharded=True), network(sharded=False)
    sharded, everything = Sharded([net]), rows(ROWS)
    x = own(everything, ranks)

    def penalty(module):
        squares = [p.square().sum() for layer in module.layers for p in layer.parameters()]
        return sum(t.full_tensor() if isinstance(t, DTensor) else t for t in squares)

    expected = reference(square(plain, everything) + penalty(plain), [*plain.parameters()])
    found = sharded.gradients(square(net, x) + penalty(net), leaves(net))
    return distance(found, expected)


def test_a_penalty_on_parameters_where_they_stand_counts():
    assert max(on_ranks(read_where_they_stand, 2)) < 1e-14


def refused(ranks):
    messages = {}

    def refuse(name, function):
        with pytest.raises(MloError) as caught:
            function()
        messages[name] = str(caught.value)

    net = network(sharded=True)
    sharded, x = Sharded([net]), own(rows(ROWS), ranks)
    base = dict(net.named_parameters())
    copied = {n: p.detach().clone() for n, p in base.items()}
    refuse("no base", lambda: sharded.standing_at(None, copied))
    refuse("elsewhere", lambda: sharded.keeps(base["scale"], copied["scale"], "scale"))
    refuse("whole", lambda: sharded.keeps(base["scale"], torch.ones(1), "scale"))
    assert sharded.keeps(base["scale"], base["scale"].detach(), "scale")
    assert not sharded.keeps(torch.ones(1), torch.ones(1), "scale")
    values = [t.requires_grad_() for t in copied.values()]
    loss, gathered = square(net, x), list(net.parameters())
    refuse("gathered", lambda: sharded.gradients(loss, gathered))
    refuse("values", lambda: sharded.gradients(square(net, x), values))
    net.set_requires_gradient_sync(False)
    refuse("not reduced", lambda: sharded.gradients(square(net, x), leaves(net)))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    half = network(sharded=True, mp_policy=policy)
    doubled = {n: (p * 2).detach() for n, p in half.named_parameters()}
    halves = Sharded([half])
    refuse("half", lambda: halves.standing_at(dict(half.named_parameters()), doubled))
    mesh = init_device_mesh("cpu", (ranks.size,))
    other = nn.Linear(4, 4)
    other.weight = nn.Parameter(distribute_tensor(other.weight.detach(), mesh, [Shard(0)]))
    refuse("other", lambda: Sharded([other]))
    refuse("no ranks", lambda: with_sharded(None, [net]))
    refuse("option", lambda: with_sharded(ranks, [net], options={"compiled": True}))
    check_first_order("model", "cg()", {"model": net}, is_first_order=True)
    reads = {"plain": nn.Linear(1, 1), "net": net}
    refuse("twice", lambda: check_first_order("model", "cg()", reads, is_first_order=False))
    return messages


def test_refusals_name_what_is_wrong_in_one_line():
    first, second = on_ranks(refused, 2)
    assert first == second
    for message in first.values():
        assert "\n" not in message
    instead = "use mlo.finite_difference()"
    assert first.pop("no base").startswith("parameters sharded by fully_shard can be moved only")
    for name in ("elsewhere", "whole"):
        assert first[name].startswith("parameter 'scale' is sharded by fully_shard")
        assert instead in first.pop(name)
    assert "does not hold between evaluations" in first["values"]
    assert instead in first.pop("values")
    assert "does not hold between evaluations" in first.pop("gathered")
    assert "set_requires_gradient_sync(True)" in first.pop("not reduced")
    assert "is gathered in torch.bfloat16" in first.pop("half")
    assert first.pop("other").startswith("parameter 'weight' is a DTensor that fully_shard has not")
    assert "ranks=None" in first.pop("no ranks")
    assert first.pop("option").startswith("compiled=True does not go with modules sharded")
    assert first.pop("twice").startswith(
        "problem 'model': cg() differentiates its loss twice, which the module of 'net', sharded by"
    )
    assert first == {}


def as_ranks(ranks: Ranks) -> Ranks:
    """Return what type checkers and the engine take it for."""
    return ranks


def with_ranks(ranks):
    net, plain = network(sharded=True), network(sharded=False)
    upper, everything = torch.ones(4, dtype=torch.float64, requires_grad=True), rows(ROWS)
    found = {}
    known = with_sharded(ranks, [net])
    assert isinstance(known, ShardedRanks)
    assert (as_ranks(known).rank, known.size) == (ranks.rank, ranks.size)
    x, weight = known.slice(everything)
    assert weight == 1
    loss = square(net, x * upper)
    value, means = known.gradients(loss, [upper, *leaves(net), torch.ones(2, requires_grad=True)])
    expected = square(plain, everything * upper)
    found["loss"] = distance([value], [expected])
    found["gradient"] = distance(means, [*reference(expected, [upper, *plain.parameters()]), None])
    nothing, [gradient] = known.gradients(torch.tensor(float(ranks.rank)), [upper])
    assert gradient is None
    found["constant"] = abs(float(nothing) - 0.5)
    scale = net.scale.detach()
    mine = torch.tensor([float(ranks.rank)])
    same, none, mean, absent = known.mean(
        [scale, None, mine, None], like=[scale, scale, mine, mine]
    )
    assert same is scale
    assert none is None
    assert absent is None
    found["mean"] = abs(float(mean) - 0.5)
    assert known.mean([scale]) == [scale]
    # Of a plain parameter beside, the derivative becomes the mean's.
    other = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    given = {**{n: t.detach() for n, t in net.named_parameters()}, "other": other}
    loss = known.everywhere(lambda params: params["other"] * square(net, x), given)
    found["everywhere"] = distance(
        Sharded([net]).gradients(loss, [other]), [square(plain, everything)]
    )
    assert known.everywhere(lambda params: len(params), {"scale": scale}) == 1
    with torch.no_grad():
        net.calls.fill_(ranks.rank + 1)
    held = parts(net)
    known.broadcast(net)
    assert float(net.calls) == 1
    assert all(map(torch.equal, parts(net), held))
    assert known.gathered(ranks.rank) == [0, 1]
    assert with_sharded(ranks, [nn.Linear(1, 1)]) is ranks
    assert with_sharded(None, [nn.Linear(1, 1)]) is None
    return found


def test_ranks_take_a_sharded_tensor_for_the_same_everywhere():
    for found in on_ranks(with_ranks, 2):
        assert max(found.values()) < 1e-14, found


def replicated(ranks):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    net, plain = network(sharded=True, mesh=mesh), network(sharded=False)
    with torch.no_grad():
        for parameter in net.parameters():
            # The second copy starts elsewhere.
            parameter.to_local().add_(float(ranks.rank // 2))
    known = with_sharded(ranks, [net])
    known.broadcast(net)
    everything = rows(8)
    value, means = known.gradients(square(net, own(everything, ranks)), leaves(net))
    expected = square(plain, everything)
    found = [
        distance(list(net.parameters()), list(plain.parameters())),
        distance([value], [expected]),
        distance(means, reference(expected, list(plain.parameters()))),
    ]
    half = network(sharded=True, mesh=mesh["shard"])
    with pytest.raises(ProblemError) as caught:
        with_sharded(ranks, [half])
    return found, str(caught.value)


def test_copies_of_shards_start_alike_and_shards_of_few_ranks_are_refused():
    for found, message in on_ranks(replicated, 4):
        assert max(found) < 1e-14
        assert message == "parameter 'scale' is sharded over 2 processes, expected all 4 ranks"


def test_nothing_changes_where_nothing_is_sharded():
    net = network(sharded=False)
    sharded = Sharded([net])
    assert not sharded
    assert not NOT_SHARDED
    assert layers_of(net) == []
    let_go(net)
    sharded.let_go()
    base = dict(net.named_parameters())
    point = {n: p.detach() + 1 for n, p in base.items()}
    with sharded.standing_at(base, point) as standing:
        assert standing is point
    assert not sharded.keeps(base["scale"], point["scale"], "scale")
    assert not any_sharded(base.values())
    assert not is_sharded(3)
    x = rows(ROWS)
    found = sharded.gradients(square(net, x), [*base.values()])
    assert distance(found, reference(square(net, x), [*base.values()])) == 0


def test_one_process_needs_no_others():
    assert max(on_ranks(read_where_they_stand, 1)) < 1e-14
