import pytest
import torch

from mlo.errors import MloError
from mlo.replay.carried import Carried


def test_a_replaced_tensor_comes_back_with_the_new_values():
    memory = {"w": {"x": torch.zeros(2), "y": torch.zeros(1)}}
    held = dict(memory["w"])
    carried = Carried([memory])
    memory["w"] = {"x": torch.ones(2), "y": held["y"]}
    carried.settle()
    assert memory["w"]["x"] is held["x"]
    assert memory["w"]["y"] is held["y"]
    assert held["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("order", ["old new", "new old"])
def test_tensors_may_change_places(order):
    memory = {key: torch.tensor(float(key == "new")) for key in order.split()}
    held = dict(memory)
    carried = Carried([memory])
    memory["old"], memory["new"] = memory["new"], torch.tensor(5.0)
    carried.settle()
    assert (memory["old"], memory["new"]) == (1.0, 5.0)
    assert all(memory[key] is held[key] for key in held)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.zeros(1)}, r"expected \['w', 'count'\], got \['w', 'count', 'v'\]"),
        ({"count": 2}, r"'count' is kept .*expected 1, got 2"),
        ({"w": torch.zeros(3)}, r"'w' is kept from round to round"),
        ({"w": torch.zeros(2).double()}, r"'w' is kept from round to round"),
        ({"w": 3.0}, r"'w' is kept .*got 3.0"),
    ],
)
def test_only_values_of_tensors_may_change(change, message):
    memory = {"w": torch.zeros(2), "count": 1}
    carried = Carried([memory])
    memory.update(change)
    with pytest.raises(MloError, match=message):
        carried.settle()
