"""Simulated rounds: against closed forms, laws, and the picture."""

from dataclasses import replace
from itertools import pairwise

import pytest

from mlo.bench import communication_scaling
from mlo.bench.case import Settings
from mlo.bench.communication_cost import Machine, slowest
from mlo.bench.communication_events import overlapped, simulated
from mlo.bench.communication_models import BACKWARD, MODELS, Layer, Model
from mlo.bench.communication_plot import AS_ASSUMED, scaling
from mlo.bench.communication_scaling import (
    UPPERS,
    Plan,
    Upper,
    efficiency,
    hidden,
    pieces,
    tasks_of,
    upper_of,
)
from mlo.bench.communication_traffic import message

LAYERS = 6
EVEN = Model(
    name="even",
    layers=tuple(Layer(sizes=(1000,), flops=1e9) for _ in range(LAYERS)),
    examples=10,
    unit="row",
)
"""Equal layers, each a bucket of its own below."""


def plan(**changes):
    machine = Machine(flops=1e12, node=8)
    defaults = {"model": EVEN, "ranks": 64, "machine": machine, "bucket_bytes": 4000}
    return Plan(**{**defaults, **changes})


def seconds(given):
    return simulated(tasks_of(given)).seconds


@pytest.mark.parametrize("speed", [1e9, 1e12, 1e16])
def test_a_plain_update_is_the_closed_form_of_overlap(speed):
    given = plan(updates=1, machine=Machine(flops=speed))
    backward = BACKWARD * given.forward
    one = given.reduction(message([1000], 4))
    expected = given.forward + overlapped(backward, one, LAYERS)
    assert seconds(given) == pytest.approx(expected)
    sent = LAYERS * one
    assert hidden(given) == pytest.approx(
        1 - (expected - given.forward - backward) / sent, abs=1e-9
    )


def test_an_upper_step_waits_for_every_reduction():
    upper = Upper(evaluations=5, reductions=3, numbers=7)
    given = plan(updates=0, upper=upper)
    whole = given.reduction(message([1000] * LAYERS, 4))
    last = given.reduction(4 * (8 + 2))
    passes = 6 * (1 + BACKWARD) * given.forward
    # The cotangent, three of the response, and the hypergradient.
    assert seconds(given) == pytest.approx(passes + 4 * whole + last)
    alone = replace(given, upper=replace(upper, reductions=0, is_exact=False))
    assert seconds(alone) == pytest.approx(passes + last)


def test_statistics_are_one_reduction_after_each_update():
    layers = tuple(replace(layer, statistics=(5,)) for layer in EVEN.layers)
    given = plan(model=replace(EVEN, layers=layers), updates=3)
    without = replace(given, shares_statistics=False)
    extra = 3 * given.reduction(message([5] * LAYERS, 4))
    assert seconds(given) - seconds(without) == pytest.approx(extra)


@pytest.mark.parametrize("name", UPPERS)
@pytest.mark.parametrize("model", MODELS)
def test_one_rank_is_all_computation_and_more_ranks_are_never_better(model, name):
    made = MODELS[model]()
    found = [
        efficiency(Plan(model=made, ranks=size, upper=UPPERS[name])) for size in (1, 8, 64, 512)
    ]
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)


def test_overlapping_and_leaving_out_reductions_never_cost_time():
    for make in MODELS.values():
        given = Plan(model=make(), ranks=64, upper=UPPERS["cg(steps=10)"])
        overlapping = replace(given, upper=UPPERS["cg(steps=10), overlapped (not built)"])
        inexact = replace(given, upper=UPPERS["cg(steps=10), one reduction (inexact)"])
        assert seconds(inexact) < seconds(overlapping) < seconds(given)


def test_ranks_wait_for_the_slowest():
    given = plan(updates=1, machine=Machine(slower=0.1))
    even = plan(updates=1, machine=Machine())
    assert given.forward == pytest.approx(slowest(64, 0.1) * even.forward)
    assert efficiency(given) < efficiency(even)


@pytest.mark.parametrize("model", MODELS)
def test_pieces_are_the_whole_backward_pass_and_all_parameters(model):
    made = MODELS[model]()
    found = pieces(made, itemsize=4, bucket_bytes=25 * 2**20)
    assert sum(share for share, _ in found) == pytest.approx(1)
    assert all(share >= 0 for share, _ in found)
    assert sum(size for _, size in found) == message(made.sizes, 4)


def test_upper_steps_are_those_of_the_responses():
    assert upper_of("finite_difference()") == Upper(evaluations=2, reductions=0)
    assert upper_of("value_function(steps=K)", 4) == Upper(evaluations=5, reductions=4)


@pytest.fixture(scope="module")
def simulated_rows(tmp_path_factory):
    """Return the rows of a quick run, and where it drew them."""
    out = tmp_path_factory.mktemp("out")
    return communication_scaling.run(Settings(quick=True, out=out)).rows, out


def test_every_model_response_and_change_has_a_row(simulated_rows):
    rows, out = simulated_rows
    assert (out / "communication_scaling.png").read_bytes().startswith(b"\x89PNG")
    plain = [row for row in rows if row["change"] == AS_ASSUMED]
    assert len(plain) == len(MODELS) * len(UPPERS) * len(communication_scaling.RANKS)
    changed = [(row["model"], row["change"]) for row in rows if row["change"] != AS_ASSUMED]
    assert len(set(changed)) == len(changed)
    # Without BatchNorm there is one less.
    assert [model for model, _ in changed] == ["ResNet-18"] * 12 + ["Swin-T"] * 11 + ["1B"] * 11


def test_every_response_has_a_line_and_names_do_not_overlap(simulated_rows):
    figure = scaling(simulated_rows[0])
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        f"{name}, simulated" for name in MODELS
    ]
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert len(axis.texts) == len(UPPERS)
        boxes = sorted((t.get_window_extent() for t in axis.texts), key=lambda box: box.y0)
        for low, high in pairwise(boxes):
            assert low.y1 <= high.y0 + 1


def test_nothing_is_drawn_of_nothing():
    assert len(scaling([]).axes) == 1
