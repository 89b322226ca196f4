import pytest
import torch

from mlo import MloError
from mlo.device import resolve, synchronous


@pytest.mark.parametrize("name", ["gpuu", "cuda:99", ""])
def test_a_device_that_does_not_exist_is_refused_in_one_line(name):
    message = f"device must be 'auto' or a usable device, got {name!r}: "
    with pytest.raises(MloError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda: torch.device("cuda", index=0)
    )
    assert resolve("auto") == torch.device("cuda:0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert resolve("auto") == torch.device("cpu")


def test_only_a_cpu_can_be_read_for_free():
    assert synchronous(torch.device("cpu"))
    assert not synchronous(torch.device("cuda"))
