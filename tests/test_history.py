import pytest
import torch
from torch import nn

from mlo import ResponseError
from mlo.history import Recorder
from mlo.optimizer_step import step
from mlo.randomness import restore

CPU = torch.device("cpu")


def trained(block, keep, blocks=1, updates=None, make=torch.optim.Adam):
    """Train with a recorder; return what happened before each update, and the recorder."""
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = make([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    recorder = Recorder(block=block, keep=keep)
    seen = []
    for number in range(blocks):
        recorder.begin_block()
        for position in range(block if updates is None else updates):
            recorder.before_update({"w": weight}, optimizer, (number, position), CPU)
            seen.append(weight.detach().clone())
            weight.grad = torch.rand(3).double()
            optimizer.step()
            scheduler.step()
    return seen, weight, optimizer, recorder


def again(recorder, optimizer):
    """Make the recorded updates again, drawing the same gradients."""
    history = recorder.history
    params, state = history.start, history.state
    for update in history.updates:
        restore(update.random_state, CPU)
        given = {"w": torch.rand(3).double()}
        params, state = step(optimizer, params, given, state, update.hyperparameters)
    return params["w"]


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(("block", "keep"), [(1, None), (5, None), (5, 2), (5, 5), (5, 9)])
def test_the_record_leads_to_the_present_parameters(block, keep, blocks):
    seen, weight, optimizer, recorder = trained(block, keep, blocks)
    kept = min(block, keep or block)
    history = recorder.history
    assert [u.batch for u in history.updates] == [
        (blocks - 1, position) for position in range(block - kept, block)
    ]
    assert torch.equal(history.start["w"], seen[-kept])
    assert torch.allclose(again(recorder, optimizer), weight, rtol=1e-13)


def test_hyperparameters_are_those_of_each_update():
    _, _, _, recorder = trained(4, 3)
    rates = [u.hyperparameters["w"]["lr"] for u in recorder.history.updates]
    assert rates == pytest.approx([0.1 * 0.9**k for k in (1, 2, 3)])


def test_nothing_is_recorded_before_the_first_update_that_is_kept():
    assert Recorder(block=3).history is None
    _, _, _, recorder = trained(3, 1, updates=2)
    assert recorder.history is None


def test_a_record_stands_until_it_is_replaced():
    """The level above may ask while a new block has begun."""
    _, weight, optimizer, recorder = trained(3, 1)
    old = recorder.history
    recorder.begin_block()
    recorder.before_update({"w": weight}, optimizer, None, CPU)
    assert recorder.history.updates == old.updates
    assert recorder.history.start is old.start


def test_a_block_that_broke_off_is_forgotten():
    """A round that fails is run again from its beginning."""
    _, weight, optimizer, recorder = trained(3, None, updates=2)
    recorder.begin_block()
    recorder.before_update({"w": weight}, optimizer, "new", CPU)
    assert [u.batch for u in recorder.history.updates] == ["new"]
    assert torch.equal(recorder.history.start["w"], weight)


def test_a_history_does_not_change_afterwards():
    _, weight, optimizer, recorder = trained(2, None)
    history = recorder.history
    start, moment = history.start["w"].clone(), history.state["w"]
    recorder.before_update({"w": weight}, optimizer, "more", CPU)
    weight.grad = torch.ones(3).double()
    optimizer.step()
    assert len(history.updates) == 2
    assert torch.equal(history.start["w"], start)
    assert history.state["w"] is moment


def test_one_copy_of_parameters_and_state_is_kept_whatever_the_number_of_updates():
    _, _, _, recorder = trained(50, 40)
    history = recorder.history
    assert len(history.updates) == 40
    tensors = [history.start["w"], *history.state["w"].values()]
    assert len(tensors) == 4  # parameters, step count, two moments
    assert not any(isinstance(v, torch.Tensor) for v in vars(history.updates[0]).values())


def test_a_block_that_is_longer_than_announced_stays_bounded_and_true():
    _, weight, optimizer, recorder = trained(4, 3, updates=9)
    assert len(recorder.history.updates) <= 3
    assert torch.allclose(again(recorder, optimizer), weight, rtol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "recorder: block must be an integer >= 1, got 0"),
        ({"block": True}, "recorder: block must be an integer >= 1, got True"),
        ({"block": 2, "keep": 0}, "recorder: keep must be an integer >= 1, got 0"),
    ],
)
def test_lengths_out_of_range_are_refused(options, message):
    with pytest.raises(ResponseError, match=message):
        Recorder(**options)
