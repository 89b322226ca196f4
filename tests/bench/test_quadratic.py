from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.bench import quadratic
from mlo.bench.case import Settings
from mlo.bench.quadratic import Curve, grid, trace
from mlo.bench.quadratic_data import BATCH, BIG, SMALL, Size, blocks, draw
from mlo.bench.quadratic_entries import MLO, PEERS, of_peer, of_response
from mlo.bench.quadratic_peers import amigo, f2sa, soba, stocbio
from mlo.bench.quadratic_programs import Pace, calls_of_round, program
from mlo.bench.quadratic_published import PUBLISHED, Published
from mlo.hypergradient import hypergradient
from mlo.response.implicit import cg, exact

TINY = Size(name="tiny", inner_samples=256, outer_samples=128, inner=6, outer=4)
ALL = torch.arange(256)


def solved(instance, x):
    """Return z*(x) from the mean loss alone, by autograd."""
    rows = torch.arange(instance.size.inner_samples)

    def loss(z):
        return instance.lower.loss(z, x, rows)

    z = torch.zeros(instance.size.inner, dtype=x.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
    hessian = torch.autograd.functional.hessian(loss, z, create_graph=True)
    return z - torch.linalg.solve(hessian, gradient)


def in_double(instance):
    """Return the same instance in float64."""
    parts = {
        side: type(objective)(**{k: v.double() for k, v in vars(objective).items()})
        for side, objective in (("lower", instance.lower), ("upper", instance.upper))
    }
    return type(instance)(size=instance.size, **parts)


def test_the_metric_is_the_gradient_of_the_solved_outer_loss():
    instance = in_double(draw(TINY, seed=0))
    rows = torch.arange(TINY.outer_samples)
    x = torch.randn(TINY.outer, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(instance.upper.loss(solved(instance, x), x, rows), x)
    torch.testing.assert_close(instance.squared_norm(x.detach()), gradient.square().sum())


def test_the_metric_takes_many_points_at_once():
    instance = draw(TINY, seed=0)
    points = torch.randn(3, TINY.outer)
    each = torch.stack([instance.squared_norm(x) for x in points])
    torch.testing.assert_close(instance.squared_norm(points), each)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_products_are_those_of_autograd(seed):
    instance = in_double(draw(TINY, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(TINY.inner, dtype=torch.float64, generator=generator)
    v = torch.randn(TINY.inner, dtype=torch.float64, generator=generator)
    x = torch.randn(TINY.outer, dtype=torch.float64, generator=generator)
    block, rows = slice(64, 128), torch.arange(64, 128)
    for side in (instance.lower, instance.upper):
        at = z.requires_grad_(), x.requires_grad_()
        by_z, by_x = torch.autograd.grad(side.loss(*at, rows), at, create_graph=True)
        along_z, mixed = torch.autograd.grad(by_z @ v, at)
        with torch.no_grad():
            torch.testing.assert_close(side.gradient_inner(*at, block), by_z)
            torch.testing.assert_close(side.gradient_outer(*at, block), by_x)
            torch.testing.assert_close(side.hessian(v, block), along_z)
            torch.testing.assert_close(side.mixed(v, block), mixed)


def test_the_distribution_is_the_published_one():
    size = Size(name="many", inner_samples=1 << 17, outer_samples=64, inner=5, outer=4)
    lower = draw(size, seed=3).lower
    count = size.inner_samples

    def spectrum(factor):
        return torch.linalg.eigvalsh(factor.T @ factor / count)

    expected = torch.logspace(-1, 0, 5)
    torch.testing.assert_close(spectrum(lower.inner), expected, rtol=0.02, atol=0)
    expected = torch.cat([torch.zeros(1), torch.logspace(-1, 0, 3)])
    torch.testing.assert_close(spectrum(lower.outer), expected, rtol=0.02, atol=1e-4)
    cross = torch.linalg.svdvals(lower.cross_outer.T @ lower.cross_inner / count)
    torch.testing.assert_close(cross, torch.full((4,), 0.1), rtol=0.05, atol=0)
    for linear in (lower.linear_inner, lower.linear_outer):
        assert abs(float(linear.std()) - 1) < 0.01


@pytest.mark.parametrize("size", [BIG, SMALL], ids=lambda size: size.name)
def test_the_start_is_as_far_out_as_the_published_one(size):
    # Spread over instances: 10.9 ± 3.0 and 119 ± 13, measured on 20 and 200 of them.
    starts = torch.stack([(i := draw(size, seed=s)).squared_norm(i.start[1]) for s in range(2)])
    published = PUBLISHED[size.name][0].start
    assert 0.5 < float(starts.mean()) / published < 1.5


def test_an_instance_is_decided_by_its_seed():
    one, again, other = (draw(TINY, seed=seed).lower.inner for seed in (1, 1, 2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert not torch.equal(one, other)


def test_blocks_cover_all_rows_in_each_pass_and_change_order():
    rows = torch.cat(list(islice(blocks(256, seed=0), 12))).reshape(3, 256)
    assert rows[0].equal(ALL)
    assert all(each.sort().values.equal(ALL) for each in rows)
    assert not rows[1].equal(rows[2])
    slices = islice(blocks(256, seed=0).slices(), 12)
    assert rows.reshape(12, BATCH).equal(torch.stack([ALL[block] for block in slices]))


# Spread over instances is a third of the value; a wrong sign or step is off by far more.
@pytest.mark.parametrize(
    ("peer", "iterations"),
    [
        (soba(step=0.1, outer_step=0.1), (64, 256, 1024)),
        (stocbio(step=0.1, outer_step=0.1), (64,)),
        (amigo(step=0.01, outer_step=0.1), (64,)),
        (f2sa(step=0.1, outer_step=0.1), (64, 256)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("size", [BIG, SMALL], ids=lambda size: size.name)
def test_peers_follow_the_published_curves(size, peer, iterations):
    instance = draw(size, seed=0)
    (published,) = (each for each in PUBLISHED[size.name] if each.solver == peer.name)
    assert published.calls == peer.calls
    reached = {
        number: float(instance.squared_norm(x) / instance.squared_norm(instance.start[1]))
        for number, (_, x) in enumerate(islice(peer.run(instance, 0), max(iterations)), 1)
        if number in iterations
    }
    for number, value in reached.items():
        assert 0.5 < value / (published.reached[number] / published.start) < 2


@pytest.mark.parametrize("entry", PEERS, ids=lambda entry: f"{entry.solver}-{entry.family}")
def test_peers_count_their_calls(entry, monkeypatch):
    instance, spent = draw(TINY, seed=0), []
    for name in ("hessian", "mixed", "gradient_inner", "gradient_outer"):
        original = getattr(type(instance.lower), name)

        def counted(self, *arguments, original=original, name=name):
            # One outer gradient gives both parts of it.
            if not (self is instance.upper and name == "gradient_outer"):
                spent.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(type(instance.lower), name, counted)
    steps = entry.run(instance, 0, 1000)
    first, _ = next(steps)
    before = len(spent)
    second, _ = next(steps)
    assert second - first == entry.calls
    # In F2SA ∇_x f is at another point than ∇_z f, so it is a call of its own.
    assert len(spent) - before == entry.calls - (entry.solver == "F2SA")


def test_the_program_has_the_closed_form_hypergradient_on_all_samples():
    instance = draw(TINY, seed=0)
    graph = program(instance, exact(), Pace(inner=0.1, outer=0.1), seed=0)
    _, x = instance.start
    best = solved(instance, x)
    with torch.no_grad():
        graph.problem("inner").module.value.copy_(best)
    batches = {"inner": ALL, "outer": torch.arange(TINY.outer_samples)}
    found = hypergradient(graph, "outer", batches).gradient["value"]
    matrix, offset = instance.affine
    torch.testing.assert_close(found.double(), matrix @ x.double() + offset, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", MLO, ids=lambda entry: entry.solver)
def test_every_response_comes_down(entry):
    instance = draw(SMALL, seed=0)
    points = grid(512)
    values, _ = trace(instance, entry.run(instance, 0, 512), 512, points)
    assert values[-1] < 0.02


def test_a_warm_started_system_passes_where_one_step_of_it_stops():
    instance = draw(SMALL, seed=0)
    found = {
        entry.solver.partition("(")[0]: trace(instance, entry.run(instance, 0, 2048), 2048, [2048])
        for entry in MLO
        if entry.solver.startswith(("warm_started", "identity"))
    }
    assert found["warm_started"][0][0] < 0.2 * found["identity"][0][0]


def test_calls_of_a_round_are_counted():
    pace = Pace(inner=0.1, outer=0.1, steps=3)
    # Three inner gradients, the outer one, the gradient under the products, five of them, mixed.
    assert calls_of_round(cg(steps=5), pace) == 3 + 1 + 1 + 5 + 1


def test_a_trace_looks_at_the_last_iteration_before_each_point():
    instance = draw(TINY, seed=0)
    points = [torch.full((TINY.outer,), float(k)) for k in range(4)]
    steps = ((3 * k + 3, x) for k, x in enumerate(points))
    values, _ = trace(instance, steps, 12, [2, 3, 5, 6, 100])
    start = instance.start[1]
    expected = instance.squared_norm(torch.stack([start, points[0], points[0], *points[1::2]]))
    torch.testing.assert_close(
        torch.tensor(values, dtype=torch.float64), expected / instance.squared_norm(start)
    )


def test_a_level_is_reached_when_the_mean_stays_below():
    curve = Curve(
        size="s",
        family="mlo",
        solver="a",
        calls=1,
        points=[1, 2, 4, 8],
        values=[[1.0, 0.1, 0.1, 0.1], [1.0, 0.1, 0.9, 0.1]],
        seconds=None,
        start=1.0,
    )
    assert curve.calls_to(0.2) == 8
    assert curve.calls_to(0.6) == 2
    assert curve.calls_to(0.05) is None


def test_published_levels_are_interpolated():
    curve = Published(solver="s", calls=2, start=1.0, reached={1: 0.1, 100: 0.001})
    assert curve.calls_to(0.5) == 2
    assert curve.calls_to(0.01) == 20
    assert curve.calls_to(1e-4) is None


def test_the_case_runs_and_writes_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(quadratic, "PEERS", PEERS[:1])
    monkeypatch.setattr(quadratic, "MLO", MLO[:1])
    result = quadratic.CASE.run(Settings(quick=True, out=tmp_path))
    families = [row["family"] for row in result.rows]
    assert families == ["published"] * 4 + ["anew", "mlo"]
    assert all(row["calls to 0.1"] for row in result.rows)
    assert (tmp_path / quadratic.CURVES).exists()


def test_entries_do_not_spend_more_than_they_may():
    instance = draw(TINY, seed=0)
    for entry in (
        of_peer(soba(step=0.1, outer_step=0.1), "anew"),
        of_response(cg(steps=2), Pace(inner=0.1, outer=0.1)),
    ):
        assert [calls for calls, _ in entry.run(instance, 0, 20)][-1] <= 20
